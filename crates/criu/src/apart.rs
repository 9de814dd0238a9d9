//! Several containers of one workload, each with a dump of its own: what they share, and no dump of one of them can carry.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::cgroup::{Cgroups, Freezer};
use crate::error::{Context, Result};
use crate::limit::Limit;
use crate::node::{NodeEnv, in_thread, open_ns};
use crate::preflight::{BETWEEN_LOOKS, LOOKS, Obstacle, preflight};
use crate::process;
use crate::runc::Runc;
use crate::unix_diag;

/// One of the containers.
struct One<'a> {
    id: &'a str,
    freezer: Freezer,
    /// Its first process, as we see it.
    init: i32,
    shares_ipc: bool,
}

/// [`preflight`] of all containers of a workload; more than one must not have anything in common but files, and namespaces of
/// the network, of host names and of IPC with nothing in it.
pub fn preflight_all(env: &NodeEnv, ids: &[&str], limit: &Limit) -> Result<Vec<Obstacle>> {
    let mut found = Vec::new();
    for id in ids {
        found.extend(preflight(env, id, limit)?);
    }
    if ids.len() < 2 {
        return Ok(found);
    }
    let containers = ids.iter().map(|id| One::find(env, id)).collect::<Result<Vec<_>>>()?;
    let mut shared = look(&containers)?;
    // They run: what is closed and made anew meanwhile may have the same number.
    for _ in 1..LOOKS {
        if shared.is_empty() {
            break;
        }
        thread::sleep(BETWEEN_LOOKS);
        let again = look(&containers)?;
        shared.retain(|obstacle| again.contains(obstacle));
    }
    found.extend(shared);
    Ok(found)
}

impl<'a> One<'a> {
    fn find(env: &NodeEnv, id: &'a str) -> Result<Self> {
        let state = Runc::new(env).state_file(id)?;
        let freezer = Cgroups::new(env, &state.cgroup_paths()).freezer()?;
        let init = process::host_pid(env, state.init_pid()?, &freezer.pids()?)?;
        Ok(Self { id, freezer, init, shares_ipc: state.joined().contains(&"ipc") })
    }
}

fn obstacle(pid: i32, what: String) -> Obstacle {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Obstacle { pid, process: name.trim().into(), what }
}

fn look(containers: &[One<'_>]) -> Result<Vec<Obstacle>> {
    let mut found = Vec::new();
    // By what the kernel calls it: whose it is.
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut sockets: BTreeMap<u32, (usize, i32)> = BTreeMap::new();
    for (number, container) in containers.iter().enumerate() {
        for pid in container.freezer.pids()? {
            for (key, what) in shareable(pid) {
                let owner = *known.entry(key.clone()).or_insert(number);
                if owner != number {
                    let what = format!("{what} that container {} has too", containers[owner].id);
                    found.push(obstacle(pid, what));
                }
                sockets.extend(socket(&key).map(|inode| (inode, (number, pid))));
            }
        }
    }
    for (one, other) in unix_diag::peers(&open_ns(containers[0].init, "net")?)? {
        if let (Some((owner, pid)), Some((peer, _))) = (sockets.get(&one), sockets.get(&other))
            && owner != peer
        {
            let what = format!(
                "a unix socket that is connected to container {}, which no dump of one of them can carry: use TCP over localhost",
                containers[*peer].id
            );
            found.push(obstacle(*pid, what));
        }
    }
    if let Some(container) = containers.iter().find(|container| container.shares_ipc) {
        let what = |kind| {
            format!("{kind} of System V in the IPC namespace that the containers share, which CRIU cannot carry")
        };
        found.extend(system_v(container.init)?.into_iter().map(|kind| obstacle(container.init, what(kind))));
    }
    found.dedup();
    Ok(found)
}

/// What a process has that another could have too, and that is not a file: a name for it, and what it is.
fn shareable(pid: i32) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for (number, link) in process::descriptors(pid) {
        let text = link.to_string_lossy();
        if text.starts_with("pipe:[") {
            found.push((text.into(), "a pipe"));
        } else if text.starts_with("socket:[") {
            found.push((text.into(), "a socket"));
        } else if let Ok(meta) = fs::metadata(format!("/proc/{pid}/fd/{number}")) {
            let key = format!("{}:{}", meta.dev(), meta.ino());
            if meta.file_type().is_fifo() {
                found.push((key, "a named pipe"));
            } else if text.starts_with("/memfd:") {
                found.push((key, "a memory file (memfd)"));
            }
        }
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    found.extend(maps.lines().filter_map(shared_mapping).map(|key| (key, "shared memory")));
    found.sort_unstable();
    found.dedup();
    found
}

/// `START-END PERMS OFFSET DEV INODE NAME`: the name of what is mapped shared and is no file (any more).
fn shared_mapping(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (permissions, device, inode, name) = (fields.get(1)?, fields.get(3)?, fields.get(4)?, fields.get(5)?);
    let nameless = ["/memfd:", "/dev/zero", "/SYSV"].iter().any(|begin| name.starts_with(begin));
    let deleted = fields.last() == Some(&"(deleted)") && Path::new(name).is_absolute();
    (permissions.ends_with('s') && (nameless || deleted)).then(|| format!("mapped {device} {inode}"))
}

/// The inode of `socket:[77]`.
fn socket(key: &str) -> Option<u32> {
    key.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// What there is in the IPC namespace of a process.
fn system_v(pid: i32) -> Result<Vec<&'static str>> {
    let ns = open_ns(pid, "ipc")?;
    in_thread(|| {
        setns(&ns, CloneFlags::CLONE_NEWIPC).context(|| "enter an IPC namespace".into())?;
        let there = |kind: &str| {
            let text = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
            text.lines().count() > 1
        };
        let kinds = [("shm", "shared memory"), ("sem", "semaphores"), ("msg", "message queues")];
        Ok(kinds.into_iter().filter(|(kind, _)| there(kind)).map(|(_, name)| name).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_mappings_without_a_file_are_told_from_those_of_files() {
        let mapped = |line| shared_mapping(line).is_some();
        assert!(mapped("7f02-7f03 rw-s 00000000 00:01 19                  /dev/zero (deleted)"));
        assert!(mapped("7f02-7f03 rw-s 00000000 00:01 20                  /memfd:x (deleted)"));
        assert!(mapped("7f02-7f03 rw-s 00000000 00:01 0                   /SYSV00000000 (deleted)"));
        assert!(mapped("7f02-7f03 rw-s 00000000 08:01 77                  /data/a b (deleted)"));
        assert!(!mapped("7f02-7f03 rw-s 00000000 08:01 77                  /data/a"));
        assert!(!mapped("7f02-7f03 rw-p 00000000 00:01 20                  /memfd:x (deleted)"));
        assert!(!mapped("7f02-7f03 rw-s 00000000 00:00 0 "));
    }

    #[test]
    fn a_pipe_of_this_process_has_the_same_name_at_its_two_ends() {
        let (_read, _write) = nix::unistd::pipe().unwrap();
        let pipes = shareable(std::process::id().cast_signed());
        assert!(pipes.iter().any(|(_, what)| *what == "a pipe"), "{pipes:?}");
    }
}
