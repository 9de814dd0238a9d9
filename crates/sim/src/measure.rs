//! What the world's measurements would show: RTT as the probes smooth it, load as cgroups account for it.

use std::collections::BTreeMap;

use godwit_model::{Load, NodeName, Rtt, Time, UserName, WorkloadName};
use godwit_scenario::{Scenario, Trajectory};

use crate::{LoadModel, Stream, Streams};

/// The path between a user and a node, as a probe sees it.
pub(crate) struct Path<'a> {
    pub(crate) user: &'a UserName,
    pub(crate) node: &'a NodeName,
    trajectory: &'a Trajectory,
    noise: Stream,
    smoothed_ms: Option<f64>,
}

impl<'a> Path<'a> {
    /// Every path of the scenario, users and nodes in its order.
    pub(crate) fn all(scenario: &'a Scenario, streams: Streams) -> Vec<Self> {
        let pairs = scenario.users.iter().flat_map(|user| scenario.nodes.iter().map(move |node| (user, node)));
        let path = |(user, node): (&'a godwit_scenario::User, &'a godwit_scenario::Node)| {
            let trajectory = user.rtt.get(&node.name)?;
            let noise = streams.stream(&format!("rtt/{}/{}", user.name, node.name));
            Some(Self { user: &user.name, node: &node.name, trajectory, noise, smoothed_ms: None })
        };
        pairs.filter_map(path).collect()
    }

    /// One probe; gives the smoothed RTT.
    pub(crate) fn probe(&mut self, now: Time, noise: Rtt) -> Option<Rtt> {
        let raw = self.trajectory.at(now).ms() + self.noise.uniform() * noise.ms();
        let smoothed = smooth(self.smoothed_ms, raw);
        self.smoothed_ms = Some(smoothed);
        Rtt::from_ms(smoothed)
    }
}

/// The moving average of the real probes: a new figure weighs a quarter, the first is taken as it is.
fn smooth(average: Option<f64>, raw: f64) -> f64 {
    const ALPHA: f64 = 0.25;
    average.map_or(raw, |average| average + ALPHA * (raw - average))
}

/// The load of a node: its stress and the workloads that it serves.
pub(crate) fn load(
    scenario: &Scenario,
    model: LoadModel,
    placement: &BTreeMap<WorkloadName, NodeName>,
    node: &godwit_scenario::Node,
    now: Time,
) -> Load {
    let (mut cpu, mut memory) = scenario.stress_use(&node.name, now);
    for workload in scenario.workloads.iter().filter(|w| placement.get(&w.name) == Some(&node.name)) {
        cpu += model.workload_cpu / node.cpu;
        memory += workload.memory.0 as f64 / node.memory.0 as f64;
    }
    Load::from_use(cpu, memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_smooths_as_the_real_probes_do() {
        let mut probes = godwit_probe::Smoothed::default();
        let mut average = None;
        for ms in [10.0, 26.0, 3.0, 3.0, 60.0, 0.0] {
            probes.answered(Rtt::from_ms(ms).unwrap());
            average = Some(smooth(average, ms));
            assert_eq!(probes.rtt(), average.and_then(Rtt::from_ms));
        }
    }
}
