//! `godwit journal`: what the migrations' journal of a testbed has, or one that is somewhere else.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use godwit_migration::{History, SqliteJournal, State};
use godwit_model::Outcome;
use serde::Serialize;

use crate::args::Journal;
use crate::failure::{Fail, Result};

pub fn run(args: &Journal) -> Result {
    let path = args.path.clone().unwrap_or_else(|| args.which.name.journal());
    let missing = || match &args.path {
        Some(path) => format!("there is no journal {}", path.display()),
        None => format!("testbed {} does not run, so it has no journal; name a file", args.which.name),
    };
    path.metadata().bad_input_in(missing())?;
    let journal = SqliteJournal::look_at(&path).bad_input()?;
    let mut all = journal.history(args.last).bad_input()?;
    all.reverse();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all.iter().map(Row::of).collect::<Vec<_>>())?);
    } else {
        print!("{}", table(&all, SystemTime::now()));
    }
    Ok(ExitCode::SUCCESS)
}

/// A migration; times in ms since 1970.
#[derive(Debug, Serialize)]
struct Row<'a> {
    id: u64,
    workload: &'a str,
    from: &'a str,
    to: &'a str,
    strategy: String,
    /// `begun`, `committed`, `taken-back` or `ended`.
    state: String,
    begun_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    committed_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_back_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(history: &'a History) -> Self {
        let (request, state) = (&history.entry.request, history.entry.state);
        let outcome = if let State::Ended(outcome) = state { Some(outcome) } else { None };
        Self {
            id: request.id.0,
            workload: request.workload.as_str(),
            from: request.from.as_str(),
            to: request.to.as_str(),
            strategy: request.strategy.to_string(),
            state: if outcome.is_some() { "ended".into() } else { state.to_string() },
            begun_ms: since_epoch(history.begun),
            committed_ms: history.committed.map(since_epoch),
            taken_back_ms: history.taken_back.map(since_epoch),
            ended_ms: history.ended.map(since_epoch),
            outcome,
            error: history.entry.error.as_deref(),
        }
    }
}

fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn table(all: &[History], now: SystemTime) -> String {
    let mut text = String::from(
        "ID    WORKLOAD      FROM          TO            STRATEGY   BEGUN        COMMITTED  ENDED     STATE\n",
    );
    for history in all {
        let request = &history.entry.request;
        let after = |time: Option<SystemTime>| {
            time.and_then(|time| time.duration_since(history.begun).ok())
                .map_or("-".into(), |d| format!("+{} ms", d.as_millis()))
        };
        text.push_str(&format!(
            "{:<4}  {:<12}  {:<12}  {:<12}  {:<9}  {:<11}  {:<9}  {:<8}  {}\n",
            request.id.0,
            request.workload,
            request.from,
            request.to,
            request.strategy,
            ago(now.duration_since(history.begun).unwrap_or_default()),
            after(history.committed),
            after(history.ended),
            history.entry.state
        ));
        if let Some(error) = &history.entry.error {
            text.push_str(&format!("      {error}\n"));
        }
    }
    text
}

fn ago(since: Duration) -> String {
    match since.as_secs() {
        s @ 0..120 => format!("{s} s ago"),
        s @ 120..7200 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}
