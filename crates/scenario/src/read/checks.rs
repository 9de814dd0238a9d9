//! What the parts have to do with one another: nothing gets more than there is.

use std::time::Duration;

use godwit_model::{NodeName, Time};

use super::Placed;
use crate::fields::Problems;
use crate::problem::Problem;
use crate::scenario::{Node, Stress, Workload};
use crate::units::say;

/// A node whose memory is used further than this has none left for its own system, and something in it gets killed.
const MOST_MEMORY: f64 = 0.95;

/// Workloads fit where they start, and no node is stressed beyond what it has.
pub(super) fn fits(
    nodes: &[Placed<Node>],
    workloads: &[Placed<Workload>],
    stress: &[Placed<Stress>],
    problems: &Problems,
) {
    for Placed { part: node, .. } in nodes {
        let memory = node.memory.0 as f64;
        let mut held = 0.0;
        for Placed { at, part: workload } in workloads.iter().filter(|w| w.part.node == node.name) {
            held += workload.memory.0 as f64 / memory;
            if held > MOST_MEMORY {
                let what = format!("{} does not fit: {} would use {}", workload.name, node.name, of_memory(held));
                let help = format!("give {} more memory, or start {} elsewhere", node.name, workload.name);
                problems.add(Problem::new(*at, what).help(help));
            }
        }
        stress_fits(&node.name, held, stress, problems);
    }
}

/// Use only grows where a stress begins, so looking at those instants is enough. Each stress is blamed once.
fn stress_fits(node: &NodeName, held: f64, stress: &[Placed<Stress>], problems: &Problems) {
    for Placed { at, part: begins } in stress.iter().filter(|s| &s.part.node == node) {
        let active = || stress.iter().filter(|s| &s.part.node == node && s.part.is_active(begins.from));
        let cpu: f64 = active().map(|s| s.part.total_cpu()).sum();
        let memory: f64 = held + active().map(|s| s.part.memory).sum::<f64>();
        let when = say(begins.from.since(Time::ZERO));
        let together = if active().count() > 1 { "the stresses active then together" } else { "this" };
        if cpu > 1.0 + 1e-9 {
            let what = format!("at {when} {together} would use {:.0}% of the cpu of {node}", cpu * 100.0);
            let help = "`cpu` is of each stresser: lower it, or use fewer stressers";
            problems.add(Problem::new(*at, what).help(help));
        }
        if memory > MOST_MEMORY + 1e-9 && begins.memory > 0.0 {
            let with = if held > 0.0 { " with the workloads that start there" } else { "" };
            let what = format!("at {when} {together}{with} would use {} of {node}", of_memory(memory));
            let help =
                format!("`memory` is of all stressers together: lower it to stay within {:.0}%", MOST_MEMORY * 100.0);
            problems.add(Problem::new(*at, what).help(help));
        }
    }
}

/// A stress that would never begin is a slip.
pub(super) fn begins_in_time(duration: Option<Duration>, stress: &[Placed<Stress>], problems: &Problems) {
    let Some(duration) = duration else { return };
    for Placed { at, part } in stress {
        if part.from >= Time::ZERO + duration {
            let (from, end) = (say(part.from.since(Time::ZERO)), say(duration));
            let what = format!("this stress never begins: {from} is not before the end of the scenario at {end}");
            problems.add(Problem::new(*at, what).help("lengthen `duration`, or lower `from`"));
        }
    }
}

fn of_memory(fraction: f64) -> String {
    format!("{:.0}% of the memory", fraction * 100.0)
}
