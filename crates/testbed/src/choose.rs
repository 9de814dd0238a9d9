//! Which strategy a migration takes when none is asked for.

use std::fs;

use godwit_model::{Strategy, StrategyChoice};

use crate::container::Container;
use crate::node::Node;

/// A strategy, and why, where it was not asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) strategy: Strategy,
    pub(crate) why: Option<String>,
}

/// What was asked for; else pre-copy where the kernel can track what the workload writes and nothing of the workload
/// writes unseen; else stop-copy.
pub(crate) fn choose(wanted: StrategyChoice, node: &Node, container: &Container) -> Chosen {
    let chosen = |strategy, why: String| Chosen { strategy, why: Some(why) };
    let strategy = match wanted {
        StrategyChoice::Fixed(strategy) => return Chosen { strategy, why: None },
        StrategyChoice::Auto => Strategy::PreCopy,
    };
    if let Err(why) = godwit_memory::supported() {
        return chosen(Strategy::StopCopy, format!("memory cannot be tracked here: {why}"));
    }
    let group = container.cgroup(node).dirs().swap_remove(0).join("cgroup.procs");
    let pids = fs::read_to_string(group).unwrap_or_default();
    for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
        match godwit_memory::hazards(pid) {
            Ok(hazards) => {
                if let Some(hazard) = hazards.first() {
                    return chosen(Strategy::StopCopy, format!("its memory changes unseen: {hazard}"));
                }
            }
            // It has ended meanwhile, or cannot be looked at: the migration itself will say so.
            Err(error) => tracing::debug!(pid, %error, "hazards are not known"),
        }
    }
    chosen(strategy, "its memory can be tracked, and goes ahead while it runs".into())
}
