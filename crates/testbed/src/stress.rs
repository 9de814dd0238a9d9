//! Real load on a node: stress-ng inside the node, within a cpu quota and a memory size of its own.

use std::time::Duration;

use godwit_criu::{NodeChild, NodeEnv};
use godwit_scenario::Stress;

use crate::cgroup::{Cgroup, CgroupError};
use crate::node::Node;

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
    groups: Vec<Cgroup>,
    // Dropped after the groups were emptied: they only wait.
    _children: Vec<NodeChild>,
}

impl Stressers {
    /// Starts what one phase of a scenario asks for. `index` tells the phases of a node apart.
    ///
    /// cpu and memory are loaded apart: a process that shares a small quota between both would take minutes to touch
    /// all of its memory.
    pub(crate) fn start(node: &Node, index: usize, stress: &Stress) -> Result<Self, StressError> {
        let mut stressers = Self { groups: Vec::new(), _children: Vec::new() };
        let memory = (stress.memory * node.size().memory.0 as f64) as u64;
        if memory > 0 {
            let bytes = memory.to_string();
            let hold = ["--vm", "1", "--vm-bytes", &bytes, "--vm-keep", "--vm-populate", "--vm-hang", "0"];
            stressers.add(node, &format!("stress{index}-memory"), None, &hold)?;
        }
        let cores = stress.total_cpu() * node.size().cpu;
        if cores > 0.0 {
            let count = stress.stressers.to_string();
            stressers.add(node, &format!("stress{index}-cpu"), Some(cores.max(0.01)), &["--cpu", &count])?;
        }
        Ok(stressers)
    }

    fn add(&mut self, node: &Node, group: &str, cores: Option<f64>, args: &[&str]) -> Result<(), StressError> {
        let cgroup = node.cgroup().child(group);
        cgroup.create()?;
        self.groups.push(cgroup.clone());
        if let Some(cores) = cores {
            cgroup.limit_cpu(cores)?;
        }
        let env = NodeEnv::node(node.pid()).in_cgroups(cgroup.dirs());
        let child =
            env.command("stress-ng").args(["--quiet", "--temp-path", "/tmp"]).args(args.iter().copied()).spawn()?;
        self._children.push(child);
        Ok(())
    }
}

impl Drop for Stressers {
    fn drop(&mut self) {
        for cgroup in &self.groups {
            if let Err(error) = cgroup.destroy(Duration::from_secs(3)) {
                tracing::warn!(%error, "stressers left behind");
            }
        }
    }
}
