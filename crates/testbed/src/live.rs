//! What a run shows while it goes on.

use std::collections::BTreeMap;

use godwit_control::{Order, Verdict};
use godwit_model::{
    Bytes, Decision, Load, MigrationId, MigrationRecord, NodeName, Phase, Rtt, Time, UserName, WorkloadName,
};
use serde::{Deserialize, Serialize};

/// The state of a testbed at one instant: what `godwit status` prints and the live view draws.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Name of the testbed.
    pub testbed: String,
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the policy.
    pub policy: String,
    /// When, in seconds of the scenario.
    #[serde(rename = "at_s")]
    pub at: Time,
    /// How long the scenario is in its seconds; `None`: until it is ended.
    pub duration_s: Option<f64>,
    /// Seconds of the scenario a second of the wall clock.
    pub speed: f64,
    /// The nodes, in the scenario's order.
    pub nodes: Vec<LiveNode>,
    /// The workloads, in the scenario's order.
    pub workloads: Vec<LiveWorkload>,
    /// The measuring clients.
    pub clients: Vec<LiveClient>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveNode {
    /// Its name.
    pub name: NodeName,
    /// Whether its agent runs; else it is about to be started again.
    #[serde(default)]
    pub agent: bool,
    /// Its load; `None` before the first figure.
    pub load: Option<Load>,
    /// Smoothed RTT to each user that answers, ms.
    pub rtt_ms: BTreeMap<UserName, Rtt>,
}

/// A workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveWorkload {
    /// Its name.
    pub name: WorkloadName,
    /// The node that serves.
    pub node: NodeName,
    /// Whether any process of it is there.
    pub running: bool,
    /// Address and port that its users speak to.
    pub service: String,
    /// The same by IPv6; none where the kernel has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_v6: Option<String>,
    /// A migration that is under way: where to and in which phase.
    pub migrating: Option<(NodeName, Phase)>,
    /// How much of that migration is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<LiveSent>,
    /// What the policy last said of it, and what became of that.
    pub decision: Option<(Decision, Verdict)>,
}

/// How far a migration's copying is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LiveSent {
    /// Rounds of memory that are over.
    pub rounds: u32,
    /// Sent so far.
    pub bytes: Bytes,
    /// Altogether, as far as is known.
    pub expected: Bytes,
}

/// A measuring client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveClient {
    /// On behalf of whom.
    pub user: UserName,
    /// Talking to which workload.
    pub workload: WorkloadName,
    /// Silence since the last answer, ms.
    pub silence_ms: f64,
    /// The longest silence so far, ms.
    pub worst_gap_ms: f64,
    /// Answers so far.
    pub received: u64,
    /// Broken connections so far.
    pub broken: u64,
    /// All that was found wrong so far, broken connections included: bytes lost or out of order, a service that is not the one
    /// that it was, pages of its memory lost or stale.
    pub harm: u64,
}

/// What happens in a run, as it happens.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEvent {
    /// Something worth a line.
    Note(String),
    /// Something worth a line and a second look.
    Warning(String),
    /// A migration begins.
    Started(Order),
    /// A migration enters a phase.
    Phase(MigrationId, Phase),
    /// A migration is over (its gap is not known yet).
    Ended(Box<MigrationRecord>),
    /// The gap that the client saw around a migration, ms.
    Gap(MigrationId, f64),
}

/// Who watches a run. Called on the run's own thread: must return soon.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, at: Time, event: &RunEvent);
    /// The state, several times a second.
    fn live(&mut self, live: &Live);
}

/// Watches nothing.
#[derive(Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn event(&mut self, _: Time, _: &RunEvent) {}
    fn live(&mut self, _: &Live) {}
}
