//! Two policies to compare others with.

use godwit_model::{Decision, NodeName, Snapshot, WorkloadState};

use crate::view::{View, Worst};
use crate::{Policy, move_to, stay};

/// Never moves anything: what a deployment without live migration gets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Never;

impl Policy for Never {
    fn name(&self) -> &str {
        "never"
    }

    fn decide(&self, snapshot: &Snapshot) -> Vec<Decision> {
        let decide = |w| stay(w, "stay-always", "this policy never moves anything".into());
        snapshot.workloads.iter().map(decide).collect()
    }
}

/// Always moves to the ready node with the lowest RTT to the worst-off user, whatever the load and the gain.
///
/// It stays where no node is strictly nearer, and where the serving node's own RTT is unknown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nearest;

impl Policy for Nearest {
    fn name(&self) -> &str {
        "nearest"
    }

    fn decide(&self, snapshot: &Snapshot) -> Vec<Decision> {
        let view = View::new(snapshot);
        snapshot.workloads.iter().map(|workload| nearest(&view, workload)).collect()
    }
}

fn nearest(view: &View<'_>, workload: &WorkloadState) -> Decision {
    let node = &workload.node;
    if workload.users.is_empty() {
        return stay(workload, "stay-no-users", format!("{} serves nobody", workload.name));
    }
    let Some(here) = view.worst_rtt(workload, node) else {
        return stay(workload, "stay-rtt-unknown", format!("there is no fresh rtt to {node} for every user"));
    };
    let nearer: Option<(&NodeName, Worst<'_>)> = view
        .others(node)
        .filter(|(_, other)| other.ready)
        .filter_map(|(name, _)| view.worst_rtt(workload, name).map(|worst| (name, worst)))
        .min_by(|a, b| a.1.rtt.ms().total_cmp(&b.1.rtt.ms()))
        .filter(|(_, worst)| worst.rtt < here.rtt);
    match nearer {
        Some((to, there)) => {
            let reason = format!("rtt to {node} is {}, to {to} it is {}, the lowest", here.rtt, there.rtt);
            move_to(workload, to, "nearest", reason)
        }
        None => stay(workload, "stay-nearest", format!("rtt to {node} is {}, and no other is lower", here.rtt)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(policy: &dyn Policy, snapshot: &str) -> (Option<String>, String) {
        let snapshot: Snapshot = serde_json::from_str(snapshot).unwrap();
        let decision = policy.decide(&snapshot).remove(0);
        (decision.target().map(ToString::to_string), decision.rule)
    }

    #[test]
    fn nearest_takes_the_lowest_rtt_of_the_ready_nodes() {
        let world = |ready| {
            format!(
                r#"{{"nodes":[{{"name":"a"}},{{"name":"b","ready":{ready}}},{{"name":"c"}}],
                "users":[{{"name":"u","rtt_ms":{{"a":9,"b":3,"c":4}}}}],
                "workloads":[{{"name":"w","node":"a","users":["u"]}}]}}"#
            )
        };
        assert_eq!(first(&Nearest, &world(true)), (Some("b".into()), "nearest".into()));
        assert_eq!(first(&Nearest, &world(false)), (Some("c".into()), "nearest".into()));
        assert_eq!(first(&Never, &world(true)), (None, "stay-always".into()));
    }

    #[test]
    fn nearest_does_not_leave_for_an_equal_nor_from_the_unknown() {
        let world = |rtt: &str| {
            format!(
                r#"{{"nodes":[{{"name":"a"}},{{"name":"b"}}],"users":[{{"name":"u","rtt_ms":{{{rtt}}}}}],
                "workloads":[{{"name":"w","node":"a","users":["u"]}}]}}"#
            )
        };
        assert_eq!(first(&Nearest, &world(r#""a":4,"b":4"#)), (None, "stay-nearest".into()));
        assert_eq!(first(&Nearest, &world(r#""b":4"#)), (None, "stay-rtt-unknown".into()));
    }
}
