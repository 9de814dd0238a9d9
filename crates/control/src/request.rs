//! What can be wrong with a move that a person asks for.

use godwit_model::{NodeName, WorkloadName};

use crate::Refusal;

/// Why a migration that a person asked for is not made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// There is no such workload.
    #[error("there is no workload {workload}; there {}", are(.known))]
    UnknownWorkload {
        /// As it was given.
        workload: WorkloadName,
        /// All there are.
        known: Vec<String>,
    },
    /// There is no such node.
    #[error("there is no node {node}; there {}", are(.known))]
    UnknownNode {
        /// As it was given.
        node: NodeName,
        /// All there are.
        known: Vec<String>,
    },
    /// It is there.
    #[error("{workload} is on {node} already")]
    AlreadyThere {
        /// What.
        workload: WorkloadName,
        /// Where.
        node: NodeName,
    },
    /// The policy was asked where to, and would let it stay.
    #[error("policy {policy} sees no better place for {workload}: {reason}")]
    NoBetterPlace {
        /// What.
        workload: WorkloadName,
        /// Which policy.
        policy: String,
        /// Its reason.
        reason: String,
    },
    /// Not now.
    #[error("{workload} cannot be moved now")]
    Refused {
        /// What.
        workload: WorkloadName,
        /// Why.
        #[source]
        why: Refusal,
    },
}

fn are(known: &[String]) -> String {
    match known {
        [] => "is none".into(),
        [one] => format!("is only {one}"),
        many => format!("are {}", many.join(", ")),
    }
}
