//! What can be wrong with a journal.

use std::path::PathBuf;

use godwit_model::{MigrationId, WorkloadName};

use super::State;

/// The journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The workload is in a migration already.
    #[error(
        "{workload} is in migration {} already, which is {state}; it has to end before the next one begins",
        id.0
    )]
    AlreadyOpen {
        /// The workload.
        workload: WorkloadName,
        /// The migration that is open.
        id: MigrationId,
        /// How far that one is.
        state: State,
    },
    /// The entry does not follow from what is recorded: a bug, or a second controller.
    #[error("migration {} cannot be {next}: the journal has it as {found}", id.0)]
    OutOfOrder {
        /// Which.
        id: MigrationId,
        /// What the journal has.
        found: String,
        /// What was to be recorded.
        next: State,
    },
    /// Another process writes it.
    #[error("migration journal {}: another process of Godwit writes it; end that one first", path.display())]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// It is not readable as a journal.
    #[error(
        "migration journal {}: it is damaged ({what}); nothing in it was changed. Look after the workloads that were moving, \
         then move the file and those beside it (-wal, -shm) away to begin a new one",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It was written by another version of Godwit.
    #[error(
        "migration journal {}: its format is {found}, this Godwit knows up to {known}; use the Godwit that wrote it",
        path.display()
    )]
    Version {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// The database failed.
    #[error("migration journal {}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file system failed.
    #[error("migration journal {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A journal that is kept elsewhere failed.
    #[error("migration journal: {0}")]
    Elsewhere(String),
}

impl JournalError {
    /// Whether it is certain that nothing was recorded; after every other error the entry may be there all the same.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::AlreadyOpen { .. } | Self::OutOfOrder { .. })
    }
}
