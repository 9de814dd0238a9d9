//! Where the commit point is recorded.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use godwit_model::{MigrationId, NodeName, Outcome, WorkloadName};
use serde::{Deserialize, Serialize};

/// How far a migration is, as the journal knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Under way; if it is found so after a crash, the source is the workload.
    Begun,
    /// Past the commit point; if it is found so after a crash, the target is the workload.
    Committed,
    /// Over.
    Ended(Outcome),
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which migration.
    pub id: MigrationId,
    /// Of which workload.
    pub workload: WorkloadName,
    /// From where.
    pub from: NodeName,
    /// To where.
    pub to: NodeName,
    /// How far.
    pub state: State,
}

/// The journal could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("migration journal {path}")]
pub struct JournalError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

#[cfg(test)]
impl JournalError {
    pub(crate) fn for_tests() -> Self {
        Self { path: "test".into(), source: io::Error::other("injected") }
    }
}

/// Keeps entries so that they are there after a crash.
pub trait Journal {
    /// Returns when the entry would survive a crash of this process and of the machine (as far as its file system does).
    fn record(&mut self, entry: &Entry) -> Result<(), JournalError>;
}

/// JSON lines in a file, flushed to the device line by line.
#[derive(Debug)]
pub struct FileJournal {
    path: PathBuf,
    file: File,
}

impl FileJournal {
    /// Opens or creates it; entries are appended.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError { path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// The last entry of each migration that has begun and not ended; a torn last line (a crash while it was written)
    /// counts as not written.
    pub fn open_entries(path: &Path) -> Result<Vec<Entry>, JournalError> {
        let failed = |source| JournalError { path: path.to_owned(), source };
        let mut last: Vec<Entry> = Vec::new();
        for line in BufReader::new(File::open(path).map_err(failed)?).lines() {
            let Ok(entry) = serde_json::from_str::<Entry>(&line.map_err(failed)?) else { continue };
            last.retain(|e| e.id != entry.id);
            if !matches!(entry.state, State::Ended(_)) {
                last.push(entry);
            }
        }
        Ok(last)
    }
}

impl Journal for FileJournal {
    fn record(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let mut line = serde_json::to_vec(entry).expect("an entry has only string keys");
        line.push(b'\n');
        self.file
            .write_all(&line)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| JournalError { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, state: State) -> Entry {
        Entry {
            id: MigrationId(id),
            workload: WorkloadName::new("video").unwrap(),
            from: NodeName::new("edge1").unwrap(),
            to: NodeName::new("edge2").unwrap(),
            state,
        }
    }

    #[test]
    fn after_a_crash_the_open_migrations_are_found_and_a_torn_line_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = FileJournal::open(&path).unwrap();
        for e in [
            entry(1, State::Begun),
            entry(1, State::Committed),
            entry(1, State::Ended(Outcome::Done)),
            entry(2, State::Begun),
            entry(3, State::Begun),
            entry(3, State::Committed),
        ] {
            journal.record(&e).unwrap();
        }
        journal.file.write_all(br#"{"id":2,"workload":"video","from":"edge1","#).unwrap();
        assert_eq!(FileJournal::open_entries(&path).unwrap(), [entry(2, State::Begun), entry(3, State::Committed)]);
    }
}
