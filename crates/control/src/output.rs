//! What the loop tells a world.

use godwit_model::{Decision, MigrationId, NodeName, Snapshot, WorkloadName};
use serde::{Deserialize, Serialize};

use crate::Verdict;

/// A migration to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its number, from 1.
    pub id: MigrationId,
    /// What moves.
    pub workload: WorkloadName,
    /// From where.
    pub from: NodeName,
    /// To where.
    pub to: NodeName,
    /// The rule that asked for it; `manual` when a person did.
    pub rule: String,
    /// Why, for a person.
    pub reason: String,
}

impl Order {
    /// The rule of a migration that a person asked for.
    pub const MANUAL: &'static str = "manual";
}

/// A round: what was decided, upon what, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// Upon this.
    pub snapshot: Snapshot,
    /// Each decision and what became of it.
    pub decisions: Vec<(Decision, Verdict)>,
}

/// What the loop says.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A round of decisions was made; before the migrations that follow from it.
    Decided(Decided),
    /// Make this migration, and report its end with [`Event::MigrationEnded`](crate::Event::MigrationEnded).
    Migrate(Order),
}
