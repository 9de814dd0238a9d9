//! The journal as an SQLite database.
//!
//! One row a migration, with the times of its states. Write-ahead log, flushed to the device with every record
//! (`synchronous = FULL`): a crash in the middle of a write leaves the record before it. One writer, held by a lock on a file
//! beside it that the kernel lets go of when the process ends; readers are free.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use godwit_model::{MigrationId, NodeName, Outcome, Strategy, WorkloadName};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, TransactionBehavior, params};

use super::{Entry, Journal, JournalError, State};
use crate::request::Request;

/// "Gdwt": says that the database is one of ours.
const APPLICATION: i64 = 0x4764_7774;
/// The format that this program writes.
const VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE migration (
        id            INTEGER PRIMARY KEY,
        workload      TEXT NOT NULL,
        source        TEXT NOT NULL,
        target        TEXT NOT NULL,
        strategy      TEXT NOT NULL,
        state         TEXT NOT NULL CHECK (state IN ('begun', 'committed', 'taken-back', 'ended')),
        outcome       TEXT CHECK ((outcome IS NOT NULL) = (state = 'ended')),
        error         TEXT,
        begun_ms      INTEGER NOT NULL,
        committed_ms  INTEGER,
        taken_back_ms INTEGER,
        ended_ms      INTEGER
    ) STRICT;
    CREATE UNIQUE INDEX open_once ON migration (workload) WHERE state <> 'ended';
";
const COLUMNS: &str = "id, workload, source, target, strategy, state, outcome, error, begun_ms, committed_ms, \
                       taken_back_ms, ended_ms";

/// One migration as the journal has it. Times are of the wall clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Request, state, error.
    pub entry: Entry,
    /// When it began.
    pub begun: SystemTime,
    /// When it was committed.
    pub committed: Option<SystemTime>,
    /// When the commit was taken back.
    pub taken_back: Option<SystemTime>,
    /// When it was over.
    pub ended: Option<SystemTime>,
}

/// See the module.
#[derive(Debug)]
pub struct SqliteJournal {
    path: PathBuf,
    database: Connection,
    // Held, not read.
    _lock: Option<File>,
}

impl SqliteJournal {
    /// Opens or makes it, as its one writer.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let lock = lock(path)?;
        let journal =
            Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE, Some(lock))?;
        let database = &journal.database;
        let version = journal.check()?;
        let made = (|| {
            database.pragma_update(None, "journal_mode", "wal")?;
            database.pragma_update(None, "synchronous", "full")?;
            if version == 0 {
                let made = database.unchecked_transaction()?;
                made.execute_batch(SCHEMA)?;
                made.pragma_update(None, "application_id", APPLICATION)?;
                made.pragma_update(None, "user_version", VERSION)?;
                made.commit()?;
            }
            // From here it is known to be whole: the log may be written back when it is closed.
            database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(drop)
        })();
        made.map_err(|e| journal.failed(e))?;
        Ok(journal)
    }

    /// Opens one that is there, to look at it only; its writer may be at work.
    pub fn look_at(path: &Path) -> Result<Self, JournalError> {
        let journal = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, None)?;
        journal.check()?;
        journal.database.pragma_update(None, "query_only", true).map_err(|e| journal.failed(e))?;
        Ok(journal)
    }

    fn connect(path: &Path, how: OpenFlags, lock: Option<File>) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Database { path: path.to_owned(), source };
        let database = Connection::open_with_flags(path, how | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
        database.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
        // Whatever is found damaged stays as it is.
        database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
        Ok(Self { path: path.to_owned(), database, _lock: lock })
    }

    /// Is it whole, and ours? Returns its format, 0 for an empty database.
    fn check(&self) -> Result<i64, JournalError> {
        let read = |pragma: &str| self.database.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let tables = "SELECT count(*) FROM sqlite_schema";
        let found = (|| {
            let tables: i64 = self.database.query_row(tables, [], |row| row.get(0))?;
            let whole: String = self.database.pragma_query_value(None, "quick_check", |row| row.get(0))?;
            Ok((read("application_id")?, read("user_version")?, tables, whole))
        })();
        let (application, version, tables, whole) = found.map_err(|e| self.failed(e))?;
        let damaged = |what| Err(JournalError::Damaged { path: self.path.clone(), what });
        if whole != "ok" {
            return damaged(whole);
        }
        match (application, version) {
            (0, 0) if tables == 0 => Ok(0),
            (APPLICATION, 1..=VERSION) => Ok(version),
            (APPLICATION, found) => Err(JournalError::Version { path: self.path.clone(), found, known: VERSION }),
            _ => damaged("it is a database of another program".into()),
        }
    }

    fn failed(&self, source: rusqlite::Error) -> JournalError {
        let path = self.path.clone();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                JournalError::Damaged { path, what: source.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => JournalError::Locked { path },
            _ => JournalError::Database { path, source },
        }
    }

    /// The number that the next migration gets.
    pub fn next_id(&self) -> Result<MigrationId, JournalError> {
        let next = "SELECT coalesce(max(id), 0) + 1 FROM migration";
        let id = self.database.query_row(next, [], |row| row.get::<_, i64>(0)).map_err(|e| self.failed(e))?;
        Ok(MigrationId(id.unsigned_abs()))
    }

    /// The migrations that have begun and not ended, the oldest first.
    pub fn open_entries(&self) -> Result<Vec<Entry>, JournalError> {
        let open = self.select("WHERE state <> 'ended' ORDER BY id", i64::MAX)?;
        Ok(open.into_iter().map(|history| history.entry).collect())
    }

    /// The last so many migrations, the newest first.
    pub fn history(&self, last: u32) -> Result<Vec<History>, JournalError> {
        self.select("ORDER BY id DESC", last.into())
    }

    fn select(&self, which: &str, limit: i64) -> Result<Vec<History>, JournalError> {
        let query = format!("SELECT {COLUMNS} FROM migration {which} LIMIT ?1");
        let rows = (|| {
            let mut statement = self.database.prepare(&query)?;
            statement.query_map([limit], |row| Ok(history(row)))?.collect::<Result<Vec<_>, _>>()
        })();
        rows.map_err(|e| self.failed(e))?
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|what| JournalError::Damaged { path: self.path.clone(), what })
    }

    fn state_of(&self, id: MigrationId) -> Result<Option<(Entry, State)>, JournalError> {
        let found = self.select(&format!("WHERE id = {}", id.0), 1)?.pop();
        Ok(found.map(|history| (history.entry.clone(), history.entry.state)))
    }
}

impl Journal for SqliteJournal {
    fn record(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let (id, request) = (entry.request.id, &entry.request);
        let known = self.state_of(id)?;
        if !follows(known.as_ref(), entry) {
            let found = known.map_or("unknown".to_owned(), |(found, state)| match found.request == *request {
                true => state.to_string(),
                false => format!("another one, of {}", found.request.workload),
            });
            return Err(JournalError::OutOfOrder { id, found, next: entry.state });
        }
        if entry.state == State::Begun {
            let open = self.open_entries()?.into_iter().find(|open| open.request.workload == request.workload);
            if let Some(open) = open {
                let (id, state) = (open.request.id, open.state);
                return Err(JournalError::AlreadyOpen { workload: request.workload.clone(), id, state });
            }
        }
        let now = since_epoch(SystemTime::now());
        let number = i64::try_from(id.0).unwrap_or(i64::MAX);
        let written = (|| {
            let transaction = rusqlite::Transaction::new_unchecked(&self.database, TransactionBehavior::Immediate)?;
            let changed = match entry.state {
                State::Begun => transaction.execute(
                    "INSERT INTO migration (id, workload, source, target, strategy, state, begun_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, 'begun', ?6)",
                    params![
                        number,
                        request.workload.as_str(),
                        request.from.as_str(),
                        request.to.as_str(),
                        request.strategy.to_string(),
                        now
                    ],
                )?,
                State::Committed => transaction.execute(
                    "UPDATE migration SET state = 'committed', committed_ms = ?2 WHERE id = ?1",
                    params![number, now],
                )?,
                State::TakenBack => transaction.execute(
                    "UPDATE migration SET state = 'taken-back', taken_back_ms = ?2 WHERE id = ?1",
                    params![number, now],
                )?,
                State::Ended(outcome) => transaction.execute(
                    "UPDATE migration SET state = 'ended', outcome = ?2, error = ?3, ended_ms = ?4 WHERE id = ?1",
                    params![number, outcome.to_string(), entry.error, now],
                )?,
            };
            transaction.commit()?;
            Ok(changed)
        })();
        written.map(drop).map_err(|e| self.failed(e))
    }
}

/// What may come after what. An end that was recorded already may be recorded again, and one whose beginning failed to be
/// recorded is none.
fn follows(known: Option<&(Entry, State)>, next: &Entry) -> bool {
    let Some((found, state)) = known else { return matches!(next.state, State::Begun | State::Ended(_)) };
    found.request == next.request
        && match (state, next.state) {
            (State::Begun, State::Committed | State::TakenBack | State::Ended(_)) => true,
            (State::Committed, State::TakenBack | State::Ended(_)) => true,
            (State::TakenBack, State::TakenBack | State::Ended(_)) => true,
            (State::Ended(was), State::Ended(is)) => *was == is,
            _ => false,
        }
}

fn lock(path: &Path) -> Result<File, JournalError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let failed = |source| JournalError::File { path: beside.clone(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&beside).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn since_epoch(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A row; what is wrong with it where it is none of ours.
fn history(row: &Row<'_>) -> Result<History, String> {
    let wrong = |e: rusqlite::Error| e.to_string();
    let text = |column: &str| row.get::<_, String>(column).map_err(wrong);
    let time = |column: &str| {
        let ms = row.get::<_, Option<i64>>(column).map_err(wrong)?;
        Ok::<_, String>(ms.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs())))
    };
    let outcome = || match text("outcome")?.as_str() {
        "done" => Ok(Outcome::Done),
        "rolled-back" => Ok(Outcome::RolledBack),
        "lost" => Ok(Outcome::Lost),
        other => Err(format!("{other} is no outcome")),
    };
    let state = match text("state")?.as_str() {
        "begun" => State::Begun,
        "committed" => State::Committed,
        "taken-back" => State::TakenBack,
        "ended" => State::Ended(outcome()?),
        other => return Err(format!("{other} is no state")),
    };
    let node = |column: &str| NodeName::new(text(column)?).map_err(|e| e.to_string());
    let request = Request {
        id: MigrationId(row.get::<_, i64>("id").map_err(wrong)?.unsigned_abs()),
        workload: WorkloadName::new(text("workload")?).map_err(|e| e.to_string())?,
        from: node("source")?,
        to: node("target")?,
        strategy: text("strategy")?.parse::<Strategy>().map_err(|e| e.to_string())?,
    };
    let error = row.get("error").map_err(wrong)?;
    Ok(History {
        entry: Entry { request, state, error },
        begun: time("begun_ms")?.unwrap_or(SystemTime::UNIX_EPOCH),
        committed: time("committed_ms")?,
        taken_back: time("taken_back_ms")?,
        ended: time("ended_ms")?,
    })
}

#[cfg(test)]
mod tests;
