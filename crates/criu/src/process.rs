//! Looking at processes through the host's /proc.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::node::NodeEnv;

/// The host's pid of the process that the node knows as `pid`, searched among `candidates` (the host's pids).
pub(crate) fn host_pid(env: &NodeEnv, pid: i32, candidates: &[i32]) -> Result<i32> {
    let Some(init) = env.init_pid() else { return Ok(pid) };
    // NSpid lists a process's pids from our namespace inwards; the node's init has its own as the last.
    let depth = ns_pids(init)?.len();
    let found = candidates.iter().find(|c| ns_pids(**c).is_ok_and(|pids| pids.get(depth - 1) == Some(&pid)));
    found.copied().ok_or_else(|| Error::BadFile {
        path: format!("/proc/{init}/root/proc/{pid}").into(),
        message: "the container's first process is not in its cgroup".into(),
    })
}

/// The pid by which the node knows the host's process `host_pid`.
pub(crate) fn node_pid(env: &NodeEnv, host_pid: i32) -> Result<i32> {
    let Some(init) = env.init_pid() else { return Ok(host_pid) };
    let depth = ns_pids(init)?.len();
    ns_pids(host_pid)?.get(depth - 1).copied().ok_or_else(|| Error::BadFile {
        path: format!("/proc/{host_pid}").into(),
        message: "not a process of the node".into(),
    })
}

/// A process of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its pid as this process sees it.
    pub host_pid: i32,
    /// Its pid as it sees itself: the one that CRIU's images name it by.
    pub pid: i32,
}

/// The processes among `candidates` (the host's pids) that are still there, zombies included.
pub(crate) fn members(candidates: &[i32]) -> Vec<Member> {
    let member = |host_pid: &i32| Some(Member { host_pid: *host_pid, pid: *ns_pids(*host_pid).ok()?.last()? });
    candidates.iter().filter_map(member).collect()
}

/// Whether `pid` is `ancestor` or one of its descendants.
pub(crate) fn comes_from(pid: i32, ancestor: i32) -> bool {
    let mut at = pid;
    while at > 1 {
        if at == ancestor {
            return true;
        }
        at = status_line(at, "PPid:").ok().and_then(|p| p.parse().ok()).unwrap_or(0);
    }
    false
}

fn ns_pids(pid: i32) -> Result<Vec<i32>> {
    let text = status_line(pid, "NSpid:")?;
    Ok(text.split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect())
}

/// The rest of the line of /proc/PID/status that begins with `key`.
pub(crate) fn status_line(pid: i32, key: &str) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.map(|l| l.trim().to_owned())
        .ok_or_else(|| Error::BadFile { path: path.into(), message: format!("it has no {key}") })
}

/// Whether some of the memory of `pid` waits for a userfaultfd. None when it has no memory any more.
pub(crate) fn awaits_memory(pid: i32) -> Option<bool> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).ok().filter(|text| !text.is_empty())?;
    let flags = |line: &str| line.strip_prefix("VmFlags:").is_some_and(|flags| flags.split(' ').any(|f| f == "um"));
    Some(text.lines().any(flags))
}

/// When a process was started, in clock ticks since boot. `proc_dir` is its directory in some /proc.
pub(crate) fn start_ticks(proc_dir: &Path) -> Result<u64> {
    let path = proc_dir.join("stat");
    let text = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
    // The name, in parentheses, may hold anything; field 22 is the 20th after it.
    let after = text.rsplit_once(')').map(|(_, rest)| rest);
    after
        .and_then(|rest| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Error::BadFile { path, message: "it has no start time".into() })
}

/// The descriptors of a process and where they lead, e.g. `socket:[77]`. A process that is gone has none.
pub(crate) fn descriptors(pid: i32) -> Vec<(i32, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let fd = entry.file_name().to_str()?.parse().ok()?;
            Some((fd, fs::read_link(entry.path()).ok()?))
        })
        .collect()
}

/// One line of /proc/PID/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountInfo {
    pub id: i32,
    /// Which part of the file system is mounted: `/` is all of it.
    pub root: String,
    pub mountpoint: String,
    pub fstype: String,
}

/// The mounts that a process sees.
pub(crate) fn mounts(pid: i32) -> Result<Vec<MountInfo>> {
    let path = format!("/proc/{pid}/mountinfo");
    let text = fs::read_to_string(&path).context(|| format!("read {path}"))?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

fn parse_mount(line: &str) -> Option<MountInfo> {
    let (front, back) = line.split_once(" - ")?;
    let front: Vec<&str> = front.split(' ').collect();
    Some(MountInfo {
        id: front.first()?.parse().ok()?,
        root: unescape(front.get(3)?),
        mountpoint: unescape(front.get(4)?),
        fstype: back.split(' ').next()?.to_owned(),
    })
}

/// The kernel writes space, tab, newline and backslash as octal escapes.
fn unescape(text: &str) -> String {
    let replaced = text.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\012", "\n");
    replaced.replace(r"\134", r"\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_with_and_without_optional_fields() {
        let plain = r"36 35 0:29 /app/root\040fs / rw,relatime - overlay overlay rw,lowerdir=/l";
        let shared = "40 36 0:30 / /tmp rw,nosuid shared:5 master:1 - tmpfs tmpfs rw";
        let mount = parse_mount(plain).unwrap();
        assert_eq!((mount.id, mount.root.as_str(), mount.fstype.as_str()), (36, "/app/root fs", "overlay"));
        assert_eq!(parse_mount(shared).unwrap().mountpoint, "/tmp");
    }

    #[test]
    fn our_own_start_time_can_be_read() {
        assert!(start_ticks(Path::new("/proc/self")).unwrap() > 0);
    }
}
