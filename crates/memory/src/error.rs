//! What can go wrong, in words that a user can act on.

use std::io;
use std::time::Duration;

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a process could not be tracked or read. All but [`Error::Ended`] mean: move it by another strategy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried, as a verb phrase.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel, the architecture or our rights do not allow it.
    #[error("memory cannot be tracked here: {why}")]
    Unsupported {
        /// What is missing, and where it would be had.
        why: String,
    },
    /// This process is of a kind that is not tracked.
    #[error("process {pid} cannot be tracked: {why}")]
    Untrackable {
        /// The process.
        pid: i32,
        /// What stands against it.
        why: String,
    },
    /// Another process has it under ptrace(2), a debugger mostly.
    #[error("process {pid} is traced by process {by}")]
    Traced {
        /// The process.
        pid: i32,
        /// Its tracer.
        by: i32,
    },
    /// No thread of it came to a stop: all in uninterruptible sleep, or frozen.
    #[error("process {pid} did not stop within {after:?}: it is in uninterruptible sleep or frozen")]
    DidNotStop {
        /// The process.
        pid: i32,
        /// How long was waited.
        after: Duration,
    },
    /// A system call made on the process's behalf failed.
    #[error("process {pid} cannot call {call}")]
    Injected {
        /// The process.
        pid: i32,
        /// The call.
        call: &'static str,
        /// What it returned.
        source: io::Error,
    },
    /// It has a userfaultfd of its own on its memory; a second is not possible, and CRIU cannot dump it either.
    #[error("process {pid} uses userfaultfd itself")]
    OwnUserfaultfd {
        /// The process.
        pid: i32,
    },
    /// The process has ended, or is a zombie.
    #[error("process {pid} has ended")]
    Ended {
        /// The process.
        pid: i32,
    },
}

/// `io::Result` to [`Result`], with what was tried.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}
