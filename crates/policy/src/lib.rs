//! Where should each workload run? A policy answers from a snapshot, with its reason.
//!
//! ```text
//!                    ┌──────────────── Policy ────────────────┐
//!   Snapshot ──────► │ View (index, worst-off user) ─► rules  │ ──────► Vec<Decision>
//!   nodes, users,    └────────────────────────────────────────┘         stay | move, rule, reason
//!   workloads             ▲ built by name from the registry:
//!                         │ list() · schema(name) · build(name, parameters)
//! ```
//!
//! What it guarantees, of every policy here:
//! - **total**: every snapshot gives one decision a workload, in the snapshot's order; missing figures, unknown names,
//!   duplicates and an empty world included;
//! - **pure and deterministic**: the same snapshot gives the same decisions, and the order in which it lists its nodes
//!   and users does not matter. No clock, no randomness, no I/O;
//! - **sound**: never a move to the node where the workload is, to a node that the snapshot does not list or that is
//!   not ready, nor upon a figure that is not there;
//! - **explained**: every decision carries a stable kebab-case `rule` for counting and a `reason` for a person with the
//!   figures it was made upon. A move to a worse RTT or load band says so in its reason.
//!
//! ```
//! use godwit_model::{Action, Snapshot};
//!
//! let snapshot: Snapshot = serde_json::from_str(r#"{
//!     "nodes": [{"name": "edge1", "load": 1.2}, {"name": "edge2", "load": 1.4}],
//!     "users": [{"name": "car", "rtt_ms": {"edge1": 27.2, "edge2": 5.1}}],
//!     "workloads": [{"name": "video", "node": "edge1", "users": ["car"]}]}"#)?;
//! let policy = godwit_policy::build("threshold", &serde_json::Value::Null)?;
//! let decision = &policy.decide(&snapshot)[0];
//! assert_eq!(decision.rule, "rtt-bad-nearest-good");
//! assert_eq!(
//!     decision.reason,
//!     "rtt to edge1 is 27.2 ms (bad from 26 ms): \
//!      edge2 is the nearest with good rtt (5.1 ms) and healthy load (1.40)"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bands;
mod baseline;
mod error;
mod registry;
mod threshold;
mod view;

use std::collections::BTreeMap;

use godwit_model::{Action, Decision, NodeName, Snapshot, WorkloadState};

pub use bands::{ConfigError, LoadBand, RttBand, ThresholdConfig};
pub use baseline::{Nearest, Never};
pub use error::PolicyError;
pub use registry::{PolicyInfo, build, list, schema};
pub use threshold::Threshold;

/// Decides where workloads should run.
///
/// An implementation keeps the promises that the crate documents; `tests/properties.rs` holds every registered policy
/// to them.
pub trait Policy: Send {
    /// Its name in the registry.
    fn name(&self) -> &str;

    /// Its parameters in force, by their names in its [`schema`], defaults included; empty when it has none.
    fn parameters(&self) -> BTreeMap<String, f64> {
        BTreeMap::new()
    }

    /// One decision for each of the snapshot's workloads, in the snapshot's order.
    fn decide(&self, snapshot: &Snapshot) -> Vec<Decision>;
}

/// A decision to stay.
fn stay(workload: &WorkloadState, rule: &str, reason: String) -> Decision {
    Decision { workload: workload.name.clone(), action: Action::Stay, rule: rule.into(), reason }
}

/// A decision to move.
fn move_to(workload: &WorkloadState, to: &NodeName, rule: &str, reason: String) -> Decision {
    Decision { workload: workload.name.clone(), action: Action::Move { to: to.clone() }, rule: rule.into(), reason }
}
