//! A node's agent: a process in the node, kept alive from here.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use godwit_agent::{Address, AgentClient, AgentConfig, CallError, Listen, NodeMemory};
use godwit_criu::{Cancel, Limit, NodeChild, NodeEnv};
use godwit_model::NodeName;
use godwit_transport::{Authority, IdentityError};

use crate::container::PROGRAM;
use crate::network::NodeNet;
use crate::node::Node;
use crate::node_init::STATE_DIR;

/// How long an agent may take to come up.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// An agent that ended sooner than this after its start is given a moment.
const TOO_SOON: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(200);
/// Longer than any testbed runs.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// An agent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its process.
    #[error("the agent of node {node} does not start")]
    Start {
        /// Whose.
        node: NodeName,
        /// Why.
        #[source]
        source: godwit_criu::Error,
    },
    /// What is needed here to start or to call it.
    #[error("the agent of node {node}")]
    Here {
        /// Whose.
        node: NodeName,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What it shows other agents.
    #[error("the credentials of node {node}")]
    Identity {
        /// Whose.
        node: NodeName,
        /// Why.
        #[source]
        source: IdentityError,
    },
    /// It started and does not answer.
    #[error("the agent does not answer (what it said is in {log})")]
    Silent {
        /// Its log.
        log: PathBuf,
        /// Why.
        #[source]
        source: CallError,
    },
}

/// A running agent, started again whenever it ends. Gone when this is dropped.
#[derive(Debug)]
pub(crate) struct NodeAgent {
    node: NodeName,
    socket: PathBuf,
    stop: Cancel,
    running: Option<Sender<()>>,
    deaths: Arc<Mutex<u32>>,
    alive: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl NodeAgent {
    /// Starts it in its node; returns when it answers. What it says goes to `log`.
    pub(crate) fn start(node: &Node, net: &NodeNet, authority: &Authority, log: &Path) -> Result<Self, AgentError> {
        let name = node.name().clone();
        let here = |source| AgentError::Here { node: name.clone(), source };
        let start = |source| AgentError::Start { node: name.clone(), source };
        let socket = Path::new(STATE_DIR).join("agent.sock");
        // Read by the agent at every migration, and made anew with every node: on the node's own tmpfs, for root alone.
        let identity = Path::new(STATE_DIR).join("identity");
        let credentials = authority.issue(name.as_str());
        let written = credentials.and_then(|credentials| credentials.write_to(&node.host_path(&identity)));
        written.map_err(|source| AgentError::Identity { node: name.clone(), source })?;
        let config = AgentConfig {
            node: name.clone(),
            listen: Listen::Unix(socket.clone()),
            data: net.backhaul().into(),
            data_identity: Some(identity),
            state: STATE_DIR.into(),
            memory: Some(NodeMemory { size: node.size().memory, stat: node.cgroup().memory_stat() }),
            node_init: None,
            lease_s: 600,
            cgroups: Vec::new(),
        };
        let told = serde_json::to_string(&config).expect("an agent's configuration has only string keys");
        let said = File::options().create(true).append(true).open(log).map_err(here)?;
        let stop = Cancel::new().map_err(start)?;
        let deaths = Arc::<Mutex<u32>>::default();
        let (holds, running) = mpsc::channel();
        let alive = Arc::new(AtomicBool::new(true));
        let (env, deaths_seen) = (node.env(), Arc::clone(&deaths));
        let mut keeper =
            Keeper { env, told, said, stop: stop.clone(), running, deaths: deaths_seen, alive: Arc::clone(&alive) };
        let child = keeper.spawn().map_err(start)?;
        let keeper = thread::Builder::new().name("agent".into()).spawn(move || keeper.keep(child)).map_err(here)?;
        let socket = node.host_path(socket);
        let agent =
            Self { node: name.clone(), socket, stop, running: Some(holds), deaths, alive, keeper: Some(keeper) };
        let silent = |source| AgentError::Silent { log: log.to_owned(), source };
        agent.client().map_err(here)?.wait_until_there(START_PATIENCE).map_err(silent)?;
        Ok(agent)
    }

    /// Somebody who calls it.
    pub(crate) fn client(&self) -> std::io::Result<AgentClient> {
        AgentClient::new(self.node.clone(), Address::Unix(self.socket.clone()))
    }

    /// Whether it does; else it is about to be started again.
    pub(crate) fn runs(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// How often it has ended since this was asked last.
    pub(crate) fn take_deaths(&self) -> u32 {
        std::mem::take(&mut *self.deaths.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for NodeAgent {
    fn drop(&mut self) {
        self.stop.cancel();
        drop(self.running.take());
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has said so.
            let _ = keeper.join();
        }
    }
}

/// Who starts it again.
struct Keeper {
    env: NodeEnv,
    told: String,
    said: File,
    stop: Cancel,
    /// Ends with the one who holds the agent.
    running: Receiver<()>,
    deaths: Arc<Mutex<u32>>,
    alive: Arc<AtomicBool>,
}

impl Keeper {
    fn spawn(&mut self) -> godwit_criu::Result<NodeChild> {
        let said = self
            .said
            .try_clone()
            .map_err(|source| godwit_criu::Error::Io { what: "duplicate the agent's log".into(), source })?;
        let mut command = self.env.command(PROGRAM).args(["agent", &self.told]).stderr(said);
        if let Ok(filter) = std::env::var("RUST_LOG") {
            command = command.env("RUST_LOG", filter);
        }
        command.spawn()
    }

    fn keep(&mut self, mut child: NodeChild) {
        loop {
            let started = Instant::now();
            // An error is the stop, and the agent has been killed then.
            let Ok(status) = child.wait(&Limit::within(FOR_EVER).or(&self.stop)) else { return };
            self.alive.store(false, Ordering::SeqCst);
            tracing::debug!(%status, "an agent has ended");
            let stopped = || !matches!(self.running.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout));
            if started.elapsed() < TOO_SOON && stopped() {
                return;
            }
            child = match self.spawn() {
                Ok(child) => child,
                // Its node is gone, or is about to be.
                Err(error) => {
                    tracing::debug!(%error, "no further agent");
                    return;
                }
            };
            self.alive.store(true, Ordering::SeqCst);
            *self.deaths.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    }
}
