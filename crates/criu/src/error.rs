//! What can go wrong, in words that a user can act on.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

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
    /// The call's time was up; what it had started was killed.
    #[error("{what} took longer than {after:?}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long it was allowed to take.
        after: Duration,
    },
    /// The caller cancelled; what the call had started was killed.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was waited for.
        what: String,
    },
    /// A helper program ended with a failure.
    #[error("{program} failed: {message}")]
    Command {
        /// The program's name.
        program: String,
        /// Its own words, or its exit status where it had none.
        message: String,
    },
    /// runc refused.
    #[error("runc {verb} {container}: {message}")]
    Runc {
        /// runc's verb, e.g. `create`.
        verb: &'static str,
        /// The container's id, empty where the verb has none.
        container: String,
        /// The last line of runc's log.
        message: String,
    },
    /// CRIU reported a failure. The decisive lines of its log are quoted.
    #[error("criu {verb} failed: {}", .lines.join("; "))]
    Criu {
        /// What CRIU was asked for, e.g. `dump`.
        verb: &'static str,
        /// The lines of its log that say why, never empty.
        lines: Vec<String>,
    },
    /// The CRIU process is gone without an answer.
    #[error("criu died during {verb}: {}", .lines.join("; "))]
    CriuDied {
        /// What it was doing.
        verb: &'static str,
        /// What is known of its end, never empty.
        lines: Vec<String>,
    },
    /// CRIU is older than [`crate::check::OLDEST`].
    #[error("criu {found} is too old, {needed} or newer is needed")]
    CriuTooOld {
        /// The version found.
        found: String,
        /// The oldest that will do.
        needed: String,
    },
    /// CRIU is older than the one that writes the images.
    #[error("criu {found} may not understand the images of criu {dumped}: install {dumped} or newer on this node")]
    CriuOlderThanImages {
        /// The version found.
        found: String,
        /// The version of the source's.
        dumped: String,
    },
    /// The container is not in the state that the call needs.
    #[error("container {container} is {status}, not {wanted}")]
    WrongStatus {
        /// The container's id.
        container: String,
        /// What it is.
        status: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// A file is not what it should be.
    #[error("{path}: {message}", path = .path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A roll-back or a clean-up could not be finished; the original failure comes first.
    #[error("{first}; and then: {then}")]
    Twice {
        /// Why the clean-up was needed.
        first: Box<Error>,
        /// Why it failed.
        then: Box<Error>,
    },
}

impl Error {
    /// Attaches the failure of a clean-up, if there was one.
    pub(crate) fn and_then_failed(self, clean_up: Result<()>) -> Self {
        match clean_up {
            Ok(()) => self,
            Err(then) => Self::Twice { first: Box::new(self), then: Box::new(then) },
        }
    }
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
