//! Real load on a node: stress-ng inside the node, within a cpu quota and a memory size of its own.

use godwit_criu::{NodeChild, NodeEnv};
use godwit_scenario::Stress;

use crate::cgroup::{Cgroup, CgroupError};
use crate::node::Node;
use std::time::Duration;

/// Why a node could not be stressed.
#[derive(Debug, thiserror::Error)]
pub enum StressError {
    /// Its cgroup.
    #[error("the stressers' cgroup")]
    Cgroup(#[from] CgroupError),
    /// The program.
    #[error("stress-ng (is it in the node image?)")]
    Start(#[from] godwit_criu::Error),
}

/// Running stressers; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Stressers {
    cgroup: Cgroup,
    // Dropped after the group was emptied: it only waits.
    _child: NodeChild,
}

impl Stressers {
    /// Starts what one phase of a scenario asks for. `index` tells the phases of a node apart.
    pub(crate) fn start(node: &Node, index: usize, stress: &Stress) -> Result<Self, StressError> {
        let cgroup = node.cgroup().child(&format!("stress{index}"));
        cgroup.create()?;
        cgroup.limit_cpu((stress.total_cpu() * node.size().cpu).max(0.01))?;
        let each = (stress.memory * node.size().memory.0 as f64 / f64::from(stress.stressers.max(1))) as u64;
        let count = stress.stressers.to_string();
        let command = NodeEnv::node(node.pid()).in_cgroups(cgroup.dirs()).command("stress-ng").arg("--quiet");
        // A vm stresser holds and writes its memory; below stress-ng's least size only the cpu is used.
        let command = if each >= 4 << 20 {
            command.args(["--vm", &count, "--vm-bytes", &each.to_string(), "--vm-keep"])
        } else {
            command.args(["--cpu", &count])
        };
        Ok(Self { _child: command.spawn()?, cgroup })
    }
}

impl Drop for Stressers {
    fn drop(&mut self) {
        if let Err(error) = self.cgroup.destroy(Duration::from_secs(3)) {
            tracing::warn!(%error, "stressers left behind");
        }
    }
}
