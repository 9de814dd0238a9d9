//! What a world tells the loop.

use godwit_model::{Load, MigrationId, NodeName, Outcome, Rtt, UserName, WorkloadKind, WorkloadName};
use serde::{Deserialize, Serialize};

/// Something that a world has seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A node exists, and takes workloads or not. Nodes are announced by this before anything is said about them.
    NodeReady {
        /// Which.
        node: NodeName,
        /// False: cordoned, draining or down.
        ready: bool,
    },
    /// A smoothed RTT.
    RttMeasured {
        /// To whom.
        user: UserName,
        /// From where.
        node: NodeName,
        /// How far; `None`: no answer.
        rtt: Option<Rtt>,
    },
    /// A load.
    LoadMeasured {
        /// Of which node.
        node: NodeName,
        /// How much; `None`: it could not be measured.
        load: Option<Load>,
    },
    /// A workload exists and runs here: at the start, and whenever somebody else has moved it.
    WorkloadAt {
        /// Which.
        workload: WorkloadName,
        /// What it is.
        kind: WorkloadKind,
        /// Where.
        node: NodeName,
        /// For whom.
        users: Vec<UserName>,
    },
    /// A migration that was ordered has ended.
    MigrationEnded {
        /// Which.
        id: MigrationId,
        /// How.
        outcome: Outcome,
    },
}
