//! The processes of a migration: an agent a node, and a controller that is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use godwit_agent::{Address, AgentClient, AgentConfig, Listen, serve, sides};
use godwit_criu::NodeEnv;
use godwit_migration::{
    Cancel, Ended, Entry, PartError, Parts, Progress, Request, Retries, Side, SqliteJournal, Traffic, migrate, recover,
};
use godwit_model::{Bytes, MigrationId, NodeName, Strategy, WorkloadName};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::world::{Node, World, limit};

/// Says in the environment what this process is to be, as JSON.
pub const ROLE: &str = "GWT_ROLE";
const PATIENCE: Duration = Duration::from_secs(30);

/// What a process of this binary is, other than the one with the tests.
#[derive(Serialize, Deserialize)]
pub enum Role {
    Agent(AgentConfig),
    Controller { places: [Place; 2], journal: PathBuf, strategy: Strategy, from: usize, dies_in: String },
}

impl Role {
    fn start(&self) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .env(ROLE, serde_json::to_string(self).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub fn play(self) {
        match self {
            Self::Agent(config) => panic!("{}", serve(config).unwrap_err()),
            Self::Controller { places, journal, strategy, from, dies_in } => {
                let mut journal = SqliteJournal::open(&journal).unwrap();
                let request = request(journal.next_id().unwrap(), &places, strategy, from);
                let die = |progress| {
                    if matches!(progress, Progress::Entered(phase) if phase.to_string() == dies_in) {
                        kill(Pid::this(), Signal::SIGKILL).unwrap();
                    }
                };
                with_parts(&request, &places, &mut journal, |parts| {
                    migrate(&request, parts, &Cancel::default(), &mut { die })
                });
            }
        }
    }
}

/// A node as any process can find it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    name: NodeName,
    node: String,
    netns: String,
    socket: PathBuf,
    /// The client's network namespace, and its device to this node.
    client: String,
    dev: String,
}

impl Place {
    fn env(&self) -> NodeEnv {
        Node::env_of(&self.node)
    }

    fn agent(&self) -> AgentClient {
        AgentClient::new(self.name.clone(), Address::Unix(self.socket.clone())).unwrap()
    }

    /// Keeps all packets from the service and from its peers, or lets them through.
    fn block(&self, on: bool) -> Result<(), PartError> {
        let mut script = "add table inet godwit; delete table inet godwit; ".to_owned();
        if on {
            script.push_str(
                "add table inet godwit; add chain inet godwit in { type filter hook input priority -300; policy drop; }; \
                 add chain inet godwit out { type filter hook output priority -300; policy drop; }",
            );
        }
        let nft = self.env().in_netns(&self.netns).command("nft").arg(script).run(&limit());
        nft.map(drop).map_err(|e| PartError::caused_by("block", e))
    }
}

fn request(id: MigrationId, places: &[Place; 2], strategy: Strategy, from: usize) -> Request {
    let workload = WorkloadName::new("app").unwrap();
    Request { id, workload, from: places[from].name.clone(), to: places[1 - from].name.clone(), strategy }
}

fn with_parts<T>(
    request: &Request,
    places: &[Place; 2],
    journal: &mut SqliteJournal,
    work: impl FnOnce(&mut Parts<'_>) -> T,
) -> T {
    let place = |name: &NodeName| places.iter().find(|place| place.name == *name).unwrap();
    let (from, to) = (place(&request.from), place(&request.to));
    let (source, target) = (Arc::new(from.agent()), Arc::new(to.agent()));
    let (mut source, mut target) = sides(request, Bytes(0), None, &source, &target);
    let mut traffic = Road { from, to };
    work(&mut Parts {
        source: &mut source,
        target: &mut target,
        traffic: &mut traffic,
        journal,
        retries: Retries::default(),
    })
}

/// Packets are dropped while they are held; TCP sends them again.
struct Road<'a> {
    from: &'a Place,
    to: &'a Place,
}

impl Traffic for Road<'_> {
    fn stage(&mut self) -> Result<(), PartError> {
        self.to.block(true)
    }
    fn hold(&mut self) -> Result<(), PartError> {
        self.from.block(true)
    }
    fn fence(&mut self) -> Result<(), PartError> {
        Ok(())
    }
    fn release(&mut self, to: Side) -> Result<(), PartError> {
        let place = if to == Side::Source { self.from } else { self.to };
        let route = ["route", "replace", "10.77.0.2", "dev", &place.dev, "src", "10.77.0.1"];
        let routed = Command::new("ip").args(["-n", &place.client]).args(route).status();
        let routed = routed.map_err(|e| PartError::caused_by("route", e))?;
        if !routed.success() {
            return Err(PartError::new("the route cannot be changed"));
        }
        place.block(false)
    }
    fn drain(&mut self) -> Result<(), PartError> {
        self.from.block(false)?;
        self.to.block(false)
    }
}

/// A world with an agent on each node.
pub struct Cast {
    pub places: [Place; 2],
    configs: [AgentConfig; 2],
    agents: [Child; 2],
    journal: PathBuf,
    _dir: tempfile::TempDir,
}

impl Cast {
    pub fn new(world: &World) -> Self {
        let dir = tempfile::Builder::new().prefix("gwt").tempdir().unwrap();
        let nodes = [("a", &world.a), ("b", &world.b)];
        let places = nodes.map(|(side, node)| {
            let link =
                "mkdir -p /run/runc /var/lib/godwit/state/bundles && ln -s /var/lib/godwit/app /var/lib/godwit/state/bundles/app";
            node.env.command("sh").args(["-c", link]).run(&limit()).unwrap();
            node.write_bundle("app", 16, &[]);
            let client = node.netns.trim_start_matches("/run/netns/");
            Place {
                name: NodeName::new(side).unwrap(),
                node: node.description(),
                netns: node.netns.clone(),
                socket: dir.path().join(format!("{side}.sock")),
                client: format!("{}c", &client[..client.len() - 1]),
                dev: format!("r{side}"),
            }
        });
        let configs = nodes.map(|(side, node)| AgentConfig {
            node: NodeName::new(side).unwrap(),
            listen: Listen::Unix(dir.path().join(format!("{side}.sock"))),
            data: std::net::Ipv4Addr::LOCALHOST.into(),
            data_identity: None,
            state: "/var/lib/godwit/state".into(),
            memory: None,
            node_init: node.env.init_pid(),
            lease_s: 600,
            cgroups: node.cgroups(),
        });
        let agents = configs.clone().map(|config| Role::Agent(config).start());
        let cast = Self { places, configs, agents, journal: dir.path().join("journal.db"), _dir: dir };
        cast.agents_answer();
        cast
    }

    fn agents_answer(&self) {
        for place in &self.places {
            place.agent().wait_until_there(PATIENCE).unwrap();
        }
    }

    /// SIGKILL, and others in their place.
    pub fn kill_agents(&mut self) {
        for (agent, config) in self.agents.iter_mut().zip(&self.configs) {
            agent.kill().unwrap();
            agent.wait().unwrap();
            *agent = Role::Agent(config.clone()).start();
        }
        self.agents_answer();
    }

    /// A controller that moves the workload, and dies when it enters a phase.
    pub fn controller(&self, strategy: Strategy, from: usize, dies_in: &str) -> ExitStatus {
        let (places, journal, dies_in) = (self.places.clone(), self.journal.clone(), dies_in.to_owned());
        Role::Controller { places, journal, strategy, from, dies_in }.start().wait().unwrap()
    }

    /// What another controller makes of what the journal has open.
    pub fn recover(&self) -> Option<Ended> {
        let mut journal = SqliteJournal::open(&self.journal).unwrap();
        let entries: Vec<Entry> = journal.open_entries().unwrap();
        assert!(entries.len() <= 1, "{entries:?}");
        let entry = entries.first()?;
        let ended = with_parts(&entry.request, &self.places, &mut journal, |parts| recover(entry, parts, &mut |_| ()));
        assert!(!ended.open && journal.open_entries().unwrap().is_empty(), "{ended:?}");
        Some(ended)
    }

    /// What the agents have open.
    pub fn open(&self) -> Vec<String> {
        let open = self.places.iter().flat_map(|place| place.agent().status(PATIENCE).unwrap());
        open.map(|open| format!("{open:?}")).collect()
    }

    /// What is left in the directories for images.
    pub fn images(&self) -> Vec<PathBuf> {
        let of = |place: &Place| place.env().host_path(Path::new("/var/lib/godwit/state/images"));
        let files = self.places.iter().flat_map(|place| fs::read_dir(of(place)).into_iter().flatten().flatten());
        files.map(|file| file.path()).collect()
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}
