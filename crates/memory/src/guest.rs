//! Processes without a memory of their own.

use std::os::fd::{AsFd, OwnedFd};

use crate::error::{Context, Error, Result};
use crate::sys;

/// A descriptor of the process.
pub(crate) fn open(pid: i32) -> Result<OwnedFd> {
    match sys::pidfd_open(pid) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(Error::Ended { pid }),
        other => other.context(|| format!("open process {pid}")),
    }
}

/// Shares a process's memory, as a vfork(2) child does until it execs.
#[derive(Debug)]
pub(crate) struct Guest {
    pub pidfd: OwnedFd,
    pub host: i32,
}

impl Guest {
    /// A guest of one of `hosts`, if it is one.
    pub(crate) fn of(pid: i32, mut hosts: impl Iterator<Item = i32>) -> Result<Option<Self>> {
        let Some(host) = hosts.find(|host| sys::same_memory(pid, *host)) else { return Ok(None) };
        match open(pid) {
            Ok(pidfd) => Ok(Some(Self { pidfd, host })),
            Err(Error::Ended { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn still_is(&self, pid: i32) -> bool {
        !sys::has_ended(self.pidfd.as_fd()) && sys::same_memory(pid, self.host)
    }
}
