//! A migration: its phases, its strategy and how it ended.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Bytes, NodeName, ParseUnitError, Time, WorkloadName, decimals};

/// Numbers the migrations of one run, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MigrationId(pub u64);

/// How the memory travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::enum_variant_names, reason = "that is what they are called")]
pub enum Strategy {
    /// Freeze, copy all, restore.
    #[default]
    StopCopy,
    /// Copy the memory while the workload runs, round by round what it changed; freeze for the last changes only.
    PreCopy,
    /// Copy the memory once while the workload runs; what it changed meanwhile follows it, what it waits for first. Until all
    /// is there the frozen source has the only copy of that.
    PostCopy,
}

impl Strategy {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::StopCopy, Self::PreCopy, Self::PostCopy];
}

impl FromStr for Strategy {
    type Err = ParseUnitError;
    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let named = Self::ALL.into_iter().find(|strategy| strategy.to_string() == text);
        named.ok_or_else(|| ParseUnitError::new(text, "a strategy: auto, pre-copy, post-copy or stop-copy"))
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::StopCopy => "stop-copy",
            Self::PreCopy => "pre-copy",
            Self::PostCopy => "post-copy",
        })
    }
}

/// What is asked for: a strategy, or the best that both nodes and the workload allow. Text form: `auto` or a strategy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StrategyChoice {
    /// The world chooses, and says why.
    #[default]
    Auto,
    /// This one.
    Fixed(Strategy),
}

impl fmt::Display for StrategyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Fixed(strategy) => strategy.fmt(f),
        }
    }
}

impl FromStr for StrategyChoice {
    type Err = ParseUnitError;
    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Fixed) }
    }
}

impl TryFrom<String> for StrategyChoice {
    type Error = ParseUnitError;
    fn try_from(text: String) -> Result<Self, ParseUnitError> {
        text.parse()
    }
}

impl From<StrategyChoice> for String {
    fn from(choice: StrategyChoice) -> String {
        choice.to_string()
    }
}

/// The phases, in their order (a strategy may leave some out).
///
/// ```text
/// Preflight ─► Stage ─► PreCopy ─► Freeze ─► Dump ─► Transfer ─► Restore ─► Commit ─► Switch ─► Drain
///     └──────────── Abort ─► RolledBack (the source runs on) ◄───────────────┘
/// ```
/// Up to and with Restore every failure ends with the source running; Commit is recorded durably, and after it every
/// failure ends with the target running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Can it move at all, and is the target able? Nothing has been touched.
    Preflight,
    /// Everything that can be made ready on both sides while the workload runs.
    Stage,
    /// Memory sent while the workload runs, round by round.
    PreCopy,
    /// Packets held, then the workload stopped: from here it does not run.
    Freeze,
    /// State written out.
    Dump,
    /// State sent to the target.
    Transfer,
    /// State taken up on the target; nothing runs there yet.
    Restore,
    /// The decision, recorded durably: from here the target is the workload.
    Commit,
    /// The target runs, the address is its own, held packets are replayed: the freeze ends.
    Switch,
    /// The frozen copy on the source ends, and its remains are removed.
    Drain,
}

impl Phase {
    /// All, in order.
    pub const ALL: [Self; 10] = [
        Self::Preflight,
        Self::Stage,
        Self::PreCopy,
        Self::Freeze,
        Self::Dump,
        Self::Transfer,
        Self::Restore,
        Self::Commit,
        Self::Switch,
        Self::Drain,
    ];

    /// Whether the workload stands still during this phase.
    pub fn is_frozen(self) -> bool {
        (Self::Freeze..=Self::Switch).contains(&self)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Preflight => "preflight",
            Self::Stage => "stage",
            Self::PreCopy => "pre-copy",
            Self::Freeze => "freeze",
            Self::Dump => "dump",
            Self::Transfer => "transfer",
            Self::Restore => "restore",
            Self::Commit => "commit",
            Self::Switch => "switch",
            Self::Drain => "drain",
        })
    }
}

/// How long a phase took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Which.
    pub phase: Phase,
    /// Milliseconds of the wall clock (in the simulator: of the model).
    #[serde(serialize_with = "decimals::ms")]
    pub ms: f64,
}

/// One round of copying memory while the workload runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CopyRound {
    /// Memory sent in it.
    pub bytes: Bytes,
    /// How long it took, ms of the wall clock.
    #[serde(serialize_with = "decimals::ms")]
    pub ms: f64,
}

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The workload runs on the target.
    Done,
    /// The workload runs on where it was.
    RolledBack,
    /// The workload runs nowhere: the one that must never be.
    Lost,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Done => "done",
            Self::RolledBack => "rolled-back",
            Self::Lost => "lost",
        })
    }
}

/// One migration as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// Its number in the run.
    pub id: MigrationId,
    /// What moved.
    pub workload: WorkloadName,
    /// From where.
    pub from: NodeName,
    /// To where.
    pub to: NodeName,
    /// How.
    pub strategy: Strategy,
    /// Why so, where the world chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy_why: Option<String>,
    /// Why (the decision's reason).
    pub reason: String,
    /// When it began, in seconds of the scenario.
    #[serde(rename = "start_s")]
    pub start: Time,
    /// Every phase that was entered, in order.
    pub phases: Vec<PhaseTime>,
    /// The rounds of pre-copy, in order; the last one is that of the freeze.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<CopyRound>,
    /// How long the workload stood still, in ms of the wall clock.
    #[serde(serialize_with = "decimals::ms")]
    pub freeze_ms: f64,
    /// The longest silence that a client saw around it, in ms of the wall clock; `None` when no client measured.
    #[serde(serialize_with = "decimals::maybe_ms")]
    pub gap_ms: Option<f64>,
    /// From the decision to the end, in ms of the wall clock.
    #[serde(serialize_with = "decimals::ms")]
    pub total_ms: f64,
    /// State sent from node to node.
    pub bytes: Bytes,
    /// What that came to on the wire: compressed, and what was there already only named. None where it is not counted (simulated, or
    /// not sent to its end); what follows after the switch (post-copy) is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire_bytes: Option<Bytes>,
    /// How it ended.
    pub outcome: Outcome,
    /// What went wrong, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_reads_as_it_prints() {
        for text in ["auto", "stop-copy", "pre-copy", "post-copy"] {
            let choice: StrategyChoice = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            assert_eq!(choice.to_string(), text);
        }
        assert!("teleport".parse::<StrategyChoice>().unwrap_err().to_string().contains("pre-copy"));
    }

    #[test]
    fn phases_are_ordered_as_listed_and_print_as_they_serialise() {
        assert!(Phase::ALL.is_sorted());
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_string(&phase).unwrap(), format!("\"{phase}\""));
        }
        assert!(Phase::Switch.is_frozen() && !Phase::Drain.is_frozen() && !Phase::Stage.is_frozen());
    }
}
