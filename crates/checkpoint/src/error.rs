//! What can be wrong with a checkpoint.

use std::io;
use std::path::{Path, PathBuf};

/// What the functions of this crate return.
pub type Result<T> = std::result::Result<T, CheckpointError>;

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file or directory.
    #[error("{what} {path}")]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There is something already.
    #[error("{path} exists already; choose another path, or replace it with --force")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Truncated, altered, or never whole.
    #[error("{path} is damaged: {place}: {why}; nothing of it was restored, use another copy of the file")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        place: String,
        /// What is wrong there.
        why: String,
    },
    /// Of a version that this Godwit does not know.
    #[error(
        "{path} has format {found}, and this Godwit reads formats up to {known}; use the Godwit that wrote it ({creator})"
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest that can be read.
        known: u32,
        /// Who wrote it.
        creator: String,
    },
    /// Something else.
    #[error("{path} is no checkpoint: {why}")]
    NoCheckpoint {
        /// Which file.
        path: PathBuf,
        /// What speaks against it.
        why: String,
    },
    /// It was asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl CheckpointError {
    /// Whether the file that was named, not the system, is what is wrong.
    pub fn is_bad_file(&self) -> bool {
        if let Self::File { what: "open" | "make a file in", source, .. } = self {
            return source.kind() == io::ErrorKind::NotFound;
        }
        matches!(self, Self::Exists { .. } | Self::Damaged { .. } | Self::Version { .. } | Self::NoCheckpoint { .. })
    }

    pub(crate) fn file<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> Self + use<'p> {
        move |source| Self::File { what, path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, place: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), place: place.into(), why: why.into() }
    }

    /// What went wrong while an archive was decoded: the disk's fault, or the archive's.
    pub(crate) fn decoding(path: &Path, place: &str, error: io::Error) -> Self {
        if error.raw_os_error().is_some() {
            return Self::File { what: "read", path: path.to_owned(), source: error };
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::damaged(path, place, "it ends too early: the file is truncated"),
            _ => Self::damaged(path, place, error.to_string()),
        }
    }
}
