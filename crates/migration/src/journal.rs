//! Where the commit point is recorded, and how every migration went.

mod error;
mod sqlite;

use std::fmt;

use godwit_model::Outcome;

pub use error::JournalError;
pub use sqlite::{History, SqliteJournal};

use crate::request::Request;

/// How far a migration is, as the journal knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Under way; if it is found so after a crash, the source is the workload.
    Begun,
    /// Past the commit point; if it is found so after a crash, the target is the workload, unless it is certain that it never
    /// ran.
    Committed,
    /// The commit does not count any more: the target never ran and must not; the source is the workload.
    TakenBack,
    /// Over.
    Ended(Outcome),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun => f.pad("begun"),
            Self::Committed => f.pad("committed"),
            Self::TakenBack => f.pad("taken-back"),
            Self::Ended(outcome) => outcome.fmt(f),
        }
    }
}

/// One record of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which migration.
    pub request: Request,
    /// How far it is.
    pub state: State,
    /// With the end: what failed.
    pub error: Option<String>,
}

/// Keeps entries so that they are there after a crash.
///
/// A journal refuses ([`JournalError::is_refusal`]) to begin a second migration of a workload while one is open, and every record
/// that does not follow from the one before. After any other error the entry may be there, or not.
pub trait Journal {
    /// Returns when the entry would survive a crash of this process and of the machine (as far as its file system does).
    fn record(&mut self, entry: &Entry) -> Result<(), JournalError>;
}
