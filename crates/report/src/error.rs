//! Why no report could be written.

use std::io;
use std::path::PathBuf;

/// Why no report could be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The output folder's path is taken by something that is no folder.
    #[error("{} is not a folder; choose another output folder", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The output folder holds files of somebody else.
    #[error("the folder {} is not empty and holds no earlier run; empty it or choose another output folder", path.display())]
    Foreign {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried, as "write".
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A value has no JSON form.
    #[error("cannot write the run as JSON")]
    Json {
        /// Why not.
        source: serde_json::Error,
    },
    /// A table could not be written.
    #[error("cannot write the table {name}")]
    Csv {
        /// Which.
        name: &'static str,
        /// Why not.
        source: csv::Error,
    },
}

impl ReportError {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
