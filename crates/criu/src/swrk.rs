//! One CRIU service worker: `criu swrk FD`, spoken to over a SOCK_SEQPACKET pair.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use prost::Message;

use crate::error::{Context, Error, Result};
use crate::limit::Limit;
use crate::log;
use crate::node::{NodeChild, NodeEnv};
use crate::rpc::{Notify, Req, ReqType, Resp};

/// Larger than any answer of CRIU.
const MESSAGE_ROOM: usize = 64 * 1024;

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Swrk {
    verb: &'static str,
    socket: OwnedFd,
    child: NodeChild,
}

/// What CRIU says.
#[derive(Debug)]
pub(crate) enum Said {
    /// It waits at this point until it is answered.
    Notification { script: String, pid: Option<i32> },
    /// The request's result.
    Answer(Box<Resp>),
    /// It closed the socket: it died or gave up.
    Closed,
}

impl Swrk {
    /// Starts a worker. `fds` are handed on; their numbers there are returned in the same order.
    pub(crate) fn start(env: &NodeEnv, verb: &'static str, fds: &[&OwnedFd]) -> Result<(Self, Vec<RawFd>)> {
        let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .context(|| "make a socket pair".into())?;
        let mut command = env.command("criu");
        let socket_number = command.fd(&theirs)?;
        let numbers = fds.iter().map(|fd| command.fd(fd)).collect::<Result<_>>()?;
        let child = command.args(["swrk", &socket_number.to_string()]).spawn()?;
        Ok((Self { verb, socket, child }, numbers))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.pid()
    }

    pub(crate) fn send(&self, req: &Req) -> Result<()> {
        match send(self.socket.as_raw_fd(), &req.encode_to_vec(), MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
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
        limit.wait_any(&[self.socket.as_fd()], PollFlags::POLLIN, &what)?;
        let mut room = vec![0; MESSAGE_ROOM];
        let n = match recv(self.socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(Errno::ECONNRESET | Errno::EPIPE) => return Ok(Said::Closed),
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

    /// Waits until the process has ended.
    pub(crate) fn wait(&mut self, limit: &Limit) -> Result<()> {
        self.child.wait(limit).map(|_| ())
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill();
    }

    /// The error of a worker that closed its socket without an answer.
    pub(crate) fn died(&mut self, log: Option<&Path>) -> Error {
        // The socket closes an instant before the process is gone.
        let _ = Limit::seconds(1).wait_readable(self.child.pidfd(), "criu's end");
        let mut lines = log.map(decisive_lines).unwrap_or_default();
        lines.push(self.child.ended().unwrap_or_else(|| "it closed its socket".into()));
        Error::CriuDied { verb: self.verb, lines }
    }

    /// The error of an answer that says "failed".
    pub(crate) fn failed(&self, resp: &Resp, log: &Path) -> Error {
        let mut lines = decisive_lines(log);
        if lines.is_empty() {
            lines.extend(resp.cr_errmsg.as_deref().map(|m| m.trim().to_owned()).filter(|m| !m.is_empty()));
        }
        if lines.is_empty() {
            let errno = resp.cr_errno.map_or_else(String::new, |e| format!(" ({})", Errno::from_raw(e).desc()));
            lines.push(format!("it gave no reason{errno}"));
        }
        Error::Criu { verb: self.verb, lines }
    }

    pub(crate) fn surprise(&self, what: &str) -> Error {
        Error::Criu { verb: self.verb, lines: vec![format!("it said \"{what}\" out of turn")] }
    }
}

fn decisive_lines(log: &Path) -> Vec<String> {
    log::decisive(&String::from_utf8_lossy(&fs::read(log).unwrap_or_default()))
}
