//! What an agent is told when it is started.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use godwit_criu::NodeEnv;
use godwit_migration::PartError;
use godwit_model::{Bytes, NodeName};
use godwit_transport::{Credentials, Peer};
use serde::{Deserialize, Serialize};

/// One agent: its node, where it is asked, and where it keeps things. As JSON for `godwit agent`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentConfig {
    /// The node's name.
    pub node: NodeName,
    /// Where it is asked.
    pub listen: Listen,
    /// The node's address on the network over which state travels.
    pub data: IpAddr,
    /// The directory with the node's credentials (`godwit_transport::Credentials`) for that network; without them state
    /// travels in the clear, from whoever knows the word.
    #[serde(default)]
    pub data_identity: Option<PathBuf>,
    /// Below it: `images/` (of checkpoints; should be on a tmpfs), `bundles/WORKLOAD`. A path of the node.
    pub state: PathBuf,
    /// How much memory the node has, where that is to be heeded.
    pub memory: Option<NodeMemory>,
    /// The pid of the node's first process, for an agent outside it; none: the agent's surroundings are the node.
    pub node_init: Option<i32>,
    /// After how many seconds without a controller what has merely been prepared is given up. What is frozen or restored never is:
    /// that waits for a controller.
    pub lease_s: u64,
    /// The control groups that an outside agent's commands join.
    pub cgroups: Vec<PathBuf>,
}

/// Where an agent is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listen {
    /// A socket of the file system, which only its owner may open.
    Unix(PathBuf),
    /// TCP, for peers with a certificate of the same authority.
    Tcp {
        /// Where.
        address: SocketAddr,
        /// The directory with `ca.pem`, `node.pem` and `node.key`.
        identity: PathBuf,
    },
}

/// A node's memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeMemory {
    /// As much as it says to have.
    pub size: Bytes,
    /// The `memory.stat` of the control group of all that runs on it.
    pub stat: PathBuf,
}

impl AgentConfig {
    pub(crate) fn env(&self) -> NodeEnv {
        match self.node_init {
            Some(pid) => NodeEnv::node(pid).in_cgroups(&self.cgroups),
            None => NodeEnv::host().in_cgroups(&self.cgroups),
        }
    }

    /// Where this process finds the images of a migration.
    pub(crate) fn images(&self, workload: &str, id: u64) -> PathBuf {
        self.env().host_path(self.state.join("images").join(format!("{workload}-{id}")))
    }

    /// Who the stream of a migration comes from or goes to: that node and no other.
    pub(crate) fn peer(&self, node: &str) -> Result<Peer, PartError> {
        let Some(dir) = &self.data_identity else { return Ok(Peer::Plain) };
        if node.is_empty() {
            return Err(PartError::new("the other agent does not say its name: it is of an older release"));
        }
        let own = Credentials::read_from(dir, self.node.as_str());
        let own = own.map_err(|e| PartError::caused_by("use the node's credentials", e))?;
        Ok(Peer::Node { own: Arc::new(own), name: node.into() })
    }

    /// A workload's bundle, as the node sees it.
    pub(crate) fn bundle(&self, workload: &str) -> PathBuf {
        self.state.join("bundles").join(workload)
    }

    /// An error, unless a workload that holds so much fits.
    pub(crate) fn must_fit(&self, workload: &str, needs: Bytes) -> Result<(), PartError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let free = memory.size.0.saturating_sub(used(&memory.stat).0);
        if free >= needs.0 {
            return Ok(());
        }
        let free = Bytes(free);
        Err(PartError::new(format!("{} has {free} of memory left, {workload} holds {needs}", self.node)))
    }
}

/// Anonymous and shared memory; none where the group cannot be read.
fn used(stat: &Path) -> Bytes {
    let text = fs::read_to_string(stat).unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    };
    let version1 = field("total_rss").map(|rss| rss + field("total_shmem").unwrap_or(0));
    Bytes(version1.or_else(|| Some(field("anon")? + field("shmem").unwrap_or(0))).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_either_version_of_control_groups() {
        let dir = tempfile::tempdir().unwrap();
        let stat = dir.path().join("memory.stat");
        let told =
            [("anon 4096\nfile 9\nshmem 1024\n", 5120), ("rss 1\ntotal_rss 300\ntotal_shmem 20\n", 320), ("", 0)];
        for (text, bytes) in told {
            fs::write(&stat, text).unwrap();
            assert_eq!(used(&stat), Bytes(bytes), "{text}");
        }
    }
}
