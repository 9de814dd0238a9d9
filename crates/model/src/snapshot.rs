//! The world at one instant: what a policy decides upon.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Load, NodeName, Rtt, Time, UserName, WorkloadName};

/// Everything that is known at one instant. One JSON object a line is the input of `godwit policy decide` and the
/// form in which every run keeps what its decisions were made upon (`snapshots.jsonl`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// When, in seconds of the scenario.
    #[serde(default, rename = "at_s")]
    pub at: Time,
    /// The edge nodes.
    pub nodes: Vec<NodeState>,
    /// The users with their RTT to the nodes.
    #[serde(default)]
    pub users: Vec<UserState>,
    /// The workloads and where they run.
    pub workloads: Vec<WorkloadState>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeState {
    /// Its name.
    pub name: NodeName,
    /// Its load; `None` when there is no fresh figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Whether workloads may be moved there (false: cordoned, draining, or down).
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub ready: bool,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserState {
    /// Its name.
    pub name: UserName,
    /// RTT to each node, in ms; a node without a fresh figure is absent.
    #[serde(default)]
    pub rtt_ms: BTreeMap<NodeName, Rtt>,
}

/// Container or virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// An OCI container, moved by CRIU.
    #[default]
    Container,
    /// A virtual machine, moved by its hypervisor.
    Vm,
}

/// A workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadState {
    /// Its name.
    pub name: WorkloadName,
    /// What it is.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// The node where it runs.
    pub node: NodeName,
    /// The users that it serves.
    #[serde(default)]
    pub users: Vec<UserName>,
}

impl Snapshot {
    /// The state of a node.
    pub fn node(&self, name: &NodeName) -> Option<&NodeState> {
        self.nodes.iter().find(|n| &n.name == name)
    }

    /// RTT from `node` to the worst-off of the workload's users; `None` when one of them has no fresh figure, or when
    /// it serves nobody.
    pub fn worst_rtt(&self, workload: &WorkloadState, node: &NodeName) -> Option<Rtt> {
        let mut worst: Option<Rtt> = None;
        for user in &workload.users {
            let rtt = *self.users.iter().find(|u| &u.name == user)?.rtt_ms.get(node)?;
            if worst.is_none_or(|w| rtt > w) {
                worst = Some(rtt);
            }
        }
        worst
    }
}

fn yes() -> bool {
    true
}

fn is_yes(ready: &bool) -> bool {
    *ready
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_line_reads() {
        let line = r#"{"nodes":[{"name":"edge1","load":1.4}],"users":[{"name":"car","rtt_ms":{"edge1":3.2}}],
            "workloads":[{"name":"video","kind":"container","node":"edge1","users":["car"]}]}"#;
        let snapshot: Snapshot = serde_json::from_str(line).unwrap();
        let video = &snapshot.workloads[0];
        assert_eq!(snapshot.worst_rtt(video, &video.node), Rtt::from_ms(3.2));
        assert_eq!(snapshot.node(&video.node).unwrap().load, Load::from_index(1.4));
    }

    #[test]
    fn a_misspelt_field_is_refused_by_name() {
        let error = serde_json::from_str::<Snapshot>(r#"{"nodes":[],"workload":[]}"#).unwrap_err().to_string();
        assert!(error.contains("workload"), "{error}");
    }
}
