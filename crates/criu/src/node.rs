//! Where commands run: in the namespaces, cgroups and root of an edge node.
//!
//! A node is known by the host's pid of its init process. Commands for it are direct children of this process
//! (so that their pids are ours to kill and to wait for) that were born in the node's pid namespace, join its
//! other namespaces and cgroups, and then exec: one fork and no `nsenter` in between.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::poll::PollFlags;
use nix::sched::{CloneFlags, setns};

use crate::error::{Context, Error, Result};
use crate::limit::Limit;
use crate::sys;

/// Programs are looked for here, in the node's own root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The namespaces, cgroups and root that a command gets.
///
/// ```no_run
/// use godwit_criu::{Limit, NodeEnv};
/// # fn main() -> godwit_criu::Result<()> {
/// let edge1 = NodeEnv::node(4711).in_cgroups(["/sys/fs/cgroup/memory/tb/edge1"]);
/// let list = edge1.command("runc").arg("list").output(&Limit::seconds(5))?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct NodeEnv {
    init: Option<i32>,
    netns: Option<PathBuf>,
    joined: Vec<(&'static str, PathBuf)>,
    cgroups: Vec<PathBuf>,
}

impl NodeEnv {
    /// This process's own surroundings.
    pub fn host() -> Self {
        Self { init: None, netns: None, joined: Vec::new(), cgroups: Vec::new() }
    }

    /// The mount, pid, uts, ipc and network namespaces and the root of the process `init` (a pid as this process
    /// sees it), which has to be the first process of its pid namespace.
    pub fn node(init: i32) -> Self {
        Self { init: Some(init), netns: None, joined: Vec::new(), cgroups: Vec::new() }
    }

    /// The same, but in the network namespace at `path` (a path of the host, e.g. `/run/netns/x` or `/proc/1/ns/net`).
    pub fn in_netns(&self, path: impl Into<PathBuf>) -> Self {
        Self { netns: Some(path.into()), ..self.clone() }
    }

    /// The same, but in the network namespace of the process `pid`, and in those others (`ipc`, `uts`) of it that are `given`.
    pub(crate) fn beside(&self, pid: i32, given: &[&'static str]) -> Self {
        let others = given.iter().filter(|kind| **kind != "net");
        let joined = others.map(|kind| (*kind, PathBuf::from(format!("/proc/{pid}/ns/{kind}")))).collect();
        Self { joined, ..self.in_netns(format!("/proc/{pid}/ns/net")) }
    }

    /// The same, but in these cgroups: directories of the host, one a hierarchy (v1) or one (v2). They replace
    /// those that were set before.
    pub fn in_cgroups<I>(&self, dirs: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<PathBuf>,
    {
        Self { cgroups: dirs.into_iter().map(Into::into).collect(), ..self.clone() }
    }

    /// The host's pid of the node's init; none for [`NodeEnv::host`].
    pub fn init_pid(&self) -> Option<i32> {
        self.init
    }

    /// Where the host finds the node's file `inside`. Symbolic links with absolute targets on the way lead astray.
    pub fn host_path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        match self.init {
            None => inside.to_path_buf(),
            Some(pid) => Path::new(&format!("/proc/{pid}/root")).join(inside.strip_prefix("/").unwrap_or(inside)),
        }
    }

    /// A command to run here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> NodeCommand {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        NodeCommand { env: self.clone(), command, fds: Vec::new() }
    }

    /// Runs `work` on a thread of its own in the node's mount namespace.
    pub(crate) fn in_mount_namespace<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(init) = self.init else { return work() };
        let ns = open_ns(init, "mnt")?;
        in_thread(|| {
            enter_mount_ns(&ns)?;
            work()
        })
    }

    fn entry(&self, fds: Vec<OwnedFd>) -> Result<sys::Entry> {
        let procs = |dir: &PathBuf| {
            let path = dir.join("cgroup.procs");
            sys::c_path(&path).context(|| format!("use cgroup {}", dir.display()))
        };
        let mut entry = sys::Entry {
            cgroup_procs: self.cgroups.iter().map(procs).collect::<Result<_>>()?,
            namespaces: Vec::new(),
            root: None,
            fds,
        };
        // Opened by paths of the host, so before anything is entered; the network first, since its path may be
        // in our /proc.
        match (&self.netns, self.init) {
            (Some(path), _) => entry.namespaces.push(open(path)?),
            (None, Some(init)) => entry.namespaces.push(open_ns(init, "net")?),
            (None, None) => {}
        }
        for name in ["uts", "ipc"] {
            match (self.joined.iter().find(|(kind, _)| *kind == name), self.init) {
                (Some((_, path)), _) => entry.namespaces.push(open(path)?),
                (None, Some(init)) => entry.namespaces.push(open_ns(init, name)?),
                (None, None) => {}
            }
        }
        if let Some(init) = self.init {
            entry.namespaces.push(open_ns(init, "mnt")?);
            entry.root = Some(open(Path::new(&format!("/proc/{init}/root")))?);
        }
        Ok(entry)
    }
}

/// Runs `work` on a thread of its own, so that it may change what belongs to a thread.
pub(crate) fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Moves the calling thread (one of [`in_thread`]) into a mount namespace.
pub(crate) fn enter_mount_ns(ns: &OwnedFd) -> Result<()> {
    // setns refuses a mount namespace to a thread that shares its root and working directory.
    nix::sched::unshare(CloneFlags::CLONE_FS).context(|| "unshare the working directory".into())?;
    setns(ns, CloneFlags::CLONE_NEWNS).context(|| "enter a mount namespace".into())
}

pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    File::open(path).map(OwnedFd::from).context(|| format!("open {}", path.display()))
}

pub(crate) fn open_ns(pid: i32, name: &str) -> Result<OwnedFd> {
    open(Path::new(&format!("/proc/{pid}/ns/{name}")))
}

/// A command for a [`NodeEnv`]: an environment with only a `PATH`, all three standard streams `/dev/null`.
#[derive(Debug)]
pub struct NodeCommand {
    env: NodeEnv,
    command: Command,
    fds: Vec<OwnedFd>,
}

impl NodeCommand {
    /// One argument more.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Several arguments more.
    pub fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.command.args(args);
        self
    }

    /// An environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Standard input.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command.stdin(stdio);
        self
    }

    /// Standard output; [`NodeCommand::output`] replaces it.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command.stdout(stdio);
        self
    }

    /// Standard error; [`NodeCommand::output`] replaces it.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.command.stderr(stdio);
        self
    }

    /// As the leader of a process group of its own.
    pub(crate) fn group_of_its_own(mut self) -> Self {
        self.command.process_group(0);
        self
    }

    /// Hands a duplicate of a descriptor on, and says under which number the program finds it.
    pub fn fd(&mut self, fd: impl AsFd) -> Result<RawFd> {
        let copy = fd.as_fd().try_clone_to_owned().context(|| "duplicate a descriptor".into())?;
        let number = copy.as_raw_fd();
        self.fds.push(copy);
        Ok(number)
    }

    /// Starts it.
    pub fn spawn(self) -> Result<NodeChild> {
        let Self { env, mut command, fds } = self;
        let program = command.get_program().to_string_lossy().into_owned();
        let entry = env.entry(fds)?;
        sys::enter_before_exec(&mut command, entry);
        let child = match env.init {
            None => command.spawn().context(|| format!("start {program}"))?,
            Some(init) => {
                let pid_ns = open_ns(init, "pid")?;
                // The pid namespace of children is a property of the thread: a thread of its own leaves the
                // rest of this process alone.
                in_thread(|| {
                    setns(&pid_ns, CloneFlags::CLONE_NEWPID).context(|| "enter a pid namespace".into())?;
                    command.spawn().context(|| format!("start {program} in the node of process {init}"))
                })?
            }
        };
        let pidfd = sys::pidfd_open(child.id() as i32).context(|| format!("watch {program}"))?;
        Ok(NodeChild { program, child, pidfd })
    }

    /// Runs it to its end and returns what it wrote. A failure status is no error here.
    pub fn output(mut self, limit: &Limit) -> Result<Output> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn()?.output(limit)
    }

    /// Runs it to its end; a failure status is an error that quotes its last line.
    pub fn run(self, limit: &Limit) -> Result<Output> {
        let program = self.command.get_program().to_string_lossy().into_owned();
        let output = self.output(limit)?;
        if output.status.success() {
            return Ok(output);
        }
        let message = match output.stderr.lines().rfind(|l| !l.trim().is_empty()) {
            Some(line) => line.trim().to_owned(),
            None => output.status.to_string(),
        };
        Err(Error::Command { program, message })
    }
}

/// What a command wrote, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to standard error; bytes that are no UTF-8 are replaced.
    pub stderr: String,
}

/// A process in a node. Dropping it kills it and waits for it.
#[derive(Debug)]
pub struct NodeChild {
    program: String,
    child: Child,
    pidfd: OwnedFd,
}

impl NodeChild {
    /// Its pid as this process sees it.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Readable when it has ended.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Waits for its end. At the end of `limit` it is killed, and the error says so.
    pub fn wait(&mut self, limit: &Limit) -> Result<ExitStatus> {
        if let Err(e) = limit.wait_readable(&self.pidfd, &self.program) {
            self.kill();
            return Err(e);
        }
        self.child.wait().context(|| format!("wait for {}", self.program))
    }

    /// Kills it (SIGKILL) and waits until it is gone. Does nothing if it is.
    pub fn kill(&mut self) {
        // Both can only fail when it has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn output(mut self, limit: &Limit) -> Result<Output> {
        let mut streams: Vec<(OwnedFd, Vec<u8>, bool)> = Vec::new();
        for fd in [self.child.stdout.take().map(OwnedFd::from), self.child.stderr.take().map(OwnedFd::from)] {
            streams.extend(fd.map(|fd| (fd, Vec::new(), true)));
        }
        while streams.iter().any(|s| s.2) {
            let open: Vec<usize> = (0..streams.len()).filter(|i| streams[*i].2).collect();
            let fds: Vec<_> = open.iter().map(|i| streams[*i].0.as_fd()).collect();
            let ready = match limit.wait_any(&fds, PollFlags::POLLIN, &self.program) {
                Ok(i) => open[i],
                Err(e) => {
                    self.kill();
                    return Err(e);
                }
            };
            let (fd, bytes, more) = &mut streams[ready];
            let mut chunk = [0; 8192];
            let mut file = File::from(fd.try_clone().context(|| "duplicate a pipe".into())?);
            let n = file.read(&mut chunk).context(|| format!("read the output of {}", self.program))?;
            bytes.extend_from_slice(&chunk[..n]);
            *more = n > 0;
        }
        let status = self.wait(limit)?;
        let mut texts = streams.into_iter().map(|(_, bytes, _)| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Output { status, stdout: texts.next().unwrap_or_default(), stderr: texts.next().unwrap_or_default() })
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(match status.signal() {
            Some(signal) => format!("{} was killed by signal {signal}", self.program),
            None => format!("{} ended with status {}", self.program, status.code().unwrap_or(-1)),
        })
    }
}

impl Drop for NodeChild {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn output_is_collected_and_failures_are_quoted() {
        let host = NodeEnv::host();
        let out = host.command("sh").args(["-c", "echo out; echo err >&2"]).run(&Limit::seconds(10)).unwrap();
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
        let err = host.command("sh").args(["-c", "echo first; echo why >&2; exit 3"]).run(&Limit::seconds(10));
        assert_eq!(err.unwrap_err().to_string(), "sh failed: why");
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed() {
        let err = NodeEnv::host().command("sleep").arg("1000").run(&Limit::within(Duration::from_millis(20)));
        assert!(matches!(err, Err(Error::TimedOut { .. })), "{err:?}");
    }

    #[test]
    fn descriptors_arrive_under_their_number() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut command = NodeEnv::host().command("sh").args(["-c", "echo hello >/proc/self/fd/$FD"]);
        let number = command.fd(&write).unwrap();
        let command = command.env("FD", number.to_string());
        drop(write);
        command.run(&Limit::seconds(10)).unwrap();
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }

    #[test]
    fn paths_of_a_node_are_found_from_the_host() {
        assert_eq!(NodeEnv::node(12).host_path("/run/runc"), Path::new("/proc/12/root/run/runc"));
        assert_eq!(NodeEnv::host().host_path("/run/runc"), Path::new("/run/runc"));
    }
}
