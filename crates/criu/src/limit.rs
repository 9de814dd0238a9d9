//! How long a call may take, and how to stop it earlier.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Context, Error, Result};

/// A switch that stops calls in progress. Clones are the same switch; once thrown it stays so.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<EventFd>);

impl Cancel {
    /// A switch that is not thrown.
    pub fn new() -> Result<Self> {
        let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .context(|| "make an eventfd".into())?;
        Ok(Self(Arc::new(fd)))
    }

    /// Throws it: every call that waits under it ends with [`Error::Cancelled`].
    pub fn cancel(&self) {
        // It can only fail when the counter is full, and then it is thrown already.
        let _ = self.0.write(1);
    }
}

/// A deadline, and optionally a [`Cancel`] switch, for one call.
#[derive(Debug, Clone)]
pub struct Limit {
    started: Instant,
    within: Duration,
    cancel: Option<Cancel>,
}

impl Limit {
    /// A deadline `within` from now.
    pub fn within(within: Duration) -> Self {
        Self { started: Instant::now(), within, cancel: None }
    }

    /// [`Limit::within`] a number of seconds.
    pub fn seconds(seconds: u64) -> Self {
        Self::within(Duration::from_secs(seconds))
    }

    /// The same deadline, and stopped by `cancel` too.
    pub fn or(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        self.within.saturating_sub(self.started.elapsed())
    }

    /// The error that says that it is over.
    pub(crate) fn over(&self, what: &str) -> Error {
        if self.cancelled() {
            Error::Cancelled { what: what.into() }
        } else {
            Error::TimedOut { what: what.into(), after: self.within }
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|c| {
            let mut fd = [PollFd::new(c.0.as_fd(), PollFlags::POLLIN)];
            poll(&mut fd, PollTimeout::ZERO).is_ok_and(|n| n > 0)
        })
    }

    /// Waits until one of `fds` has something (`flags`) and says which; an error when the limit is over first.
    pub(crate) fn wait_any(&self, fds: &[BorrowedFd<'_>], flags: PollFlags, what: &str) -> Result<usize> {
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, flags)).collect();
        if let Some(cancel) = &self.cancel {
            polled.push(PollFd::new(cancel.0.as_fd(), PollFlags::POLLIN));
        }
        loop {
            // Rounded up: a poll of 0 ms would spin through the last millisecond.
            let left = self.left().as_micros().div_ceil(1000);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut polled, timeout) {
                Ok(0) | Err(nix::errno::Errno::EINTR) if !self.left().is_zero() => {}
                Ok(0) | Err(nix::errno::Errno::EINTR) => return Err(self.over(what)),
                Ok(_) => {
                    let ready = |p: &PollFd<'_>| p.any().unwrap_or(true);
                    // What is there counts, even when cancelled in the same instant.
                    if let Some(i) = polled[..fds.len()].iter().position(ready) {
                        return Ok(i);
                    }
                    return Err(self.over(what));
                }
                Err(e) => return Err(e).context(|| format!("wait for {what}")),
            }
        }
    }

    /// Waits until `fd` is readable, closed or (a pidfd) ended.
    pub(crate) fn wait_readable(&self, fd: &OwnedFd, what: &str) -> Result<()> {
        self.wait_any(&[fd.as_fd()], PollFlags::POLLIN, what).map(|_| ())
    }

    /// Sleeps a moment between two looks at a state that nothing announces; an error when the limit is over.
    pub(crate) fn pause(&self, moment: Duration, what: &str) -> Result<()> {
        if self.left().is_zero() || self.cancelled() {
            return Err(self.over(what));
        }
        std::thread::sleep(moment.min(self.left()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_deadline_is_a_timeout() {
        let (_write, read) = pipe();
        let limit = Limit::within(Duration::from_millis(2));
        let err = limit.wait_readable(&read, "nothing").unwrap_err();
        assert!(matches!(err, Error::TimedOut { .. }), "{err}");
    }

    #[test]
    fn a_cancelled_limit_ends_at_once_and_says_so() {
        let (_write, read) = pipe();
        let cancel = Cancel::new().unwrap();
        let limit = Limit::seconds(3600).or(&cancel);
        cancel.cancel();
        let err = limit.wait_readable(&read, "nothing").unwrap_err();
        assert!(matches!(err, Error::Cancelled { .. }), "{err}");
    }

    #[test]
    fn what_is_ready_wins_over_a_cancellation() {
        let (write, read) = pipe();
        drop(write);
        let cancel = Cancel::new().unwrap();
        cancel.cancel();
        Limit::seconds(1).or(&cancel).wait_readable(&read, "an end").unwrap();
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (read, write) = nix::unistd::pipe().unwrap();
        (write, read)
    }
}
