//! What a node remembers of a workload's newest migration, beyond the life of its agent.
//!
//! One small file a workload, `migrations/WORKLOAD.json` in the node's state: enough for an agent that has just been started to
//! end what another has begun, and to know a step that comes too late. A migration with a greater number replaces it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use godwit_migration::PartError;
use serde::{Deserialize, Serialize};

use crate::config::AgentConfig;
use crate::paging;
use crate::wire::Migration;

/// How far this node's side of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mark {
    /// The source: begun, and perhaps frozen.
    Leaving,
    /// The source: to be ended, or ended.
    Discarding,
    /// The source: nothing is left of the migration here.
    Left,
    /// The target: begun, and has not run.
    Coming,
    /// The target: has been let run, or is about to be.
    Resuming,
    /// The target: is an ordinary workload of this node.
    Settled,
    /// The target: nothing is left of the migration here.
    Aborted,
    /// The target: it ran, and ended before it had all its memory; nothing is left of it here.
    Lost,
}

impl Mark {
    /// Whether nothing is left to be done for the migration here.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::Left | Self::Settled | Self::Aborted | Self::Lost)
    }

    /// For a person.
    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::Leaving => "its agent was started again; perhaps frozen, waits for its controller",
            Self::Discarding => "its agent was started again; to be ended, waits for its controller",
            Self::Coming => "its agent was started again; has not run, waits for its controller",
            Self::Resuming => "its agent was started again; was let run, waits for its controller",
            Self::Left | Self::Settled | Self::Aborted | Self::Lost => "over",
        }
    }

    pub(crate) fn side(self) -> &'static str {
        match self {
            Self::Leaving | Self::Discarding | Self::Left => "source",
            Self::Coming | Self::Resuming | Self::Settled | Self::Aborted | Self::Lost => "target",
        }
    }
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) id: u64,
    pub(crate) workload: String,
    pub(crate) strategy: String,
    pub(crate) mark: Mark,
    /// The source of a post-copy: where its memory is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) door: Option<paging::Noted>,
}

/// The notebook's page for one migration.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    path: PathBuf,
    migration: Migration,
}

/// What the page says of this migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// This node has not begun it.
    Nothing,
    /// So far it is.
    At(Mark),
    /// A newer one of the same workload is known here.
    Outdated,
}

impl Page {
    pub(crate) fn of(config: &AgentConfig, migration: &Migration) -> Self {
        let path = dir(config).join(format!("{}.json", migration.workload));
        Self { path, migration: migration.clone() }
    }

    pub(crate) fn read(&self) -> Result<Known, PartError> {
        Ok(match self.note()? {
            Some(note) if note.id > self.migration.id => Known::Outdated,
            Some(note) if note.id == self.migration.id => Known::At(note.mark),
            _ => Known::Nothing,
        })
    }

    /// Whether that note is of this migration.
    pub(crate) fn is_of(&self, note: &Note) -> bool {
        note.id == self.migration.id
    }

    /// What is there, of whichever migration.
    pub(crate) fn note(&self) -> Result<Option<Note>, PartError> {
        let failed = |e| PartError::caused_by(format!("read {}", self.path.display()), e);
        match fs::read(&self.path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| failed(io::Error::other(e))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Begins: an error for a migration that is over here, or older than what is known.
    pub(crate) fn begin(&self, mark: Mark) -> Result<(), PartError> {
        let id = self.migration.id;
        match self.read()? {
            Known::Nothing => self.write(mark),
            Known::Outdated => Err(PartError::new(format!("migration {id} is older than another of this workload"))),
            Known::At(known) if known.is_end() => Err(PartError::new(format!("migration {id} has ended on this node"))),
            Known::At(_) => Err(PartError::new(format!("migration {id} has begun on this node already"))),
        }
    }

    /// Notes an end that is reached already. Where there is no room for that, the migration stays noted as begun: it cannot begin
    /// again either, and to end it once more does no harm.
    pub(crate) fn close(&self, mark: Mark) {
        if let Err(error) = self.write(mark) {
            tracing::warn!(id = self.migration.id, error = error.chain(), "the end of a migration could not be noted");
        }
    }

    /// On the device when this returns.
    pub(crate) fn write(&self, mark: Mark) -> Result<(), PartError> {
        self.keep(mark, None)
    }

    /// Notes where the memory of a source that is leaving is fetched.
    pub(crate) fn note_door(&self, door: paging::Noted) -> Result<(), PartError> {
        self.keep(Mark::Leaving, Some(door))
    }

    fn keep(&self, mark: Mark, door: Option<paging::Noted>) -> Result<(), PartError> {
        let Migration { id, workload, strategy } = self.migration.clone();
        let note = Note { id, workload, strategy, mark, door };
        let text = serde_json::to_vec(&note).expect("a note has only string keys");
        let write = || -> io::Result<()> {
            let dir = self.path.parent().expect("it is in a directory");
            fs::create_dir_all(dir)?;
            let fresh = self.path.with_extension("new");
            // It may hold a word that opens a door.
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&text)?;
            file.sync_data()?;
            fs::rename(&fresh, &self.path)?;
            File::open(dir)?.sync_data()
        };
        write().map_err(|e| PartError::caused_by(format!("write {}", self.path.display()), e))
    }
}

fn dir(config: &AgentConfig) -> PathBuf {
    config.env().host_path(config.state.join("migrations"))
}

/// What is not over on this node.
pub(crate) fn open(config: &AgentConfig) -> Vec<Note> {
    let files = fs::read_dir(dir(config)).into_iter().flatten().flatten().map(|file| file.path());
    let notes = files.filter(|path| path.extension().is_some_and(|ext| ext == "json"));
    let mut notes: Vec<Note> = (notes.filter_map(|path| fs::read(path).ok()))
        .filter_map(|text| serde_json::from_slice(&text).ok())
        .filter(|note: &Note| !note.mark.is_end())
        .collect();
    notes.sort_by_key(|note| note.id);
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;

    fn page(dir: &std::path::Path, id: u64) -> (AgentConfig, Page) {
        let config = AgentConfig {
            node: godwit_model::NodeName::new("edge1").unwrap(),
            listen: Listen::Unix("none".into()),
            data: std::net::Ipv4Addr::LOCALHOST.into(),
            data_identity: None,
            state: dir.into(),
            memory: None,
            node_init: None,
            cgroups: Vec::new(),
            lease_s: 600,
        };
        let migration = Migration { id, workload: "video".into(), strategy: "pre-copy".into() };
        let page = Page::of(&config, &migration);
        (config, page)
    }

    #[test]
    fn the_newest_migration_of_a_workload_counts_and_what_has_ended_does_not_begin_again() {
        let dir = tempfile::tempdir().unwrap();
        let (config, seven) = page(dir.path(), 7);
        assert_eq!(seven.read().unwrap(), Known::Nothing);
        seven.begin(Mark::Leaving).unwrap();
        assert_eq!((seven.read().unwrap(), open(&config).len()), (Known::At(Mark::Leaving), 1));
        assert!(seven.begin(Mark::Leaving).unwrap_err().to_string().contains("has begun"));
        seven.write(Mark::Left).unwrap();
        assert!(seven.begin(Mark::Leaving).unwrap_err().to_string().contains("has ended"));
        assert_eq!(open(&config), []);

        let (_, eight) = page(dir.path(), 8);
        eight.begin(Mark::Coming).unwrap();
        assert_eq!(seven.read().unwrap(), Known::Outdated);
        assert!(seven.begin(Mark::Leaving).unwrap_err().to_string().contains("older than another"));
    }

    #[test]
    fn a_page_that_cannot_be_read_is_an_error_and_not_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (_, page) = page(dir.path(), 7);
        page.write(Mark::Leaving).unwrap();
        fs::write(&page.path, b"{\"id\":").unwrap();
        assert!(page.read().is_err() && page.begin(Mark::Leaving).is_err());
    }
}
