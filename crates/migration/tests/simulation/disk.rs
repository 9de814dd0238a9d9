//! The journal's rows, and the rules of who may follow whom.

use std::collections::BTreeMap;

use godwit_migration::{Entry, JournalError, State};

/// What is on the disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) rows: BTreeMap<u64, Entry>,
}

impl Disk {
    pub(crate) fn state(&self, id: u64) -> Option<State> {
        self.rows.get(&id).map(|entry| entry.state)
    }

    pub(crate) fn open(&self) -> Vec<Entry> {
        self.rows.values().filter(|entry| !matches!(entry.state, State::Ended(_))).cloned().collect()
    }

    /// What [`godwit_migration::SqliteJournal`] refuses (its own tests are with it).
    pub(crate) fn refuses(&self, entry: &Entry) -> Option<JournalError> {
        let id = entry.request.id;
        let found = self.state(id.0);
        let follows = match (found, entry.state) {
            (None, next) => matches!(next, State::Begun | State::Ended(_)),
            (Some(State::Begun), next) => next != State::Begun,
            (Some(State::Committed), next) => matches!(next, State::TakenBack | State::Ended(_)),
            (Some(State::TakenBack), next) => matches!(next, State::TakenBack | State::Ended(_)),
            (Some(ended), next) => ended == next,
        };
        if !follows {
            let found = found.map_or("unknown".into(), |state| state.to_string());
            return Some(JournalError::OutOfOrder { id, found, next: entry.state });
        }
        let open = self.open().into_iter().next().filter(|_| entry.state == State::Begun)?;
        let workload = open.request.workload;
        Some(JournalError::AlreadyOpen { workload, id: open.request.id, state: open.state })
    }

    pub(crate) fn write(&mut self, entry: &Entry) {
        if matches!(entry.state, State::Ended(_)) && !self.rows.contains_key(&entry.request.id.0) {
            return;
        }
        self.rows.insert(entry.request.id.0, entry.clone());
    }
}
