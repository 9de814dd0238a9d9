//! `godwit checkpoint inspect`: what is in a checkpoint.

use std::path::Path;
use std::process::ExitCode;

use godwit_checkpoint::{Format, Inspected, Process, inspect};
use godwit_model::Bytes;

use crate::failure::{Fail, Result};

pub fn run(path: &Path, json: bool) -> Result {
    let inspected = inspect(path).bad_input()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&inspected)?);
    } else {
        print!("{}", table(path, &inspected));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(path: &Path, it: &Inspected) -> String {
    let version = it.version.map_or(String::new(), |version| format!(", format {version}"));
    let checked = match it.format {
        Format::Kubelet => "whole as far as can be seen; it has no digests",
        Format::Godwit | Format::Oci => "whole; every digest is right",
    };
    let mut text = format!("{}: {}{version}; {checked}\n\n", path.display(), it.format);
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{name:<11}{value}\n"));
        }
    };
    line("workload", &it.workload);
    line("containers", &it.containers.join(", "));
    line("command", &it.command.join(" "));
    line("image", &it.image);
    line("id", &it.id);
    line("created", &it.created);
    line("by", &it.creator);
    line("service", it.service.as_deref().unwrap_or_default());
    if let Some(host) = &it.host {
        line("host", &format!("{}, Linux {}, CRIU {}, cgroup v{}", host.arch, host.kernel, host.criu, host.cgroup));
    }
    if let (Some(stopped), Some(frozen)) = (it.stopped, it.frozen_ms) {
        let then = if stopped { "then it was ended" } else { "then it ran on" };
        line("stood", &format!("{frozen:.0} ms, {then}"));
    }
    text.push_str("\nPROCESSES\n  PID     PPID    THREADS   MEMORY      COMMAND\n");
    for process in &it.processes {
        text.push_str(&format!(
            "  {:<6}  {:<6}  {:<8}  {:<10}  {}{}\n",
            process.pid,
            process.parent,
            process.threads,
            Bytes(process.memory_bytes).to_string(),
            "  ".repeat(depth(&it.processes, process)),
            process.name
        ));
    }
    if !it.sockets.is_empty() {
        text.push_str("\nSOCKETS\n  KIND    STATE         LOCAL                   REMOTE\n");
        for socket in &it.sockets {
            let row = format!("  {:<6}  {:<12}  {:<22}  {}", socket.kind, socket.state, socket.local, socket.remote);
            text.push_str(row.trim_end());
            text.push('\n');
        }
    }
    text.push_str("\nMOUNTS\n  DESTINATION             TYPE        SOURCE\n");
    for [destination, kind, source] in &it.mounts {
        text.push_str(&format!("  {destination:<22}  {kind:<10}  {source}\n"));
    }
    text.push_str("\nSIZE\n");
    let size = &it.size;
    for (name, bytes) in [
        ("memory pages", size.memory_bytes),
        ("files of tmpfs mounts", size.tmpfs_bytes),
        ("state of processes", size.state_bytes),
        ("writable layer", size.layer_bytes),
        ("the file", size.file_bytes),
    ] {
        text.push_str(&format!("  {name:<22}  {}\n", Bytes(bytes)));
    }
    text
}

/// How many ancestors a process has; the list has parents first.
fn depth(all: &[Process], process: &Process) -> usize {
    let mut depth = 0;
    let mut at = process;
    while let Some(parent) = all.iter().find(|p| p.pid == at.parent && p.pid != at.pid) {
        depth += 1;
        at = parent;
        if depth > all.len() {
            break;
        }
    }
    depth
}
