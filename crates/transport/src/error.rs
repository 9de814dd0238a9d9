//! Why something did not arrive.

use std::io;

/// Why something did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream or a file failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The peer speaks something else.
    #[error(
        "the peer speaks version {theirs}, this side speaks {ours}: bring both nodes to releases that are next to each other"
    )]
    Version {
        /// What it said.
        theirs: u8,
        /// What this side would speak.
        ours: String,
    },
    /// What came is not what was sent.
    #[error("{0}")]
    Corrupt(String),
    /// One side does not talk to the other: a stranger, a session that it does not know.
    #[error("refused: {0}")]
    Refused(String),
    /// The connection broke and did not come back in time.
    #[error("the connection did not come back within {within_ms} ms")]
    Lost {
        /// How long it was tried.
        within_ms: u128,
        /// What broke it, or what the last try met.
        #[source]
        source: Box<StreamError>,
    },
    /// One side has given up, by will.
    #[error("cancelled: {0}")]
    Cancelled(String),
}

impl StreamError {
    /// The same once more, for whoever else has to hear it.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Io { what, source } => {
                Self::Io { what: what.clone(), source: io::Error::new(source.kind(), source.to_string()) }
            }
            Self::Version { theirs, ours } => Self::Version { theirs: *theirs, ours: ours.clone() },
            Self::Corrupt(text) => Self::Corrupt(text.clone()),
            Self::Refused(text) => Self::Refused(text.clone()),
            Self::Lost { within_ms, source } => Self::Lost { within_ms: *within_ms, source: Box::new(source.again()) },
            Self::Cancelled(text) => Self::Cancelled(text.clone()),
        }
    }

    /// The whole chain in one line: what the peer is told.
    pub(crate) fn chain(&self) -> String {
        godwit_model::chain(self)
    }
}

/// What a connection's failure means for the session.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection is useless; another one can go on from here.
    Link(StreamError),
    /// There is nothing to go on with.
    Session(StreamError),
}

impl Broken {
    pub(crate) fn into_error(self) -> StreamError {
        match self {
            Self::Link(error) | Self::Session(error) => error,
        }
    }
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> StreamError {
    let what = what.into();
    move |source| StreamError::Io { what, source }
}

pub(crate) fn corrupt(what: impl Into<String>) -> StreamError {
    StreamError::Corrupt(what.into())
}
