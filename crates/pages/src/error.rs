//! What can go wrong, in words that a user can act on.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
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
    /// An image is not what it should be.
    #[error("{path}: {message}", path = .path.display())]
    BadImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The images promise pages that the store does not have.
    #[error("{bytes} bytes of process {pid} are missing, the first at {first:#x}", first = .ranges[0].start, bytes = .ranges.iter().map(|r| r.end - r.start).sum::<u64>())]
    Missing {
        /// Whose, by the pid of the images.
        pid: i32,
        /// Where, never empty.
        ranges: Vec<Range<u64>>,
    },
    /// The restore went away before it was through.
    #[error("the restore ended before it was complete")]
    Aborted,
    /// The serving has failed; the processes that were served must not run.
    #[error("the memory cannot be served: {0}")]
    Failed(String),
    /// The call's time was up.
    #[error("{what} took too long")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
    },
    /// Pages are not 4 KiB here.
    #[error("pages of {0} bytes are not supported, only of 4096")]
    PageSize(u64),
}

/// `io::Result` and `nix::Result` to [`Result`], with what was tried.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::Io { what: what(), source: e.into() })
    }
}
