//! runc, for the ordinary life of a container: one method a verb, each with a limit.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;

use crate::error::{Context, Error, Result};
use crate::limit::Limit;
use crate::node::{NodeCommand, NodeEnv, Output};
use crate::state::StateFile;

/// Where runc keeps its containers, in the node.
const ROOT: &str = "/run/runc";

/// What a container is doing, by runc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Made, its program not yet started.
    Created,
    /// Its program runs.
    Running,
    /// About to be frozen.
    Pausing,
    /// Frozen.
    Paused,
    /// Its program has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// A container, by `runc state` and `runc list`.
#[derive(Debug, Clone, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The pid of its first process as the node sees it; 0 when stopped.
    #[serde(default)]
    pub pid: i32,
    /// What it is doing.
    pub status: Status,
    /// Its bundle directory, in the node.
    pub bundle: PathBuf,
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub created: String,
}

/// The standard streams of a container; `/dev/null` where none is given. They have to be pipes or `/dev/null`: CRIU
/// cannot dump files from outside the container.
#[derive(Debug, Default)]
pub struct Streams {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// runc in a node.
#[derive(Debug, Clone)]
pub struct Runc {
    env: NodeEnv,
}

impl Runc {
    /// The runc of `env`. What it starts is in `env`'s namespaces and, apart from the cgroup that the specification
    /// names, in its cgroups.
    pub fn new(env: &NodeEnv) -> Self {
        Self { env: env.clone() }
    }

    /// Makes a container from the bundle (a directory of the node) and does not start its program.
    pub fn create(&self, id: &str, bundle: &Path, streams: Streams, limit: &Limit) -> Result<()> {
        let bundle = bundle.to_string_lossy().into_owned();
        self.long_lived("create", id, &["--bundle", &bundle, id], streams, limit)
    }

    /// Starts the program of a created container.
    pub fn start(&self, id: &str, limit: &Limit) -> Result<()> {
        self.call("start", id, &[id], limit).map(|_| ())
    }

    /// [`Runc::create`] and [`Runc::start`].
    pub fn run(&self, id: &str, bundle: &Path, streams: Streams, limit: &Limit) -> Result<()> {
        let bundle = bundle.to_string_lossy().into_owned();
        self.long_lived("run", id, &["--detach", "--bundle", &bundle, id], streams, limit)
    }

    /// The container as it is now.
    pub fn state(&self, id: &str, limit: &Limit) -> Result<Container> {
        let text = self.call("state", id, &[id], limit)?.stdout;
        serde_json::from_str(&text).map_err(|e| self.refused("state", id, format!("its answer is no state: {e}")))
    }

    /// All containers of the node.
    pub fn list(&self, limit: &Limit) -> Result<Vec<Container>> {
        let text = self.call("list", "", &["--format", "json"], limit)?.stdout;
        let list: Option<Vec<Container>> =
            serde_json::from_str(&text).map_err(|e| self.refused("list", "", format!("its answer is no list: {e}")))?;
        // It says null for an empty list.
        Ok(list.unwrap_or_default())
    }

    /// Sends a signal, by name or number, to the first process.
    pub fn kill(&self, id: &str, signal: &str, limit: &Limit) -> Result<()> {
        self.call("kill", id, &[id, signal], limit).map(|_| ())
    }

    /// Removes a stopped container, or with `force` any, killing it first. With `force` it is no error if there is
    /// none.
    pub fn delete(&self, id: &str, force: bool, limit: &Limit) -> Result<()> {
        let args: &[&str] = if force { &["--force", id] } else { &[id] };
        self.call("delete", id, args, limit).map(|_| ())
    }

    /// Runs a program in the container and returns what it wrote. Its failure is no error here; runc's is.
    pub fn exec(&self, id: &str, args: &[&str], limit: &Limit) -> Result<Output> {
        let log = Log::new()?;
        let command = self.command(&log, "exec")?.arg(id).args(args);
        let output = command.output(limit)?;
        match log.last_line() {
            Some(message) if !output.status.success() => Err(self.refused("exec", id, message)),
            _ => Ok(output),
        }
    }

    /// runc's own record of the container: with it CRIU can be driven without runc.
    pub fn state_file(&self, id: &str) -> Result<StateFile> {
        StateFile::read(&self.env, &self.dir(id))
    }

    /// runc's directory of the container, in the node.
    pub(crate) fn dir(&self, id: &str) -> PathBuf {
        Path::new(ROOT).join(id)
    }

    pub(crate) fn exec_fifo(&self, id: &str) -> PathBuf {
        self.env.host_path(self.dir(id).join("exec.fifo"))
    }

    fn command(&self, log: &Log, verb: &str) -> Result<NodeCommand> {
        let mut command = self.env.command("runc");
        let fd = command.fd(&log.0)?;
        let log = format!("/proc/self/fd/{fd}");
        Ok(command.args(["--root", ROOT, "--log", &log, "--log-format", "json", verb]))
    }

    /// For verbs that end soon and leave nothing that holds their output open.
    fn call(&self, verb: &'static str, id: &str, args: &[&str], limit: &Limit) -> Result<Output> {
        let log = Log::new()?;
        let output = self.command(&log, verb)?.args(args).output(limit)?;
        if output.status.success() {
            return Ok(output);
        }
        let own_words = || output.stderr.lines().last().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty());
        let message = log.last_line().or_else(own_words).unwrap_or_else(|| output.status.to_string());
        Err(self.refused(verb, id, message))
    }

    /// For verbs after which the container keeps the standard streams.
    fn long_lived(&self, verb: &'static str, id: &str, args: &[&str], streams: Streams, limit: &Limit) -> Result<()> {
        let log = Log::new()?;
        let mut command = self.command(&log, verb)?.args(args);
        if let Some(fd) = streams.stdin {
            command = command.stdin(fd);
        }
        if let Some(fd) = streams.stdout {
            command = command.stdout(fd);
        }
        if let Some(fd) = streams.stderr {
            command = command.stderr(fd);
        }
        let status = command.spawn()?.wait(limit)?;
        if status.success() {
            return Ok(());
        }
        Err(self.refused(verb, id, log.last_line().unwrap_or_else(|| status.to_string())))
    }

    fn refused(&self, verb: &'static str, id: &str, message: String) -> Error {
        Error::Runc { verb, container: id.into(), message }
    }
}

/// runc's log of one call, in memory: its messages without what the container writes to the same terminal.
struct Log(OwnedFd);

impl Log {
    fn new() -> Result<Self> {
        memfd_create("runc-log", MFdFlags::MFD_CLOEXEC).map(Self).context(|| "make a memory file".into())
    }

    /// The message of the last line at level error or worse.
    fn last_line(&self) -> Option<String> {
        let mut file = File::from(self.0.try_clone().ok()?);
        let mut text = String::new();
        file.rewind().ok()?;
        file.read_to_string(&mut text).ok()?;
        last_error(&text)
    }
}

fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let mut lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.find(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic")).map(|line| line.msg)
}

/// Removes a file of runc's if it is there.
pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_the_message() {
        let log = r#"{"level":"error","msg":"first","time":"t"}
{"level":"error","msg":"container does not exist","time":"t"}
{"level":"warning","msg":"unrelated","time":"t"}
"#;
        assert_eq!(last_error(log).as_deref(), Some("container does not exist"));
        assert_eq!(last_error("not json\n"), None);
    }
}
