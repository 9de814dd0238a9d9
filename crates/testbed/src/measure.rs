//! Many moves of one workload, by everything that can move it, in turn: the benchmark.
//!
//! ```text
//!   for each run: for each mover:      before ──► move there or back ──► settle ──► MeasuredMove
//!                                      app's pace    phases, rounds       gap, worst stall after the start
//! ```
//! All movers take turns in one testbed, so that what else the machine does meets all of them alike. The figures come from
//! whom they concern: the gap from a client, stalls and pace from the service itself ([`godwit_traffic::Work`]).

use std::fmt;
use std::time::{Duration, Instant};

use godwit_control::Order;
use godwit_migration::{Cancel, Progress};
use godwit_model::{
    Bytes, MigrationId, NodeName, Outcome, Phase, PhaseTime, Strategy, StrategyChoice, UserName, WorkloadName,
};
use godwit_traffic::Work;
use serde::{Serialize, Serializer};

use crate::compare::{Plain, Watched};
use crate::error::TestbedError;
use crate::stop::Stop;
use crate::world::Testbed;

/// How long the service's pace is looked at before a move.
const BEFORE: Duration = Duration::from_millis(300);
/// Migrations are numbered from here.
const FIRST_NUMBER: u64 = 1_000_000;

/// Who moves. Text form: the strategy's, `runc` or `runc-lazy-pages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mover {
    /// Godwit, so.
    Godwit(StrategyChoice),
    /// Plain `runc checkpoint` and `runc restore`.
    Runc,
    /// The same with `--lazy-pages`: CRIU's own post-copy.
    RuncLazyPages,
}

impl fmt::Display for Mover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Godwit(choice) => choice.fmt(f),
            Self::Runc => f.pad("runc"),
            Self::RuncLazyPages => f.pad("runc-lazy-pages"),
        }
    }
}

impl Serialize for Mover {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A part of a move and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// A phase of Godwit's, a step of the plain tools'.
    pub name: String,
    /// Milliseconds of the wall clock.
    pub ms: f64,
    /// Whether the workload stood still.
    pub frozen: bool,
}

/// A move as it was. All times are ms of the wall clock; `None` where there is nothing to measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasuredMove {
    /// By whom.
    pub by: Mover,
    /// What `auto` chose, and why; of other choices the strategy itself.
    pub strategy: Option<Strategy>,
    /// See there.
    pub strategy_why: Option<String>,
    /// From where.
    pub from: NodeName,
    /// To where.
    pub to: NodeName,
    /// The longest silence that the client saw around the freeze.
    pub gap_ms: Option<f64>,
    /// How long the workload stood still.
    pub freeze_ms: f64,
    /// All parts in their order.
    pub parts: Vec<Part>,
    /// Rounds of memory, that of the freeze included.
    pub rounds: usize,
    /// What went from node to node: memory, images; of runc's lazy pages the images only.
    pub bytes: Bytes,
    /// From the order to the end.
    pub total_ms: f64,
    /// From the switch until the target has all its memory and the source's copy is removed (plain runc: without the
    /// removal).
    pub drain_ms: Option<f64>,
    /// The longest that one step of the service took (one page written or checked, one turn of answering) from the switch
    /// until a while after the drain.
    pub stall_ms: Option<f64>,
    /// Pages written a second while memory was copied in rounds, in percent of those before the move. The service writes
    /// no more than it is told to.
    pub pace_percent: Option<f64>,
    /// The same for each second that the service spent writing: how much slower a write was.
    pub speed_percent: Option<f64>,
    /// Why it was rolled back, or what went wrong after the switch.
    pub error: Option<String>,
}

/// What the service said of its work at a moment.
type Seen = Option<(Instant, Work)>;

/// Pages a second of the wall clock, and of the time spent writing.
fn rates(from: Seen, to: Seen) -> Option<(f64, f64)> {
    let ((began, first), (ended, last)) = (from?, to?);
    let (pages, writing) = (last.written.checked_sub(first.written)?, last.writing_ns.checked_sub(first.writing_ns)?);
    let wall = ended.checked_duration_since(began)?.as_secs_f64();
    (pages > 0 && wall > 0.0 && writing > 0).then(|| (pages as f64 / wall, pages as f64 * 1e9 / writing as f64))
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// Moves `workload` between its node and `other`, `runs` times by each of `movers` in turn, while a client of `user`
/// measures. `told` hears of each move. Ends early when stopped, with what was told so far.
///
/// # Errors
/// When a plain tool fails, or the workload is lost; a migration that is rolled back is told as such.
#[allow(clippy::too_many_arguments)]
pub fn measure(
    testbed: &Testbed,
    workload: &WorkloadName,
    user: &UserName,
    other: &NodeName,
    movers: &[Mover],
    runs: u32,
    stop: &Stop,
    mut told: impl FnMut(MeasuredMove),
) -> Result<(), TestbedError> {
    let watched = Watched::new(testbed, workload, user, stop)?;
    let home = watched.node();
    for (nth, by) in (0..runs).flat_map(|_| movers).enumerate() {
        watched.settle();
        let first = watched.client.work();
        std::thread::sleep(BEFORE);
        let before = rates(first, watched.client.work());
        if stop.is_asked() {
            break;
        }
        let to = if watched.node() == home { other } else { &home };
        let nth = nth as u32;
        let moved = match by {
            Mover::Godwit(choice) => own(&watched, to, nth, *choice, before, stop)?,
            Mover::Runc => plain(&watched, to, nth, *by, Plain::StopCopy)?,
            Mover::RuncLazyPages => plain(&watched, to, nth, *by, Plain::LazyPages)?,
        };
        // A move that was cancelled is none.
        if stop.is_asked() && moved.error.is_some() {
            break;
        }
        told(moved);
    }
    Ok(())
}

fn own(
    watched: &Watched<'_>,
    to: &NodeName,
    nth: u32,
    wanted: StrategyChoice,
    before: Option<(f64, f64)>,
    stop: &Stop,
) -> Result<MeasuredMove, TestbedError> {
    let order = Order {
        id: MigrationId(FIRST_NUMBER + u64::from(nth)),
        workload: watched.workload.clone(),
        from: watched.node(),
        to: to.clone(),
        rule: "bench".into(),
        reason: "measured".into(),
    };
    let cancel = Cancel::default();
    let (mut began, mut ended) = (None, None);
    let (chosen, end) = watched.testbed.migrate(&order, wanted, None, &cancel, &mut |progress| {
        match progress {
            Progress::Entered(Phase::PreCopy) => began = watched.client.work(),
            Progress::Left(PhaseTime { phase: Phase::PreCopy, .. }) => ended = watched.client.work(),
            _ => {}
        }
        if stop.is_asked() {
            cancel.cancel();
        }
    });
    if end.outcome == Outcome::Lost {
        let error = end.error.unwrap_or_default();
        return Err(TestbedError::Compare {
            what: format!("the move to {to} lost the workload: {error}"),
            source: None,
        });
    }
    watched.settle();
    let percent = |of: fn((f64, f64)) -> f64| Some(of(rates(began, ended)?) * 100.0 / of(before?));
    let freeze = end.freeze.filter(|_| end.outcome == Outcome::Done);
    let drain_ms = end.phases.iter().find(|time| time.phase == Phase::Drain).map(|time| time.ms);
    Ok(MeasuredMove {
        by: Mover::Godwit(wanted),
        strategy: Some(chosen.strategy),
        strategy_why: chosen.why,
        gap_ms: freeze.and_then(|freeze| watched.gap_ms(freeze)),
        freeze_ms: end.freeze_ms(),
        parts: end.phases.iter().map(Part::of).collect(),
        rounds: end.rounds.len(),
        bytes: end.bytes,
        total_ms: ms(end.total),
        drain_ms,
        stall_ms: freeze.and_then(|(_, start)| watched.client.longest_step_between(start, Instant::now())).map(ms),
        pace_percent: percent(|(pace, _)| pace),
        speed_percent: percent(|(_, speed)| speed),
        error: end.error,
        from: order.from,
        to: order.to,
    })
}

impl Part {
    fn of(time: &PhaseTime) -> Self {
        Self { name: time.phase.to_string(), ms: time.ms, frozen: time.phase.is_frozen() }
    }
}

fn plain(watched: &Watched<'_>, to: &NodeName, nth: u32, by: Mover, how: Plain) -> Result<MeasuredMove, TestbedError> {
    let began = Instant::now();
    let moved = watched.plain_move(to, nth, how)?;
    let total_ms = ms(began.elapsed());
    watched.settle();
    let (_, start) = moved.freeze();
    let record = moved.record(watched.gap_ms(moved.freeze()));
    let part = |name: &str, ms: f64| Part { name: name.into(), ms, frozen: true };
    Ok(MeasuredMove {
        by,
        strategy: None,
        strategy_why: None,
        gap_ms: record.gap_ms,
        freeze_ms: record.freeze_ms,
        parts: vec![
            part("checkpoint", record.checkpoint_ms),
            part("transfer", record.transfer_ms),
            part("restore", record.restore_ms),
            part("switch", record.switch_ms),
        ],
        rounds: 0,
        bytes: moved.images,
        total_ms,
        drain_ms: moved.drained.map(|drained| ms(drained - start)),
        stall_ms: watched.client.longest_step_between(start, Instant::now()).map(ms),
        pace_percent: None,
        speed_percent: None,
        error: None,
        from: record.from,
        to: record.to,
    })
}
