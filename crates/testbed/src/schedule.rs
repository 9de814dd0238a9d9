//! What a scenario changes in the world, and when.

use std::collections::VecDeque;

use godwit_model::{NodeName, Rtt, Time, UserName};
use godwit_scenario::{Scenario, Stress};

/// A change of the world.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// A user moves.
    Rtt { user: UserName, node: NodeName, rtt: Rtt },
    /// The phase of load with this number begins.
    StressBegins(usize),
    /// It ends.
    StressEnds(usize),
}

/// All changes, by time; those of one instant in the scenario's order, ends of load before beginnings.
#[derive(Debug)]
pub(crate) struct Schedule<'a> {
    changes: VecDeque<(Time, Change)>,
    stress: &'a [Stress],
}

impl<'a> Schedule<'a> {
    /// Everything that the scenario has; with `frozen` only its first instant, and no load.
    pub(crate) fn new(scenario: &'a Scenario, frozen: bool) -> Self {
        let mut changes = Vec::new();
        for user in &scenario.users {
            for (node, trajectory) in &user.rtt {
                let (user, node) = (user.name.clone(), node.clone());
                let all = trajectory.changes().take(if frozen { 1 } else { usize::MAX });
                changes.extend(all.map(|(at, rtt)| (at, Change::Rtt { user: user.clone(), node: node.clone(), rtt })));
            }
        }
        if !frozen {
            let ends = scenario.stress.iter().enumerate().map(|(n, stress)| (stress.until(), Change::StressEnds(n)));
            changes.extend(ends);
            let begins = scenario.stress.iter().enumerate().map(|(n, stress)| (stress.from, Change::StressBegins(n)));
            changes.extend(begins);
        }
        changes.sort_by_key(|(at, _)| *at);
        Self { changes: changes.into(), stress: &scenario.stress }
    }

    /// The next change that is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Change> {
        self.changes.pop_front_if(|(at, _)| *at <= now).map(|(_, change)| change)
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.changes.front().map(|(at, _)| *at)
    }

    /// A phase of load by its number.
    pub(crate) fn stress(&self, number: usize) -> &'a Stress {
        &self.stress[number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
version: 1
name: t
nodes: [ { name: a }, { name: b } ]
users:
  - name: u
    rtt: { a: { start: 1ms, ramps: [ { steps: 2, every: 10s, by: 1ms } ] }, b: 5ms }
workloads: [ { name: w, node: a, users: [u] } ]
stress:
  - { node: a, from: 0s, for: 10s, stressers: 1 }
  - { node: a, from: 10s, for: 10s, stressers: 1 }
";

    #[test]
    fn changes_come_in_time_and_an_end_before_the_next_beginning() {
        let scenario = Scenario::parse(TEXT, "t.yaml").unwrap();
        let mut schedule = Schedule::new(&scenario, false);
        let mut at = |secs: f64| std::iter::from_fn(|| schedule.pop(Time::from_secs(secs))).collect::<Vec<_>>();
        let first = at(0.0);
        assert_eq!(first.len(), 3);
        assert!(first.contains(&Change::StressBegins(0)));
        let second = at(10.0);
        let place = |change: &Change| second.iter().position(|c| c == change).unwrap();
        assert!(place(&Change::StressEnds(0)) < place(&Change::StressBegins(1)));
        assert_eq!(at(100.0).len(), 2);
        assert_eq!(Schedule::new(&scenario, true).changes.len(), 2);
    }
}
