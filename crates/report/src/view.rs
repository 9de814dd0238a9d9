//! A record seen the way that plots and texts need it.

use std::collections::BTreeSet;

use godwit_model::{Baseline, MigrationRecord, NodeName, Outcome, RunRecord, Sample, Summary, UserName, WorkloadName};

/// A record with what follows from it.
pub(crate) struct View<'a> {
    pub(crate) summary: &'a Summary,
    pub(crate) samples: &'a [Sample],
    /// All nodes: the scenario's in its order, then any others that are spoken of.
    pub(crate) nodes: Vec<&'a NodeName>,
    pub(crate) users: Vec<&'a UserName>,
    /// All workloads: the scenario's in its order, then any others that are spoken of.
    pub(crate) workloads: Vec<&'a WorkloadName>,
    /// The end of the time axis, in seconds of the scenario; more than 0.
    pub(crate) end_s: f64,
}

/// From when to when a workload was on a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stretch {
    /// Index into [`View::nodes`].
    pub(crate) node: usize,
    pub(crate) from_s: f64,
    pub(crate) to_s: f64,
}

impl<'a> View<'a> {
    pub(crate) fn new(record: &'a RunRecord) -> Self {
        let RunRecord { summary, samples } = record;
        let mut nodes: Vec<&NodeName> = Vec::new();
        let mut add = |node: &'a NodeName| {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        };
        summary.nodes.iter().for_each(&mut add);
        summary.migrations.iter().flat_map(|m| [&m.from, &m.to]).for_each(&mut add);
        samples.iter().flat_map(|s| s.load.keys().chain(s.placement.values())).for_each(&mut add);

        let mut users: Vec<&UserName> = summary.users.iter().map(|user| &user.name).collect();
        let others: BTreeSet<_> = samples.iter().flat_map(|s| s.rtt.keys()).collect();
        users.extend(others.into_iter().filter(|user| !summary.users.iter().any(|u| &u.name == *user)));

        let mut workloads: Vec<&WorkloadName> = summary.workloads.iter().map(|workload| &workload.name).collect();
        let moved = summary.migrations.iter().map(|m| &m.workload);
        let others: BTreeSet<_> = samples.iter().flat_map(|s| s.placement.keys()).chain(moved).collect();
        workloads.extend(others.into_iter().filter(|name| !summary.workloads.iter().any(|w| &w.name == *name)));

        let last = samples.last().map_or(0.0, |sample| sample.at.secs());
        let end_s = if summary.duration_s.is_finite() { summary.duration_s.max(last) } else { last };
        Self { summary, samples, nodes, users, workloads, end_s: if end_s > 0.0 { end_s } else { 1.0 } }
    }

    /// The workload that serves a user; of several the first in the scenario's order.
    pub(crate) fn serves(&self, user: &UserName) -> Option<&'a WorkloadName> {
        self.summary.workloads.iter().find(|workload| workload.users.contains(user)).map(|workload| &workload.name)
    }

    /// How a plain tool did, if it moved anything.
    pub(crate) fn baseline(&self) -> Option<&'a Baseline> {
        self.summary.baseline.as_ref().filter(|baseline| !baseline.moves.is_empty())
    }

    /// A parameter of the policy in force.
    pub(crate) fn parameter(&self, name: &str) -> Option<f64> {
        self.summary.policy_params.get(name).copied().filter(|value| value.is_finite())
    }

    /// Where a workload was, in order.
    pub(crate) fn stretches(&self, workload: &WorkloadName) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut open = false;
        for sample in self.samples {
            let at = sample.at.secs();
            let node = sample.placement.get(workload).and_then(|name| self.nodes.iter().position(|node| *node == name));
            if let (true, Some(last)) = (open, stretches.last_mut()) {
                last.to_s = at;
            }
            match (node, stretches.last()) {
                (Some(node), Some(last)) if open && last.node == node => {}
                (Some(node), _) => stretches.push(Stretch { node, from_s: at, to_s: at }),
                (None, _) => {}
            }
            open = node.is_some();
        }
        if let (true, Some(last)) = (open, stretches.last_mut()) {
            last.to_s = last.to_s.max(self.end_s);
        }
        // The first sample is a little late; the workload was there before.
        if let (Some(first), Some(sample)) = (stretches.first_mut(), self.samples.first())
            && first.from_s == sample.at.secs()
            && first.from_s < self.end_s * 0.02
        {
            first.from_s = 0.0;
        }
        stretches
    }

    /// RTT from a node to a user over time.
    pub(crate) fn rtt(&self, user: &UserName, node: &NodeName) -> Vec<(f64, Option<f64>)> {
        self.series(|sample| Some(sample.rtt.get(user)?.get(node)?.ms()))
    }

    /// Load of a node over time.
    pub(crate) fn load(&self, node: &NodeName) -> Vec<(f64, Option<f64>)> {
        self.series(|sample| Some(sample.load.get(node)?.index()))
    }

    /// The silences that a user's client saw.
    pub(crate) fn silences(&self, user: &UserName) -> Vec<(f64, f64)> {
        let finite = |ms: &f64| ms.is_finite() && *ms >= 0.0;
        self.samples.iter().filter_map(|s| Some((s.at.secs(), s.gap_ms.get(user).copied().filter(finite)?))).collect()
    }

    fn series(&self, value: impl Fn(&Sample) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
        self.samples.iter().map(|sample| (sample.at.secs(), value(sample).filter(|v| v.is_finite()))).collect()
    }

    /// How many migrations ended in this way.
    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.summary.migrations.iter().filter(|m| m.outcome == outcome).count()
    }

    /// The largest of a figure over the migrations.
    pub(crate) fn worst(&self, figure: impl Fn(&MigrationRecord) -> Option<f64>) -> Option<f64> {
        self.summary.migrations.iter().filter_map(figure).filter(|ms| ms.is_finite()).reduce(f64::max)
    }

    /// The longest silence that any client saw: over the whole run, or around a migration.
    pub(crate) fn worst_gap(&self) -> Option<f64> {
        let clients = self.summary.clients.iter().map(|client| client.worst_gap_ms).filter(|ms| ms.is_finite());
        clients.chain(self.worst(|m| m.gap_ms)).reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_model::Time;

    fn record(placements: &[(f64, &str)]) -> RunRecord {
        let summary = serde_json::from_value(serde_json::json!({
            "schema": Summary::SCHEMA, "godwit": "0", "scenario": "s", "world": "sim", "policy": "p", "policy_params": {}, "seed": 1,
            "speed": 1.0, "duration_s": 100.0, "nodes": ["a", "b"], "workloads": [], "rtt_bound_ms": 26.0, "migrations": [],
            "users": [], "clients": [], "ok": true,
        }));
        let samples = placements.iter().map(|(at, node)| {
            let node = NodeName::new(*node).ok();
            let placement = node.map(|node| (WorkloadName::new("w").unwrap(), node)).into_iter().collect();
            Sample {
                at: Time::from_secs(*at),
                rtt: Default::default(),
                load: Default::default(),
                placement,
                gap_ms: Default::default(),
            }
        });
        RunRecord { summary: summary.unwrap(), samples: samples.collect() }
    }

    #[test]
    fn stretches_join_what_belongs_together() {
        let record = record(&[(0.5, "a"), (10.0, "a"), (20.0, "b"), (30.0, ""), (40.0, "b"), (50.0, "b")]);
        let view = View::new(&record);
        let stretches: Vec<_> =
            view.stretches(view.workloads[0]).into_iter().map(|s| (s.node, s.from_s, s.to_s)).collect();
        assert_eq!(stretches, [(0, 0.0, 20.0), (1, 20.0, 30.0), (1, 40.0, 100.0)]);
    }
}
