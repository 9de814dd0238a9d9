//! What CRIU could not dump, found before anything is frozen.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::cgroup::Cgroups;
use crate::check::{self, Version};
use crate::error::Result;
use crate::limit::Limit;
use crate::node::NodeEnv;
use crate::process::{self, MountInfo};
use crate::runc::{Runc, Status};
use crate::sockets::{self, Socket};
use crate::swrk::Swrk;

/// The first CRIU that dumps ICMP datagram sockets.
const PING_SOCKETS: Version = Version { major: 4, minor: 2, patch: 0 };

/// How often something has to be seen, to be an obstacle.
pub(crate) const LOOKS: usize = 3;
pub(crate) const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// One reason why a container cannot be dumped as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The process, by the host's pid.
    pub pid: i32,
    /// Its name.
    pub process: String,
    /// What it has that cannot be dumped.
    pub what: String,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({}) has {}", self.pid, self.process, self.what)
    }
}

/// Looks for what CRIU is known not to dump, without stopping anything. An empty answer is no promise: what a process
/// does later, and what is rarer than the things looked for, shows in the dump, which then rolls back.
pub fn preflight(env: &NodeEnv, id: &str, limit: &Limit) -> Result<Vec<Obstacle>> {
    let runc = Runc::new(env);
    let container = runc.state(id, limit)?;
    if container.status != Status::Running {
        let status = container.status.to_string();
        return Err(crate::Error::WrongStatus { container: id.into(), status, wanted: "running" });
    }
    let state = runc.state_file(id)?;
    let cgroups = Cgroups::new(env, &state.cgroup_paths());
    let (mut swrk, _) = Swrk::start(env, "check", &[])?;
    let version = check::ask_version(&mut swrk, limit)?;
    let nodes_ipc = namespace("ipc", &env.init_pid().map_or("self".into(), |pid| pid.to_string()));
    let init = process::host_pid(env, state.init_pid()?, &cgroups.freezer()?.pids()?)?;
    let looking = || Ok::<_, crate::Error>(look(&cgroups.freezer()?.pids()?, init, version, &nodes_ipc));
    let mut found = looking()?;
    // It runs: a descriptor that is closed and opened anew while it is looked at seems to be what it is not.
    for _ in 1..LOOKS {
        if found.is_empty() {
            break;
        }
        thread::sleep(BETWEEN_LOOKS);
        let again = looking()?;
        found.retain(|obstacle| again.contains(obstacle));
    }
    Ok(found)
}

/// What there is at one look at its processes.
fn look(pids: &[i32], init: i32, version: Version, nodes_ipc: &Option<PathBuf>) -> Vec<Obstacle> {
    let mut found = Vec::new();
    for &pid in pids {
        // A process that ends meanwhile is no obstacle.
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let mut whats = of_process(pid, version).unwrap_or_default();
        whats.extend(foreign_namespaces(pid, init));
        whats.extend(mappings(pid, nodes_ipc));
        found.extend(whats.into_iter().map(|what| Obstacle { pid, process: name.trim().into(), what }));
    }
    found
}

fn of_process(pid: i32, version: Version) -> Result<Vec<String>> {
    let sockets = sockets::of_process(pid)?;
    let mut found: Vec<String> = sockets.iter().filter_map(|s| socket(s, version)).collect();
    let mounts = process::mounts(pid)?;
    for (number, link) in process::descriptors(pid) {
        if let Some(what) = descriptor(pid, number, &link, &mounts) {
            found.push(what);
        }
    }
    let tracer = process::status_line(pid, "TracerPid:")?;
    if tracer != "0" {
        found.push(format!("a tracer, process {tracer} (a debugger or strace)"));
    }
    Ok(found)
}

/// Namespaces that a process has for itself, of the kinds that CRIU knows one of in a container.
fn foreign_namespaces(pid: i32, init: i32) -> Vec<String> {
    let differs = |kind: &&str| {
        let (its, the_containers) = (namespace(kind, &pid.to_string()), namespace(kind, &init.to_string()));
        its.is_some() && the_containers.is_some() && its != the_containers
    };
    let kinds = ["user", "pid", "ipc", "uts", "cgroup", "time"].into_iter().filter(differs);
    kinds.map(|kind| format!("a {kind} namespace of its own inside the container, which CRIU cannot dump")).collect()
}

fn namespace(kind: &str, pid: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// Why mappings cannot be dumped.
fn mappings(pid: i32, nodes_ipc: &Option<PathBuf>) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let names = || maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5));
    let mut found = Vec::new();
    if names().any(|name| name == "/secretmem") {
        found.push("secret memory (memfd_secret), which nobody else can read".into());
    }
    if names().any(|name| name.starts_with("/SYSV")) && namespace("ipc", &pid.to_string()) == *nodes_ipc {
        found.push("shared memory of System V in the node's ipc namespace: it needs one of its own".into());
    }
    found
}

/// Why a socket cannot be dumped. Raw sockets can, whatever is often said: CRIU carries their protocol and filter.
fn socket(socket: &Socket, version: Version) -> Option<String> {
    let unsupported = |what: &str| Some(format!("{what} (descriptor {})", socket.number));
    if socket.is_inet() {
        return match (socket.kind, socket.protocol) {
            (_, libc::IPPROTO_SCTP) => unsupported("an SCTP socket, which CRIU cannot dump"),
            (_, libc::IPPROTO_MPTCP) => unsupported("an MPTCP socket, which CRIU cannot dump"),
            (libc::SOCK_DGRAM, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) if version < PING_SOCKETS => {
                unsupported(&format!("an ICMP (ping) socket, which CRIU {version} cannot dump ({PING_SOCKETS} can)"))
            }
            (libc::SOCK_DGRAM, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) | (libc::SOCK_RAW, _) => None,
            (libc::SOCK_STREAM, libc::IPPROTO_TCP) => None,
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => None,
            (_, protocol) => unsupported(&format!("a socket of IP protocol {protocol}, which CRIU cannot dump")),
        };
    }
    match socket.domain {
        libc::AF_UNIX | libc::AF_NETLINK | libc::AF_PACKET => None,
        libc::AF_VSOCK => unsupported("a vsock socket, which CRIU cannot dump"),
        libc::AF_ALG => unsupported("a kernel crypto (AF_ALG) socket, which CRIU cannot dump"),
        family => unsupported(&format!("a socket of family {family}, which CRIU cannot dump")),
    }
}

/// Why another descriptor cannot be dumped.
fn descriptor(pid: i32, number: i32, link: &Path, mounts: &[MountInfo]) -> Option<String> {
    let text = link.to_string_lossy();
    let with = |what: &str| Some(format!("{what} (descriptor {number}, {text})"));
    if let Some(kind) = text.strip_prefix("anon_inode:") {
        return match kind.trim_matches(['[', ']']) {
            "io_uring" => with("an io_uring, which CRIU cannot dump"),
            "userfaultfd" => with("a userfaultfd, which CRIU cannot dump"),
            "perf_event" => with("a perf event, which CRIU cannot dump"),
            "fanotify" | "eventpoll" | "eventfd" | "signalfd" | "inotify" | "timerfd" | "pidfd" => None,
            "bpf-map" | "bpf-prog" | "bpf-link" | "btf" => with("a BPF object, which CRIU cannot dump"),
            kind if kind.starts_with("kvm") => with("a virtual machine (KVM), which CRIU cannot dump"),
            _ => None,
        };
    }
    if !text.starts_with('/') {
        return None;
    }
    if text.starts_with("/dev/pts/") || text == "/dev/tty" || text.starts_with("/dev/tty") || text == "/dev/console" {
        return with("a terminal, which belongs to a session outside the container");
    }
    if is_foreign_device(pid, number) {
        return with("an open device, which CRIU cannot dump");
    }
    // The mount that a descriptor was opened on; a descriptor from outside is on one that the container has not.
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
    let mount = info.lines().find_map(|l| l.strip_prefix("mnt_id:"))?.trim().parse::<i32>().ok()?;
    if !mounts.iter().any(|m| m.id == mount) && !is_null(pid, number) {
        return with("a file from outside the container");
    }
    None
}

fn device(pid: i32, number: i32) -> Option<(u32, u32, bool)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::metadata(format!("/proc/{pid}/fd/{number}")).ok()?;
    let kind = meta.file_type();
    let is_device = kind.is_char_device() || kind.is_block_device();
    is_device.then(|| (libc::major(meta.rdev()), libc::minor(meta.rdev()), kind.is_char_device()))
}

/// Character devices of major 1 (null, zero, full, random, urandom) have no state; all others are outside.
fn is_foreign_device(pid: i32, number: i32) -> bool {
    device(pid, number).is_some_and(|(major, minor, char)| !(char && major == 1 && minor != 1 && minor != 2))
}

/// runc opens /dev/null outside for the standard streams and then the container's own in its place; CRIU accepts it.
fn is_null(pid: i32, number: i32) -> bool {
    device(pid, number) == Some((1, 3, true))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn one(domain: i32, kind: i32, protocol: i32) -> Option<String> {
        let fd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        socket(&Socket { number: 3, fd, domain, kind, protocol }, check::OLDEST)
    }

    #[test]
    fn sockets_that_cannot_be_dumped_are_named() {
        let sctp = one(libc::AF_INET, libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP).unwrap();
        assert_eq!(sctp, "an SCTP socket, which CRIU cannot dump (descriptor 3)");
        assert!(one(libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_MPTCP).unwrap().contains("MPTCP"));
        let ping = one(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP).unwrap();
        assert_eq!(ping, "an ICMP (ping) socket, which CRIU 4.1 cannot dump (4.2 can) (descriptor 3)");
    }

    #[test]
    fn ordinary_sockets_are_no_obstacle() {
        assert_eq!(one(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP), None);
        assert_eq!(one(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP), None);
        assert_eq!(one(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP), None);
        assert_eq!(one(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0), None);
    }
}
