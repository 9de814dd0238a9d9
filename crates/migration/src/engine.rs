//! The order of a migration and its one commit point.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use godwit_model::{Bytes, CopyRound, MigrationId, NodeName, Outcome, Phase, PhaseTime, Strategy, WorkloadName};

use crate::journal::{Entry, Journal, State};
use crate::parts::{PartError, Side, Source, Target, Told, Traffic};

/// How often a step after the commit is tried before the migration is given up as stuck.
const ATTEMPTS_AFTER_COMMIT: u32 = 5;
const PAUSE_BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

/// What is to be moved.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its number in the journal.
    pub id: MigrationId,
    /// Which workload.
    pub workload: WorkloadName,
    /// From where.
    pub from: NodeName,
    /// To where.
    pub to: NodeName,
    /// How.
    pub strategy: Strategy,
}

impl Request {
    fn entry(&self, state: State) -> Entry {
        Entry { id: self.id, workload: self.workload.clone(), from: self.from.clone(), to: self.to.clone(), state }
    }
}

/// Who takes part in a migration.
pub struct Parts<'a> {
    /// The runtime where the workload runs.
    pub source: &'a mut dyn Source,
    /// The runtime to which it goes.
    pub target: &'a mut dyn Target,
    /// Who gets the packets.
    pub traffic: &'a mut dyn Traffic,
    /// Where the commit point is recorded.
    pub journal: &'a mut dyn Journal,
}

/// Asks a migration to stop; heeded before the commit, between phases.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happens while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// A phase begins.
    Entered(Phase),
    /// A phase ended well.
    Left(PhaseTime),
    /// A round of memory was sent.
    Copied(CopyRound),
    /// Something failed; the source is being brought back.
    RollingBack,
}

/// How a migration ended.
#[derive(Debug)]
pub struct Ended {
    /// Where the workload runs now.
    pub outcome: Outcome,
    /// Every phase that was entered, the failed one included.
    pub phases: Vec<PhaseTime>,
    /// The rounds of pre-copy, that of the freeze last.
    pub rounds: Vec<CopyRound>,
    /// When the hold began and when the copy that answers ran again; `None` when it was never frozen.
    pub freeze: Option<(Instant, Instant)>,
    /// State sent.
    pub bytes: Bytes,
    /// From the call to the end.
    pub total: Duration,
    /// What failed: with [`Outcome::Done`] something after the switch that did not matter to the workload.
    pub error: Option<String>,
}

impl Ended {
    /// How long the workload stood still, in ms.
    pub fn freeze_ms(&self) -> f64 {
        self.freeze.map_or(0.0, |(from, to)| ms(to - from))
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

struct Clock<'a> {
    phases: Vec<PhaseTime>,
    rounds: Vec<CopyRound>,
    freeze_began: Option<Instant>,
    /// When the copy that answers ran, with its packets.
    resumed: Option<Instant>,
    observe: &'a mut dyn FnMut(Progress),
}

impl Clock<'_> {
    fn copied(&mut self, round: CopyRound) {
        self.rounds.push(round);
        (self.observe)(Progress::Copied(round));
    }

    fn run<T>(&mut self, phase: Phase, step: impl FnOnce() -> Result<T, PartError>) -> Result<T, String> {
        (self.observe)(Progress::Entered(phase));
        let start = Instant::now();
        if phase == Phase::Freeze {
            self.freeze_began = Some(start);
        }
        let result = step();
        let time = PhaseTime { phase, ms: ms(start.elapsed()) };
        self.phases.push(time);
        match result {
            Ok(value) => {
                (self.observe)(Progress::Left(time));
                Ok(value)
            }
            Err(error) => Err(format!("{phase}: {}", error.chain())),
        }
    }
}

impl Clock<'_> {
    /// Adds to the phase that was entered last.
    fn go_on<T>(&mut self, step: impl FnOnce() -> Result<T, PartError>) -> Result<T, String> {
        let start = Instant::now();
        let result = step();
        let last = self.phases.last_mut().expect("a phase was entered");
        last.ms += ms(start.elapsed());
        result.map_err(|error| format!("{}: {}", last.phase, error.chain()))
    }
}

/// Moves a workload. Blocks until it is over; `observe` is called between steps and must not block.
pub fn migrate(request: &Request, parts: &mut Parts<'_>, cancel: &Cancel, observe: &mut dyn FnMut(Progress)) -> Ended {
    let start = Instant::now();
    let mut clock = Clock { phases: Vec::new(), rounds: Vec::new(), freeze_began: None, resumed: None, observe };

    let before = before_commit(request, parts, cancel, &mut clock);
    let (outcome, bytes, resumed, error) = match before {
        Ok(bytes) => match clock.run(Phase::Switch, || parts.target.resume()) {
            Ok(()) => {
                let error = on_the_target(parts, &mut clock);
                (Outcome::Done, bytes, clock.resumed, error)
            }
            Err(error) => {
                let (outcome, error) = take_back(request, parts, &mut clock, error);
                (outcome, bytes, clock.resumed, Some(error))
            }
        },
        Err(error) => {
            let (outcome, error) = roll_back(parts, &mut clock, error);
            (outcome, Bytes(0), clock.resumed, Some(error))
        }
    };
    // A lost workload stays open in the journal, for whoever recovers it.
    if outcome != Outcome::Lost
        && let Err(error) = parts.journal.record(&request.entry(State::Ended(outcome)))
    {
        tracing::warn!(id = request.id.0, %error, "the end of the migration could not be recorded");
    }
    Ended {
        outcome,
        phases: clock.phases,
        rounds: clock.rounds,
        freeze: clock.freeze_began.map(|from| (from, resumed.unwrap_or_else(Instant::now))),
        bytes,
        total: start.elapsed(),
        error,
    }
}

fn before_commit(
    request: &Request,
    parts: &mut Parts<'_>,
    cancel: &Cancel,
    clock: &mut Clock<'_>,
) -> Result<Bytes, String> {
    let go_on = || if cancel.is_cancelled() { Err("cancelled".to_owned()) } else { Ok(()) };
    go_on()?;
    clock.run(Phase::Preflight, || {
        parts.source.preflight()?;
        parts.target.preflight()
    })?;
    go_on()?;
    clock.run(Phase::Stage, || {
        parts
            .journal
            .record(&request.entry(State::Begun))
            .map_err(|e| PartError::caused_by("the start could not be recorded", e))?;
        parts.source.stage()?;
        parts.target.stage()?;
        parts.traffic.stage()
    })?;
    go_on()?;
    if request.strategy == Strategy::PreCopy {
        let mut rounds = Vec::new();
        clock.run(Phase::PreCopy, || {
            parts.source.precopy(&mut |told| {
                if let Told::Round(round) = told {
                    rounds.push(round);
                }
                !cancel.is_cancelled()
            })
        })?;
        for round in rounds {
            clock.copied(round);
        }
        go_on()?;
    }
    clock.run(Phase::Freeze, || {
        parts.traffic.hold()?;
        parts.source.freeze()?;
        parts.traffic.fence()
    })?;
    if let Some(round) = clock.run(Phase::Dump, || parts.source.dump())? {
        clock.copied(round);
    }
    let bytes = clock.run(Phase::Transfer, || {
        let bytes = parts.source.send(&mut |_| !cancel.is_cancelled())?;
        parts.target.received()?;
        Ok(bytes)
    })?;
    go_on()?;
    clock.run(Phase::Restore, || parts.target.restore())?;
    go_on()?;
    clock.run(Phase::Commit, || {
        parts
            .journal
            .record(&request.entry(State::Committed))
            .map_err(|e| PartError::caused_by("the commit could not be recorded", e))
    })?;
    Ok(bytes)
}

/// The target runs: the address follows, the source's frozen copy ends. Returns what of it failed.
fn on_the_target(parts: &mut Parts<'_>, clock: &mut Clock<'_>) -> Option<String> {
    let mut errors: Vec<String> = Vec::new();
    let released = clock.go_on(|| insist("switch the address", || parts.traffic.release(Side::Target)));
    errors.extend(released.err());
    clock.resumed = Some(Instant::now());
    let drained = clock.run(Phase::Drain, || {
        // The target first: as long as it has not all its memory in place, the source's is not thrown away.
        let settled = parts.target.settle();
        let ended = insist("end the source's frozen copy", || parts.source.discard());
        let all = [settled, ended, parts.source.drain(), parts.traffic.drain()];
        all.into_iter().collect::<Result<(), _>>()
    });
    errors.extend(drained.err());
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// The commit stands and the target did not come to life. Its copy has never run and the source's is still whole, so the
/// source is taken back, after the target is gone for certain and after that was recorded.
fn take_back(request: &Request, parts: &mut Parts<'_>, clock: &mut Clock<'_>, error: String) -> (Outcome, String) {
    if let Err(abort) = parts.target.abort() {
        return (Outcome::Lost, format!("{error}; the target's copy could not be removed: {}", abort.chain()));
    }
    if let Err(record) = parts.journal.record(&request.entry(State::Ended(Outcome::RolledBack))) {
        return (Outcome::Lost, format!("{error}; {record}"));
    }
    roll_back(parts, clock, error)
}

fn insist(what: &str, mut step: impl FnMut() -> Result<(), PartError>) -> Result<(), PartError> {
    let mut attempt = 1;
    loop {
        match step() {
            Ok(()) => return Ok(()),
            Err(error) if attempt == ATTEMPTS_AFTER_COMMIT => {
                return Err(error.within(format!("could not {what} in {attempt} attempts")));
            }
            Err(error) => {
                tracing::warn!(attempt, error = error.chain(), "could not {what}, trying again");
                attempt += 1;
                thread::sleep(PAUSE_BETWEEN_ATTEMPTS);
            }
        }
    }
}

/// Brings the source back. Returns how that ended, and everything that failed.
fn roll_back(parts: &mut Parts<'_>, clock: &mut Clock<'_>, error: String) -> (Outcome, String) {
    (clock.observe)(Progress::RollingBack);
    let mut failed = vec![error];
    // The target first: while it is not known to be gone the source must not run. If it cannot be aborted the source
    // runs all the same, because the address is not at the target: it cannot answer.
    if let Err(error) = parts.target.abort() {
        tracing::error!(error = error.chain(), "the target could not be aborted");
    }
    let thawed = insist("thaw the source", || parts.source.thaw());
    let mut outcome = if thawed.is_ok() { Outcome::RolledBack } else { Outcome::Lost };
    failed.extend(thawed.err().map(|e| e.chain()));
    if clock.freeze_began.is_some() {
        let released = insist("give the packets back to the source", || parts.traffic.release(Side::Source));
        if let Err(error) = released {
            outcome = Outcome::Lost;
            failed.push(error.chain());
        }
    }
    clock.resumed = Some(Instant::now());
    if let Err(error) = parts.traffic.drain() {
        tracing::warn!(error = error.chain(), "the hold could not be removed");
    }
    (outcome, failed.join("; roll-back: "))
}

#[cfg(test)]
mod tests;
