//! What the moves of one kind and size come to.

use godwit_model::{Bytes, median};
use godwit_testbed::{MeasuredMove, Mover};
use serde::Serialize;

use super::Sized;

/// Median and worst of one figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) worst: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        Some(Self { median: median(figures.clone())?, worst: figures.max_by(f64::total_cmp)? })
    }
}

/// The median of a part of the moves.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PartRow {
    pub(super) name: String,
    pub(super) median_ms: f64,
    /// Whether the workload stands still meanwhile.
    pub(super) frozen: bool,
}

/// The moves of one kind and size that went well.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) memory: Bytes,
    pub(super) by: Mover,
    pub(super) moves: usize,
    /// Moves that were rolled back, or of which something went wrong: in no figure.
    pub(super) failed: usize,
    /// The client's longest silence.
    pub(super) gap_ms: Option<Spread>,
    pub(super) freeze_ms: Option<Spread>,
    pub(super) parts: Vec<PartRow>,
    /// The frozen parts but for the transfer: what a move costs where sending costs nothing.
    pub(super) blackout_ms: Option<f64>,
    /// Median number of rounds; 0 where there are none.
    pub(super) rounds: f64,
    pub(super) bytes: Option<f64>,
    /// Bytes to the service's memory.
    pub(super) bytes_to_memory: Option<f64>,
    pub(super) total_ms: Option<Spread>,
    pub(super) drain_ms: Option<Spread>,
    /// The longest step of the service after the start.
    pub(super) stall_ms: Option<Spread>,
    /// Medians.
    pub(super) pace_percent: Option<f64>,
    pub(super) speed_percent: Option<f64>,
}

/// By size, then in the order of the movers; kinds without a single move are left out.
pub(super) fn rows(sizes: &[Bytes], movers: &[Mover], moves: &[Sized]) -> Vec<Row> {
    let kinds = sizes.iter().flat_map(|memory| movers.iter().map(move |by| (*memory, *by)));
    let of = |(memory, by)| {
        let kind = moves.iter().filter(move |m| m.memory == memory && m.moved.by == by).map(|m| &m.moved);
        Row::new(memory, by, &kind.collect::<Vec<_>>())
    };
    kinds.map(of).filter(|row| row.moves + row.failed > 0).collect()
}

impl Row {
    fn new(memory: Bytes, by: Mover, all: &[&MeasuredMove]) -> Self {
        let well: Vec<&MeasuredMove> = all.iter().copied().filter(|m| m.error.is_none()).collect();
        let spread = |of: fn(&MeasuredMove) -> Option<f64>| Spread::of(well.iter().filter_map(|m| of(m)));
        let middle = |of: fn(&MeasuredMove) -> Option<f64>| median(well.iter().filter_map(|m| of(m)));
        let bytes = middle(|m| Some(m.bytes.0 as f64));
        Self {
            memory,
            by,
            moves: well.len(),
            failed: all.len() - well.len(),
            gap_ms: spread(|m| m.gap_ms),
            freeze_ms: spread(|m| Some(m.freeze_ms)),
            parts: parts(&well),
            blackout_ms: middle(|m| Some(blackout(m))),
            rounds: middle(|m| Some(m.rounds as f64)).unwrap_or(0.0),
            bytes,
            // Of runc's lazy pages nobody says how many went.
            bytes_to_memory: bytes.filter(|_| by != Mover::RuncLazyPages).map(|bytes| bytes / memory.0 as f64),
            total_ms: spread(|m| Some(m.total_ms)),
            drain_ms: spread(|m| m.drain_ms),
            stall_ms: spread(|m| m.stall_ms),
            pace_percent: middle(|m| m.pace_percent),
            speed_percent: middle(|m| m.speed_percent),
        }
    }
}

fn blackout(moved: &MeasuredMove) -> f64 {
    moved.parts.iter().filter(|part| part.frozen && part.name != "transfer").map(|part| part.ms).sum()
}

/// Medians, in the order of the first move that has a part.
fn parts(moves: &[&MeasuredMove]) -> Vec<PartRow> {
    let mut rows: Vec<PartRow> = Vec::new();
    for part in moves.iter().flat_map(|m| &m.parts) {
        if rows.iter().any(|row| row.name == part.name) {
            continue;
        }
        let same = moves.iter().flat_map(|m| &m.parts).filter(|other| other.name == part.name);
        let median_ms = median(same.map(|other| other.ms)).unwrap_or(0.0);
        rows.push(PartRow { name: part.name.clone(), median_ms, frozen: part.frozen });
    }
    rows
}
