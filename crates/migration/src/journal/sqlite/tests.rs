//! What is there after crashes, damage and a second writer.

use std::fs;

use super::*;

fn request(id: u64, workload: &str) -> Request {
    Request {
        id: MigrationId(id),
        workload: WorkloadName::new(workload).unwrap(),
        from: NodeName::new("edge1").unwrap(),
        to: NodeName::new("edge2").unwrap(),
        strategy: Strategy::PreCopy,
    }
}

fn entry(id: u64, workload: &str, state: State) -> Entry {
    Entry { request: request(id, workload), state, error: None }
}

/// A path in a directory that is removed with the first value.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    (dir, path)
}

#[test]
fn after_a_crash_the_open_migrations_are_found_and_the_ended_ones_remembered() {
    let (_dir, path) = place();
    let mut journal = SqliteJournal::open(&path).unwrap();
    assert_eq!(journal.next_id().unwrap(), MigrationId(1));
    let failed =
        Entry { error: Some("restore: criu died".into()), ..entry(1, "video", State::Ended(Outcome::RolledBack)) };
    for e in [
        &entry(1, "video", State::Begun),
        &entry(1, "video", State::Committed),
        &entry(1, "video", State::TakenBack),
        &failed,
        &entry(2, "video", State::Begun),
        &entry(2, "video", State::Committed),
        &entry(3, "game", State::Begun),
    ] {
        journal.record(e).unwrap();
    }
    // The process ends without closing anything.
    std::mem::forget(journal.database);
    drop(journal._lock);

    let journal = SqliteJournal::open(&path).unwrap();
    let open = journal.open_entries().unwrap();
    assert_eq!(open, [entry(2, "video", State::Committed), entry(3, "game", State::Begun)]);
    assert_eq!(journal.next_id().unwrap(), MigrationId(4));
    let history = journal.history(10).unwrap();
    assert_eq!(history.iter().map(|h| h.entry.request.id.0).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(history[2].entry, failed);
    let times = [Some(history[2].begun), history[2].committed, history[2].taken_back, history[2].ended];
    assert!(times.iter().all(Option::is_some) && times.is_sorted());
}

#[test]
fn a_second_migration_of_a_workload_is_refused_while_one_is_open() {
    let (_dir, path) = place();
    let mut journal = SqliteJournal::open(&path).unwrap();
    journal.record(&entry(1, "video", State::Begun)).unwrap();
    journal.record(&entry(1, "video", State::Committed)).unwrap();
    let refused = journal.record(&entry(2, "video", State::Begun)).unwrap_err();
    assert!(refused.is_refusal());
    assert_eq!(
        refused.to_string(),
        "video is in migration 1 already, which is committed; it has to end before the next one begins"
    );
    journal.record(&entry(2, "game", State::Begun)).unwrap();
    journal.record(&entry(1, "video", State::Ended(Outcome::Done))).unwrap();
    journal.record(&entry(3, "video", State::Begun)).unwrap();
}

#[test]
fn what_does_not_follow_is_refused() {
    let (_dir, path) = place();
    let mut journal = SqliteJournal::open(&path).unwrap();
    let mut refuse = |e: Entry| {
        let error = journal.record(&e).unwrap_err();
        assert!(error.is_refusal(), "{error}");
    };
    refuse(entry(1, "video", State::Committed));
    journal.record(&entry(1, "video", State::Begun)).unwrap();
    journal.record(&entry(1, "video", State::Ended(Outcome::RolledBack))).unwrap();
    // An end that was not heard of is recorded again.
    journal.record(&entry(1, "video", State::Ended(Outcome::RolledBack))).unwrap();
    // One whose beginning was not recorded after all.
    journal.record(&entry(9, "video", State::Ended(Outcome::RolledBack))).unwrap();
    let mut refuse = |e: Entry| assert!(journal.record(&e).unwrap_err().is_refusal(), "{e:?}");
    refuse(entry(1, "video", State::Committed));
    refuse(entry(1, "video", State::Begun));
    refuse(entry(1, "game", State::Ended(Outcome::RolledBack)));
    refuse(entry(1, "video", State::Ended(Outcome::Done)));
    assert_eq!(journal.open_entries().unwrap(), []);
}

#[test]
fn there_is_one_writer_and_readers_are_free() {
    let (_dir, path) = place();
    let mut journal = SqliteJournal::open(&path).unwrap();
    let refused = SqliteJournal::open(&path).unwrap_err();
    assert!(matches!(refused, JournalError::Locked { .. }), "{refused}");
    journal.record(&entry(1, "video", State::Begun)).unwrap();
    let mut reader = SqliteJournal::look_at(&path).unwrap();
    assert_eq!(reader.open_entries().unwrap().len(), 1);
    journal.record(&entry(1, "video", State::Committed)).unwrap();
    assert_eq!(reader.open_entries().unwrap()[0].state, State::Committed);
    reader.record(&entry(2, "game", State::Begun)).unwrap_err();
    drop(journal);
    SqliteJournal::open(&path).unwrap();
}

#[test]
fn a_log_torn_at_any_byte_leaves_a_record_that_was_whole_before() {
    let (dir, path) = place();
    let mut journal = SqliteJournal::open(&path).unwrap();
    let states = [State::Begun, State::Committed, State::Ended(Outcome::Done)];
    for state in states {
        journal.record(&entry(1, "video", state)).unwrap();
    }
    // As the disk has it when the machine dies, with a log that goes only so far.
    let (database, log) = (fs::read(&path).unwrap(), fs::read(path.with_extension("db-wal")).unwrap());
    drop(journal);
    assert!(log.len() > 4096, "the records are in the log");
    let torn = dir.path().join("torn.db");
    let mut last = 0;
    for length in (0..=log.len()).step_by(509).chain([log.len()]) {
        fs::write(&torn, &database).unwrap();
        fs::write(torn.with_extension("db-wal"), &log[..length]).unwrap();
        let _ = fs::remove_file(torn.with_extension("db-shm"));
        let journal = SqliteJournal::open(&torn).unwrap();
        let found = journal.history(1).unwrap().pop();
        let seen = found.map_or(0, |h| 1 + states.iter().position(|state| *state == h.entry.state).unwrap());
        assert!(seen >= last, "at {length} bytes: a longer log has less in it");
        last = seen;
    }
    assert_eq!(last, states.len());
}

#[test]
fn a_damaged_file_is_said_to_be_and_left_as_it_is() {
    let (_dir, path) = place();
    let mut journal = SqliteJournal::open(&path).unwrap();
    for id in 1..200 {
        journal.record(&entry(id, &format!("w{id}"), State::Begun)).unwrap();
    }
    drop(journal);
    let whole = fs::read(&path).unwrap();
    let hurt = |at: usize, len: usize| {
        let mut bytes = whole.clone();
        bytes[at..at + len].fill(0xA5);
        bytes
    };
    for bytes in [b"{\"id\":1,\"workload\":\"video\"}\n".repeat(100), hurt(0, 100), hurt(4096, 200), hurt(8192, 3000)] {
        fs::write(&path, &bytes).unwrap();
        let error = SqliteJournal::open(&path).map(|j| j.open_entries()).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("nothing in it was changed"), "{error}");
        assert!(fs::read(&path).unwrap() == bytes, "it was changed");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(SqliteJournal::open(&path).unwrap().open_entries().unwrap().len(), 199);
}

#[test]
fn another_programs_database_and_a_later_format_are_refused() {
    let (_dir, path) = place();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE phone (number TEXT)").unwrap();
    let error = SqliteJournal::open(&path).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
    fs::remove_file(&path).unwrap();
    drop(SqliteJournal::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteJournal::open(&path).unwrap_err();
    assert!(matches!(error, JournalError::Version { found: 99, known: 1, .. }), "{error}");
}
