//! What goes on inside a testbed's nodes, seen from the host.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::call::{Call, Ran};

/// A process of this machine.
#[derive(Debug, Clone)]
pub struct Process {
    /// By the host's numbers.
    pub pid: i32,
    /// Its short name.
    pub name: String,
    /// Its command line; empty when it is on its way out.
    pub args: Vec<String>,
    /// `/proc/PID/cgroup`.
    pub cgroups: String,
    /// Its number in the innermost pid namespace.
    pub inner_pid: i32,
    /// R, S, T …
    pub state: char,
}

/// All processes, but zombies and this one.
pub fn processes() -> Vec<Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).filter(|p| p.state != 'Z' && p.pid != std::process::id() as i32).collect()
}

fn process(pid: i32) -> Option<Process> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let args = fs::read(dir.join("cmdline")).ok()?;
    let args = args.split(|byte| *byte == 0).filter(|arg| !arg.is_empty());
    let args = args.map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
    Some(Process {
        pid,
        name: field("Name:")?.trim().to_owned(),
        args,
        cgroups: fs::read_to_string(dir.join("cgroup")).ok()?,
        inner_pid: field("NSpid:")?.split_whitespace().last()?.parse().ok()?,
        state: field("State:")?.trim().chars().next()?,
    })
}

/// A node of a testbed.
#[derive(Debug, Clone)]
pub struct Node {
    testbed: String,
    name: String,
}

impl Node {
    /// Of a running testbed.
    pub fn new(testbed: &str, name: &str) -> Self {
        Self { testbed: testbed.into(), name: name.into() }
    }

    fn group(&self) -> String {
        format!("/godwit-{}/{}", self.testbed, self.name)
    }

    /// All its processes.
    pub fn processes(&self) -> Vec<Process> {
        let below = format!("{}/", self.group());
        processes().into_iter().filter(|process| process.cgroups.contains(&below)).collect()
    }

    /// The processes of a workload's copy on it.
    pub fn copy_of(&self, workload: &str) -> Vec<Process> {
        let group = format!("{}/workload-{workload}", self.group());
        // Those of several containers are in groups below it.
        let below = format!("{group}/");
        let is_in =
            |process: &Process| process.cgroups.lines().any(|line| line.ends_with(&group) || line.contains(&below));
        self.processes().into_iter().filter(is_in).collect()
    }

    /// The CRIU workers on it.
    pub fn criu(&self) -> Vec<Process> {
        self.processes().into_iter().filter(|process| process.name == "criu").collect()
    }

    /// Its first process.
    pub fn init(&self) -> i32 {
        let is_init = |p: &Process| p.inner_pid == 1 && p.args.get(1).is_some_and(|arg| arg == "node-init");
        self.processes().iter().find(|p| is_init(p)).expect("the node runs").pid
    }

    /// Runs something inside.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let init = self.init().to_string();
        let enter = ["--target", &init, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"];
        let mut all: Vec<std::ffi::OsString> = enter.iter().map(Into::into).collect();
        all.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        Call::of("nsenter", all).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").run()
    }

    /// Runs a script of the shell inside; it must end well. Returns what it printed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run(["sh", "-c", script]).code(0).out
    }

    /// What its runc knows: name and status of each container.
    pub fn containers(&self) -> Vec<(String, String)> {
        // It has no directory of its own before it has had a container.
        let list = self.sh("test ! -d /run/runc || runc list --format json");
        let list: Value = serde_json::from_str(&list).unwrap_or_default();
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        list.as_array().into_iter().flatten().map(|c| (text(c, "id"), text(c, "status"))).collect()
    }

    /// What is there of the images of migrations.
    pub fn images(&self) -> String {
        self.sh("ls -A /var/lib/godwit/state/images 2>/dev/null || true")
    }

    /// A path of the node as the host sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init()))
    }
}

/// Sends a process a signal; false when it is gone.
pub fn signal(process: &Process, signal: Signal) -> bool {
    kill(Pid::from_raw(process.pid), signal).is_ok()
}
