//! What goes wrong with files.

use std::io;

pub(crate) type Result<T> = std::result::Result<T, LayerError>;

/// The files could not be carried.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A file could not be read or made.
    #[error("{what}")]
    Io {
        /// What was being done, with the file.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A message is not what the other side can have sent.
    #[error("the files' message {0}")]
    Message(&'static str),
    /// Messages could not be handed on.
    #[error("send the files")]
    Send(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Says what was being done, with which file.
pub(crate) trait Context<T> {
    fn context(self, what: &str, path: &[u8]) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: &str, path: &[u8]) -> Result<T> {
        self.map_err(|source| LayerError::Io {
            what: format!("{what} /{}", String::from_utf8_lossy(path)),
            source: source.into(),
        })
    }
}
