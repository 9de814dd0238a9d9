//! What the loop has done and dropped, from the first day.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts since the controller was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Rounds: how often the policy was asked.
    pub rounds: u64,
    /// Decisions that it gave.
    pub decisions: u64,
    /// Of them, to move.
    pub moves_asked: u64,
    /// Migrations ordered upon a decision.
    pub admitted: u64,
    /// Migrations ordered by hand.
    pub admitted_manual: u64,
    /// Moves that were refused, by [`Refusal::label`](crate::Refusal::label).
    pub refused: BTreeMap<String, u64>,
    /// Figures left out of a decision because they were too old.
    pub stale_figures: u64,
    /// Events about a node, migration or (in a decision) workload that is not known.
    pub unknown: u64,
    /// Migrations that ended well.
    pub done: u64,
    /// Migrations that were rolled back.
    pub rolled_back: u64,
    /// Workloads that were lost.
    pub lost: u64,
}
