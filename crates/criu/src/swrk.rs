//! One CRIU service worker: `criu swrk FD`, spoken to over a SOCK_SEQPACKET pair.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::Pid;
use prost::Message;

use crate::check::Version;
use crate::error::{Context, Error, Result};
use crate::images::ImagesDir;
use crate::limit::Limit;
use crate::log;
use crate::node::{NodeChild, NodeEnv};
use crate::rpc::{Notify, Opts, Req, ReqType, Resp};
use crate::spare::Spare;

/// The first CRIU that logs to standard error when asked by RPC.
const LOGS_TO_STDERR: Version = Version { major: 4, minor: 2, patch: 0 };

/// The verb of a worker that restores.
const RESTORE: &str = "restore";

/// Larger than any answer of CRIU.
const MESSAGE_ROOM: usize = 64 * 1024;

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Swrk {
    verb: &'static str,
    socket: OwnedFd,
    child: NodeChild,
    /// Its pid may be somebody else's by now.
    buried: bool,
    /// Its standard error: a log that does not fail when the images' tmpfs is full.
    log: File,
}

impl Drop for Swrk {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What CRIU says.
#[derive(Debug)]
pub(crate) enum Said {
    /// It waits at this point until it is answered.
    Notification { script: String, pid: Option<i32> },
    /// The request's result.
    Answer(Box<Resp>),
    /// It is gone, or has closed its socket.
    Closed,
}

impl Swrk {
    /// Starts a worker. `fds` are handed on; their numbers there are returned in the same order.
    pub(crate) fn start(env: &NodeEnv, verb: &'static str, fds: &[&OwnedFd]) -> Result<(Self, Vec<RawFd>)> {
        Self::start_with(env, verb, fds, None)
    }

    /// The same, with a library of ours in it.
    pub(crate) fn start_with(
        env: &NodeEnv,
        verb: &'static str,
        fds: &[&OwnedFd],
        spare: Option<&Spare>,
    ) -> Result<(Self, Vec<RawFd>)> {
        let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .context(|| "make a socket pair".into())?;
        let mut command = env.command("criu");
        let socket_number = command.fd(&theirs)?;
        let numbers = fds.iter().map(|fd| command.fd(fd)).collect::<Result<_>>()?;
        if let Some(spare) = spare {
            command = spare.load_into(command)?;
        }
        let log = memfd_create("criu-log", MFdFlags::MFD_CLOEXEC).context(|| "make a memory file".into())?;
        let log = File::from(log);
        let stderr = log.try_clone().context(|| "duplicate a memory file".into())?;
        let command = command.args(["swrk", &socket_number.to_string()]).stderr(stderr);
        let child = if verb == RESTORE { command.spawn()? } else { command.group_of_its_own().spawn()? };
        // A killed CRIU does harm. It takes CAP_SYS_RESOURCE; without it there is nothing to be done.
        let _ = fs::write(format!("/proc/{}/oom_score_adj", child.pid()), "-1000");
        Ok((Self { verb, socket, child, buried: false, log }, numbers))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.pid()
    }

    pub(crate) fn send(&self, req: &Req) -> Result<()> {
        match send(self.socket.as_raw_fd(), &req.encode_to_vec(), MsgFlags::MSG_NOSIGNAL) {
            // That it is gone shows in what it says next, and why does too.
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(e) => Err(e).context(|| format!("ask criu for {}", self.verb)),
        }
    }

    /// Lets CRIU go on from a notification, or makes it give up.
    pub(crate) fn answer(&self, go_on: bool) -> Result<()> {
        self.send(&Req { r#type: ReqType::Notify.into(), notify_success: Some(go_on), ..Req::default() })
    }

    /// The next thing that CRIU says. The worker is not killed when the limit is over: what that would mean is the
    /// caller's to know.
    pub(crate) fn next(&self, limit: &Limit) -> Result<Said> {
        let what = format!("criu {}", self.verb);
        // Its end too: processes that it has forked may hold its side of the socket open after it.
        limit.wait_any(&[self.socket.as_fd(), self.child.pidfd().as_fd()], PollFlags::POLLIN, &what)?;
        let mut room = vec![0; MESSAGE_ROOM];
        let n = match recv(self.socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(Errno::ECONNRESET | Errno::EPIPE) => return Ok(Said::Closed),
            // Nothing to read, so it was its end.
            Err(Errno::EAGAIN) => return Ok(Said::Closed),
            Ok(n) => n,
            Err(e) => return Err(e).context(|| "read criu's answer".into()),
        };
        let resp = Resp::decode(&room[..n]).map_err(|e| Error::Criu {
            verb: self.verb,
            lines: vec![format!("its answer cannot be understood: {e}")],
        })?;
        match resp.notify {
            Some(Notify { script, pid }) if resp.r#type == i32::from(ReqType::Notify) => {
                Ok(Said::Notification { script: script.unwrap_or_default(), pid })
            }
            _ => Ok(Said::Answer(Box::new(resp))),
        }
    }

    /// Asks and returns the one answer; for requests without notifications.
    pub(crate) fn ask(&mut self, req: &Req, limit: &Limit) -> Result<Resp> {
        self.send(req)?;
        match self.next(limit)? {
            Said::Answer(resp) => Ok(*resp),
            Said::Closed => Err(self.died(None)),
            Said::Notification { script, .. } => Err(self.surprise(&script)),
        }
    }

    /// Goes on from every notification until `hold` (returning its pid) or until the answer.
    pub(crate) fn run_to(&mut self, hold: Option<&str>, limit: &Limit) -> Result<Said> {
        loop {
            match self.next(limit)? {
                Said::Notification { script, pid } if Some(script.as_str()) == hold => {
                    return Ok(Said::Notification { script, pid });
                }
                Said::Notification { .. } => self.answer(true)?,
                other => return Ok(other),
            }
        }
    }

    /// Waits until the process has ended; kills it when the limit is over.
    pub(crate) fn wait(&mut self, limit: &Limit) -> Result<()> {
        let ended = limit.wait_readable(self.child.pidfd(), "criu");
        self.kill();
        ended.map(drop)
    }

    pub(crate) fn kill(&mut self) {
        self.kill_helpers();
        self.child.kill();
        self.buried = true;
    }

    /// What a worker has forked outlives it when it is killed. (A restore has forked the container, which is not ended
    /// with its worker but by its cgroup.)
    fn kill_helpers(&self) {
        if self.verb != RESTORE && !self.buried {
            let _ = killpg(Pid::from_raw(self.child.pid()), Signal::SIGKILL);
        }
    }

    /// Makes a request log where [`Swrk::keep_log`] and the errors look for it.
    pub(crate) fn log_to(&self, opts: &mut Opts, version: Version, level: u8) {
        opts.log_level = Some(level.into());
        if version < LOGS_TO_STDERR {
            opts.log_file = Some(format!("{}.log", self.verb));
        } else {
            opts.log_to_stderr = Some(true);
        }
    }

    /// Writes the log beside the images, for whoever wants to know more.
    pub(crate) fn keep_log(&self, images: &ImagesDir) {
        let text = self.log_text();
        if !text.is_empty() {
            // Without it the errors still say why.
            let _ = fs::write(images.log(self.verb), text);
        }
    }

    fn log_text(&self) -> String {
        let mut bytes = vec![0; self.log.metadata().map_or(0, |m| m.len()) as usize];
        let n = self.log.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    /// The lines of its log that say why, wherever it logs.
    fn why(&self, images: Option<&ImagesDir>) -> Vec<String> {
        let lines = log::decisive(&self.log_text());
        let Some(images) = images.filter(|_| lines.is_empty()) else { return lines };
        log::decisive(&String::from_utf8_lossy(&fs::read(images.log(self.verb)).unwrap_or_default()))
    }

    /// The error of a worker that closed its socket without an answer.
    pub(crate) fn died(&mut self, images: Option<&ImagesDir>) -> Error {
        // The socket closes an instant before the process is gone.
        let _ = Limit::seconds(1).wait_readable(self.child.pidfd(), "criu's end");
        self.kill_helpers();
        let mut lines = self.why(images);
        if lines.is_empty() {
            lines.extend(self.log_text().lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned));
        }
        lines.push(self.child.ended().unwrap_or_else(|| "it closed its socket".into()));
        if let Some(images) = images {
            self.keep_log(images);
        }
        Error::CriuDied { verb: self.verb, lines }
    }

    /// The error of an answer that says "failed".
    pub(crate) fn failed(&self, resp: &Resp, images: &ImagesDir) -> Error {
        let mut lines = self.why(Some(images));
        if lines.is_empty() {
            lines = log::decisive(resp.cr_errmsg.as_deref().unwrap_or_default());
        }
        if lines.is_empty() {
            let errno = resp.cr_errno.map_or_else(String::new, |e| format!(" ({})", Errno::from_raw(e).desc()));
            lines.push(format!("it gave no reason{errno}"));
        }
        self.keep_log(images);
        Error::Criu { verb: self.verb, lines }
    }

    pub(crate) fn surprise(&self, what: &str) -> Error {
        Error::Criu { verb: self.verb, lines: vec![format!("it said \"{what}\" out of turn")] }
    }
}
