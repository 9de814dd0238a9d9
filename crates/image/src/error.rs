//! What goes wrong with images.

use std::io;
use std::path::PathBuf;

pub(crate) type Result<T> = std::result::Result<T, ImageError>;

/// An image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is something else.
    #[error("{path} {why}")]
    NoImage {
        /// Which.
        path: PathBuf,
        /// What it is instead, and what to do.
        why: String,
    },
    /// Its contents are not what they should be.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// It is a good image that this version cannot use.
    #[error("{path}: {why}")]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// A file could not be used.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Says what was being done.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| ImageError::Io { what: what(), source: source.into() })
    }
}
