//! What a run leaves behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Baseline, Load, MigrationRecord, NodeName, Rtt, Time, UserName, WorkloadKind, WorkloadName, decimals};

/// A whole run: the summary and the samples that the plots and the CSV files are made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// `summary.json`.
    pub summary: Summary,
    /// One a sampling interval, ascending in time.
    pub samples: Vec<Sample>,
}

/// The world as it was measured at one instant, one row of `samples.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When, in seconds of the scenario.
    #[serde(rename = "at_s")]
    pub at: Time,
    /// User to node to smoothed RTT; absent where nothing answered.
    pub rtt: BTreeMap<UserName, BTreeMap<NodeName, Rtt>>,
    /// Node to load; absent where there is no figure.
    pub load: BTreeMap<NodeName, Load>,
    /// Workload to the node that serves.
    pub placement: BTreeMap<WorkloadName, NodeName>,
    /// User to the longest silence (ms of the wall clock) that its client saw since the sample before.
    #[serde(default)]
    pub gap_ms: BTreeMap<UserName, f64>,
}

/// `summary.json`: what happened in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Names this form: [`Summary::SCHEMA`].
    pub schema: String,
    /// Godwit's version.
    pub godwit: String,
    /// The scenario's name.
    pub scenario: String,
    /// `sim` or `testbed`.
    pub world: String,
    /// The policy's name.
    pub policy: String,
    /// The policy's parameters in force, by their names in its schema, defaults filled in.
    pub policy_params: BTreeMap<String, f64>,
    /// Seeds everything random.
    pub seed: u64,
    /// Seconds of the scenario a second of the wall clock (virtual time: as many as were asked for).
    pub speed: f64,
    /// Length in seconds of the scenario.
    pub duration_s: f64,
    /// The nodes, in the scenario's order.
    pub nodes: Vec<NodeName>,
    /// The workloads, in the scenario's order.
    pub workloads: Vec<WorkloadSummary>,
    /// Above this RTT (ms) a user counts as badly served.
    pub rtt_bound_ms: f64,
    /// Every migration, in order of its start.
    pub migrations: Vec<MigrationRecord>,
    /// Each user.
    pub users: Vec<UserSummary>,
    /// Each client, a pair of user and workload (empty in a world without real clients).
    pub clients: Vec<ClientSummary>,
    /// The same container moved by a plain tool, where the run did that for comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// Every migration ended well and no client lost anything.
    pub ok: bool,
}

impl Summary {
    /// The current form of `summary.json`.
    pub const SCHEMA: &'static str = "godwit.dev/summary/v1";
}

/// A workload of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSummary {
    /// Its name.
    pub name: WorkloadName,
    /// What it is.
    pub kind: WorkloadKind,
    /// The users that it serves.
    pub users: Vec<UserName>,
}

/// How well a user was served: RTT to the node that served it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserSummary {
    /// Who.
    pub name: UserName,
    /// Mean RTT to the serving node, ms; `None` without a sample.
    #[serde(serialize_with = "decimals::maybe_ms")]
    pub rtt_mean_ms: Option<f64>,
    /// 95th percentile of the same, ms.
    #[serde(serialize_with = "decimals::maybe_ms")]
    pub rtt_p95_ms: Option<f64>,
    /// Seconds of the scenario with that RTT above the bound.
    #[serde(serialize_with = "decimals::six")]
    pub above_bound_s: f64,
    /// The same as a fraction of the run, 0..=1.
    #[serde(serialize_with = "decimals::six")]
    pub above_bound_fraction: f64,
}

/// What a measuring client saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientSummary {
    /// On behalf of whom.
    pub user: UserName,
    /// Talking to which workload.
    pub workload: WorkloadName,
    /// Connections opened.
    pub connections: u64,
    /// Connections that broke (reset, closed by the service, silent for good).
    pub broken: u64,
    /// Requests sent.
    pub sent: u64,
    /// Answers received.
    pub received: u64,
    /// Bytes of answers that never came or came wrong.
    pub bytes_lost: u64,
    /// Answers out of order.
    pub reordered: u64,
    /// Answers to what had been answered already, or never been asked.
    pub duplicated: u64,
    /// How often another run of the service answered: it was started anew, not moved.
    pub restarts: u64,
    /// How often the service answered from an older state than it had answered from before.
    pub rewinds: u64,
    /// Pages of its memory that the service itself found lost or stale.
    pub memory_bad: u64,
    /// The longest silence between two answers, ms of the wall clock.
    #[serde(serialize_with = "decimals::ms")]
    pub worst_gap_ms: f64,
    /// The median time from a request to its answer, ms of the wall clock.
    #[serde(serialize_with = "decimals::maybe_ms")]
    pub response_median_ms: Option<f64>,
}

impl ClientSummary {
    /// Nothing broke, was lost, doubled or out of order, the service is the one that it was and its memory is whole.
    pub fn is_clean(&self) -> bool {
        let Self { broken, bytes_lost, reordered, duplicated, restarts, rewinds, memory_bad, .. } = self;
        [broken, bytes_lost, reordered, duplicated, restarts, rewinds, memory_bad].into_iter().all(|n| *n == 0)
    }
}
