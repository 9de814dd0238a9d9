//! A run's own migrations beside those of plain tools: the same container, moved in the same run without Godwit.

use serde::{Deserialize, Serialize};

use crate::{NodeName, Outcome, Summary, WorkloadKind, decimals};

/// The container moved by a plain tool, in the same run and over the same links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What moved it: [`Baseline::RUNC`].
    pub tool: String,
    /// Each move, in order.
    pub moves: Vec<BaselineMove>,
}

impl Baseline {
    /// What a person does by hand who has nothing but runc.
    pub const RUNC: &'static str = "runc checkpoint + runc restore";

    /// Median of the freezes, ms.
    pub fn freeze_median_ms(&self) -> Option<f64> {
        median(self.moves.iter().map(|m| m.freeze_ms))
    }

    /// Median of the gaps that were measured, ms.
    pub fn gap_median_ms(&self) -> Option<f64> {
        median(self.moves.iter().filter_map(|m| m.gap_ms))
    }
}

/// One move by a plain tool. All times are ms of the wall clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineMove {
    /// From where.
    pub from: NodeName,
    /// To where.
    pub to: NodeName,
    /// From the start of the checkpoint until the restored container's packets flow.
    #[serde(serialize_with = "decimals::ms")]
    pub freeze_ms: f64,
    /// The longest silence that a client saw around it; `None` when no client measured.
    #[serde(serialize_with = "decimals::maybe_ms")]
    pub gap_ms: Option<f64>,
    /// Writing the state out.
    #[serde(serialize_with = "decimals::ms")]
    pub checkpoint_ms: f64,
    /// Sending it to the target.
    #[serde(serialize_with = "decimals::ms")]
    pub transfer_ms: f64,
    /// Taking it up there.
    #[serde(serialize_with = "decimals::ms")]
    pub restore_ms: f64,
    /// Giving the target the service address.
    #[serde(serialize_with = "decimals::ms")]
    pub switch_ms: f64,
}

/// The median of one figure, here and with the plain tool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// Of the run's own migrations, ms.
    pub own_ms: f64,
    /// Of the plain tool's moves, ms.
    pub baseline_ms: f64,
}

impl Compared {
    fn new(own: impl IntoIterator<Item = f64>, baseline_ms: Option<f64>) -> Option<Self> {
        Some(Self { own_ms: median(own)?, baseline_ms: baseline_ms? })
    }

    /// How many times as long the plain tool takes; `None` when there is nothing to divide by.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.baseline_ms / self.own_ms).filter(|ratio| ratio.is_finite())
    }
}

impl Summary {
    /// Freezes of the containers' migrations that were done, beside the baseline's; `None` when one side has none.
    pub fn freeze_compared(&self) -> Option<Compared> {
        let baseline = self.baseline.as_ref()?.freeze_median_ms();
        Compared::new(self.like_the_baseline().map(|m| m.freeze_ms), baseline)
    }

    /// The same of the gaps that clients saw.
    pub fn gap_compared(&self) -> Option<Compared> {
        let baseline = self.baseline.as_ref()?.gap_median_ms();
        Compared::new(self.like_the_baseline().filter_map(|m| m.gap_ms), baseline)
    }

    /// Migrations that a plain runtime could have made, too.
    fn like_the_baseline(&self) -> impl Iterator<Item = &crate::MigrationRecord> {
        let is_vm = |name| self.workloads.iter().any(|w| &w.name == name && w.kind == WorkloadKind::Vm);
        self.migrations.iter().filter(move |m| m.outcome == Outcome::Done && !is_vm(&m.workload))
    }
}

/// The middle one, of an even number the mean of the two in the middle; what is no number does not count.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(lower + (upper - lower) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_middle_two() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert_eq!(median([f64::NAN, 7.0]), Some(7.0));
        assert_eq!((median([]), median([f64::INFINITY])), (None, None));
    }

    fn summary() -> Summary {
        let phases = serde_json::json!([]);
        let migration = |workload: &str, outcome: &str, freeze: f64, gap: Option<f64>| {
            serde_json::json!({"id": 1, "workload": workload, "from": "a", "to": "b", "strategy": "stop-copy",
                "reason": "", "start_s": 1.0, "phases": phases, "freeze_ms": freeze, "gap_ms": gap, "total_ms": 500.0,
                "bytes": 1, "outcome": outcome})
        };
        let moved = |freeze: f64, gap: Option<f64>| {
            serde_json::json!({"from": "a", "to": "b", "freeze_ms": freeze, "gap_ms": gap, "checkpoint_ms": 100.0,
                "transfer_ms": 50.0, "restore_ms": 100.0, "switch_ms": 10.0})
        };
        serde_json::from_value(serde_json::json!({
            "schema": Summary::SCHEMA, "godwit": "0", "scenario": "s", "world": "testbed", "policy": "threshold",
            "policy_params": {"rtt_good_below_ms": 15.0}, "seed": 1, "speed": 1.0, "duration_s": 60.0,
            "nodes": ["a", "b"], "rtt_bound_ms": 26.0, "users": [], "clients": [], "ok": false,
            "workloads": [{"name": "video", "kind": "container", "users": ["car"]},
                {"name": "desk", "kind": "vm", "users": []}],
            "migrations": [migration("video", "done", 80.0, Some(100.0)), migration("video", "done", 120.0, None),
                migration("video", "rolled-back", 900.0, Some(900.0)), migration("desk", "done", 900.0, Some(900.0))],
            "baseline": {"tool": Baseline::RUNC, "moves": [moved(300.0, Some(310.0)), moved(320.0, Some(330.0))]},
        }))
        .unwrap()
    }

    #[test]
    fn containers_that_were_moved_are_compared_and_nothing_else() {
        let mut summary = summary();
        let freeze = summary.freeze_compared().unwrap();
        assert_eq!((freeze.own_ms, freeze.baseline_ms, freeze.ratio()), (100.0, 310.0, Some(3.1)));
        assert_eq!(summary.gap_compared(), Some(Compared { own_ms: 100.0, baseline_ms: 320.0 }));
        summary.baseline.as_mut().unwrap().moves.iter_mut().for_each(|m| m.gap_ms = None);
        assert_eq!(summary.gap_compared(), None);
        summary.baseline = None;
        assert_eq!(summary.freeze_compared(), None);
        assert!(!serde_json::to_string(&summary).unwrap().contains("baseline"));
    }

    #[test]
    fn a_run_of_no_time_has_no_ratio() {
        assert_eq!(Compared { own_ms: 0.0, baseline_ms: 3.0 }.ratio(), None);
    }
}
