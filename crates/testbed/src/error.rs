//! What can keep a testbed from standing.

use std::io;
use std::path::PathBuf;

use godwit_model::{NodeName, UserName, WorkloadName};

use crate::agent::AgentError;
use crate::cgroup::CgroupError;
use crate::name::TestbedName;
use crate::node::NodeError;
use crate::stress::StressError;

/// Why a testbed could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// Root is needed.
    #[error(
        "a testbed makes namespaces and runs containers, which takes root: run it with sudo (--world sim needs no root)"
    )]
    NotRoot,
    /// The host lacks something.
    #[error("this host lacks {what}; {next}")]
    Lacks {
        /// What.
        what: String,
        /// What to do about it.
        next: String,
    },
    /// One of that name runs already.
    #[error(
        "a testbed named {name} runs already (pid {pid}); end it with: godwit testbed down --name {name}, or choose another --name"
    )]
    Running {
        /// Which.
        name: TestbedName,
        /// Its process.
        pid: String,
    },
    /// The scenario asks for what this world does not have.
    #[error("{0}")]
    Unsupported(String),
    /// A file or directory of the testbed.
    #[error("{what} {path}")]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The network.
    #[error("the testbed's network")]
    Net(#[from] godwit_net::NetError),
    /// A node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A node's agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Who vouches for the nodes.
    #[error("make the authority of the testbed's nodes")]
    Authority(#[source] godwit_transport::IdentityError),
    /// A cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The image of a workload.
    #[error("the image of workload {workload}")]
    Image {
        /// Whose.
        workload: WorkloadName,
        /// Why it cannot be used.
        #[source]
        source: godwit_image::ImageError,
    },
    /// A workload does not start.
    #[error("workload {workload} does not start on {node}: {why}")]
    Workload {
        /// Which.
        workload: WorkloadName,
        /// Where.
        node: NodeName,
        /// What is wrong, and what it said.
        why: String,
        /// What failed.
        #[source]
        source: Option<godwit_criu::Error>,
    },
    /// CRIU on a node.
    #[error("CRIU on node {node}")]
    Criu {
        /// Which.
        node: NodeName,
        /// Why.
        #[source]
        source: godwit_criu::Error,
    },
    /// The RTT probes.
    #[error("the RTT probes of node {node}")]
    Probe {
        /// Which.
        node: NodeName,
        /// Why.
        #[source]
        source: godwit_probe::ProbeError,
    },
    /// A measuring client.
    #[error("the measuring client of user {user}")]
    Client {
        /// Whose.
        user: UserName,
        /// Why.
        #[source]
        source: godwit_traffic::ClientError,
    },
    /// Load.
    #[error("a node cannot be loaded")]
    Stress(#[from] StressError),
    /// A move that is compared.
    #[error("the comparison: {what}")]
    Compare {
        /// What failed.
        what: String,
        /// Why.
        #[source]
        source: Option<godwit_criu::Error>,
    },
    /// It was asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl TestbedError {
    /// Whether the host, not the request, is what is wrong.
    pub fn is_lack(&self) -> bool {
        matches!(self, Self::NotRoot | Self::Lacks { .. })
    }

    /// Whether it was asked for something that cannot be.
    pub fn is_bad_request(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Unsupported(_) | Self::Image { .. })
    }
}
