//! May it move now? Cooldown, one migration a workload, budgets.
//!
//! ```text
//!   move asked ─► target known, ready, elsewhere? ─► in flight? lost? ─► rests? ─► budgets? ─► admitted
//!                                                                        (not by hand)
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use godwit_model::{MigrationId, NodeName, Outcome, Time, WorkloadName};
use serde::{Deserialize, Serialize};

use crate::{ControlConfig, Order};

/// What became of a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It was to stay.
    Stay,
    /// It moves.
    Admitted {
        /// In this migration.
        id: MigrationId,
    },
    /// It does not move now.
    Refused {
        /// Why.
        why: Refusal,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stay => f.write_str("stay"),
            Self::Admitted { id } => write!(f, "admitted as migration {}", id.0),
            Self::Refused { why } => write!(f, "not now: {why}"),
        }
    }
}

/// Why a move is not made now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "refusal", rename_all = "kebab-case")]
pub enum Refusal {
    /// The policy spoke of a workload that is not known.
    #[error("workload {workload} is not known")]
    UnknownWorkload {
        /// Which.
        workload: WorkloadName,
    },
    /// The target is not known.
    #[error("node {node} is not known")]
    UnknownNode {
        /// Which.
        node: NodeName,
    },
    /// The target takes nothing.
    #[error("node {node} is not ready")]
    NotReady {
        /// Which.
        node: NodeName,
    },
    /// It is there.
    #[error("it is on {node} already")]
    AlreadyThere {
        /// Where.
        node: NodeName,
    },
    /// It is moving.
    #[error("migration {} of it is in flight", id.0)]
    InFlight {
        /// In this migration.
        id: MigrationId,
    },
    /// A migration lost it, and nobody has said since where it runs.
    #[error("migration {} lost it, and it has not been seen since", id.0)]
    Lost {
        /// In this migration.
        id: MigrationId,
    },
    /// It moved a short while ago.
    #[error("it rests for another {:.1} s after its last migration", left.as_secs_f64())]
    Cooldown {
        /// For so long.
        left: Duration,
    },
    /// It could not move a short while ago.
    #[error("it rests for another {:.1} s: {failures} migrations of it in a row were rolled back", left.as_secs_f64())]
    Backoff {
        /// For so long.
        left: Duration,
        /// Rolled back in a row.
        failures: u32,
    },
    /// Enough is leaving its node.
    #[error("node {node} sends {budget} already, as many as it may")]
    OutBudget {
        /// Which.
        node: NodeName,
        /// How many may leave at the same time.
        budget: usize,
    },
    /// Enough is coming to the target.
    #[error("node {node} receives {budget} already, as many as it may")]
    InBudget {
        /// Which.
        node: NodeName,
        /// How many may come at the same time.
        budget: usize,
    },
    /// Enough is moving.
    #[error("{budget} migrations are in flight, as many as there may be")]
    TotalBudget {
        /// How many there may be at the same time.
        budget: usize,
    },
}

impl Refusal {
    /// Its kind in kebab-case, for counting.
    pub fn label(&self) -> &'static str {
        match self {
            Self::UnknownWorkload { .. } => "unknown-workload",
            Self::UnknownNode { .. } => "unknown-node",
            Self::NotReady { .. } => "not-ready",
            Self::AlreadyThere { .. } => "already-there",
            Self::InFlight { .. } => "in-flight",
            Self::Lost { .. } => "lost",
            Self::Cooldown { .. } => "cooldown",
            Self::Backoff { .. } => "backoff",
            Self::OutBudget { .. } => "out-budget",
            Self::InBudget { .. } => "in-budget",
            Self::TotalBudget { .. } => "total-budget",
        }
    }
}

/// A workload that has moved, or tried to.
#[derive(Debug, Default)]
struct History {
    rests_until: Time,
    failures: u32,
    lost_in: Option<MigrationId>,
}

/// The migrations in flight and what came before them.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    in_flight: BTreeMap<MigrationId, Order>,
    moving: BTreeMap<WorkloadName, MigrationId>,
    history: BTreeMap<WorkloadName, History>,
    last: u64,
}

impl Admission {
    /// Whether the workload may leave `from` for `to` now. `by_hand`: it need not rest.
    pub(crate) fn check(
        &self,
        config: &ControlConfig,
        now: Time,
        workload: &WorkloadName,
        from: &NodeName,
        to: &NodeName,
        by_hand: bool,
    ) -> Result<(), Refusal> {
        if let Some(id) = self.moving.get(workload) {
            return Err(Refusal::InFlight { id: *id });
        }
        if let Some(history) = self.history.get(workload) {
            if let Some(id) = history.lost_in {
                return Err(Refusal::Lost { id });
            }
            let left = history.rests_until.since(now);
            if !left.is_zero() && !by_hand {
                let failures = history.failures;
                return Err(if failures > 0 {
                    Refusal::Backoff { left, failures }
                } else {
                    Refusal::Cooldown { left }
                });
            }
        }
        if self.in_flight.len() >= config.max_in_flight {
            return Err(Refusal::TotalBudget { budget: config.max_in_flight });
        }
        if self.count(|order| &order.from == from) >= config.per_node_out {
            return Err(Refusal::OutBudget { node: from.clone(), budget: config.per_node_out });
        }
        if self.count(|order| &order.to == to) >= config.per_node_in {
            return Err(Refusal::InBudget { node: to.clone(), budget: config.per_node_in });
        }
        Ok(())
    }

    fn count(&self, which: impl Fn(&Order) -> bool) -> usize {
        self.in_flight.values().filter(|order| which(order)).count()
    }

    /// The number of the next migration.
    pub(crate) fn next_id(&mut self) -> MigrationId {
        self.last += 1;
        MigrationId(self.last)
    }

    pub(crate) fn begin(&mut self, order: Order) {
        self.moving.insert(order.workload.clone(), order.id);
        self.in_flight.insert(order.id, order);
    }

    /// Takes a migration out of flight; `None` when there is none of that number.
    pub(crate) fn end(
        &mut self,
        config: &ControlConfig,
        now: Time,
        id: MigrationId,
        outcome: Outcome,
    ) -> Option<Order> {
        let order = self.in_flight.remove(&id)?;
        self.moving.remove(&order.workload);
        let history = self.history.entry(order.workload.clone()).or_default();
        match outcome {
            Outcome::Done => history.failures = 0,
            Outcome::RolledBack => history.failures = history.failures.saturating_add(1),
            Outcome::Lost => history.lost_in = Some(id),
        }
        history.rests_until = now + config.rest_after(history.failures);
        Some(order)
    }

    /// It runs: whatever lost it, it was found.
    pub(crate) fn seen(&mut self, workload: &WorkloadName) {
        if let Some(history) = self.history.get_mut(workload) {
            history.lost_in = None;
        }
    }

    pub(crate) fn in_flight(&self) -> impl Iterator<Item = &Order> {
        self.in_flight.values()
    }
}
