//! What the owner has of a handler that is a process of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::line::{pair, receive, send, send_descriptors};
use super::{FAILED, FILL, FILLED, GUARDED, HandlerProgram, MOST, READY, RELEASED, STOP, TOOK_OVER, decoded};
use crate::handler::{Phase, Shared};

/// The handler has to begin within so long: it has been started long ago.
const BEGINNING: Duration = Duration::from_secs(10);

/// A process that waits to be the handler. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Started(Option<Owner>);

/// The handler's owner.
#[derive(Debug)]
pub(crate) struct Owner {
    line: OwnedFd,
    handler: Child,
}

impl Started {
    pub(crate) fn start(program: &HandlerProgram) -> io::Result<Self> {
        let (line, theirs) = pair()?;
        let handler = Command::new(&program.path)
            .args(&program.args)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(Some(Owner { line, handler })))
    }

    /// Gives it what it needs. When this returns it is the handler, and guarded.
    pub(crate) fn hand_over(mut self, descriptors: &[RawFd]) -> io::Result<Owner> {
        let Some(owner) = self.0.take() else { return Err(io::ErrorKind::NotFound.into()) };
        let begun = send_descriptors(owner.line.as_fd(), descriptors).and_then(|()| owner.wait_guarded());
        match begun {
            Ok(()) => Ok(owner),
            Err(error) => {
                self.0 = Some(owner);
                Err(error)
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(Owner { line, mut handler }) = self.0.take() {
            // It sees that, and ends.
            drop(line);
            let _ = handler.wait();
        }
    }
}

impl Owner {
    fn wait_guarded(&self) -> io::Result<()> {
        let timeout = PollTimeout::try_from(BEGINNING).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(self.line.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut room = [0; MOST];
        match receive(self.line.as_fd(), &mut room) {
            Some(_) if room[0] == GUARDED => Ok(()),
            // It was killed already; its guard has a guard next.
            Some(_) if room[0] == TOOK_OVER => self.wait_guarded(),
            Some(len) => Err(io::Error::other(String::from_utf8_lossy(&room[1..len]).into_owned())),
            None => Err(io::Error::other("who is to put its memory in place has ended")),
        }
    }

    /// Tells the handler what its owner wants, and the owner what becomes of it, to the end. `filled`: the memory is complete, and
    /// the owner's descriptors of it have to be closed, too.
    pub(crate) fn stand_for(mut self, shared: &Shared, mut filled: impl FnMut()) -> Phase {
        let mut told = 0;
        let end = loop {
            let mut fds = [
                PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.line.as_fd(), PollFlags::POLLIN),
            ];
            // An interruption is a look more.
            let _ = poll(&mut fds, PollTimeout::NONE);
            let [woken, speaks] = fds.map(|fd| fd.any().unwrap_or(false));
            if woken {
                let _ = shared.wake.read();
            }
            if speaks && let Some(end) = self.hear(shared, &mut told, &mut filled) {
                break end;
            }
            self.tell(shared, &mut told);
        };
        // Where its guard has taken over this one is long gone.
        drop(self.line);
        let _ = self.handler.wait();
        end
    }

    fn tell(&self, shared: &Shared, told: &mut u8) {
        for (flag, word) in [(&shared.fill, FILL), (&shared.stop, STOP)] {
            if flag.load(Ordering::SeqCst) && *told & word == 0 {
                *told |= word;
                send(self.line.as_fd(), &[word]);
            }
        }
    }

    /// What the handler says; its end, if that is it.
    fn hear(&self, shared: &Shared, told: &mut u8, filled: &mut impl FnMut()) -> Option<Phase> {
        let mut room = [0; MOST];
        let Some(len) = receive(self.line.as_fd(), &mut room) else {
            return Some(Phase::Failed("who puts its memory in place was killed, and its guard too".into()));
        };
        match &room[..len] {
            [RELEASED, ..] => shared.set(Phase::Released),
            [READY, stats @ ..] => {
                filled();
                shared.ready(decoded(stats));
            }
            [TOOK_OVER, ..] => *told = 0,
            [GUARDED, ..] => {}
            [FILLED, stats @ ..] => {
                filled();
                shared.ready(decoded(stats));
                return Some(Phase::Filled);
            }
            [FAILED, why @ ..] => return Some(Phase::Failed(String::from_utf8_lossy(why).into_owned())),
            _ => return Some(Phase::Aborted),
        }
        None
    }
}
