//! A testbed as a whole: made, used, and gone without a trace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use godwit_agent::{AgentClient, sides};
use godwit_control::Order;
use godwit_criu::Limit;
use godwit_migration::{Cancel, Ended, Entry, Parts, Progress, Request, Retries, SqliteJournal, migrate, recover};
use godwit_model::{Bandwidth, Bytes, Family, NodeName, Outcome, StrategyChoice, UserName, WorkloadKind, WorkloadName};
use godwit_net::{Backend, SockDiag};
use godwit_scenario::Scenario;
use godwit_transport::Authority;

use crate::agent::{AgentError, NodeAgent};
use crate::cgroup::Cgroup;
use crate::checkpoint::Registry;
use crate::choose::{Chosen, choose};
use crate::container::Container;
use crate::error::TestbedError;
use crate::host;
use crate::images::Images;
use crate::mover::TrafficSide;
use crate::name::{MAX_OF_A_KIND, TestbedName};
use crate::network::{self, Network, has_v6};
use crate::node::{Node, NodeConfig, Size};
use crate::run_dir::RunDir;
use crate::stop::Stop;

/// How often a migration is taken up again that could not be ended.
const RECOVER_EVERY: Duration = Duration::from_secs(1);

type Result<T> = std::result::Result<T, TestbedError>;

/// How long a workload may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(15);

/// What a testbed is made of.
#[derive(Debug)]
pub struct TestbedConfig<'a> {
    /// Its name.
    pub name: TestbedName,
    /// Godwit's program: nodes start it as their first process, containers as their service.
    pub program: PathBuf,
    /// The node image's root file system.
    pub image: PathBuf,
    /// Where unpacked images of workloads are kept.
    pub image_cache: PathBuf,
    /// Who keeps the links' delays.
    pub links: Backend,
    /// Nodes, users and workloads.
    pub scenario: &'a Scenario,
}

/// A running testbed; everything of it is gone when this is dropped, and nearly everything when this process dies
/// ([`remove_leftovers`] does the rest).
#[derive(Debug)]
pub struct Testbed {
    containers: BTreeMap<WorkloadName, Container>,
    placement: Mutex<BTreeMap<WorkloadName, NodeName>>,
    journal: Mutex<SqliteJournal>,
    image: PathBuf,
    images: Images,
    // Dropped in this order: agents, processes, then the networks that they are in, then the files.
    agents: BTreeMap<NodeName, NodeAgent>,
    /// Vouches for the nodes, among each other; its key is nowhere but here.
    authority: Authority,
    nodes: BTreeMap<NodeName, Node>,
    checkpoints: Registry,
    network: Network,
    _pipes: host::PipeSize,
    _cgroup: GroupGuard,
    run_dir: RunDir,
}

/// Removes the testbed's top cgroup, when the nodes' are gone.
#[derive(Debug)]
struct GroupGuard(Cgroup);

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Err(error) = self.0.destroy(Duration::from_secs(5)) {
            tracing::warn!(%error, "left behind");
        }
    }
}

/// Removes what a killed testbed has left behind; returns what that was, for a person. Fails when it still runs.
pub fn remove_leftovers(name: &TestbedName) -> Result<Vec<String>> {
    host::require_root()?;
    let existed = name.run_dir().exists();
    let run_dir = RunDir::take(name, true)?;
    let mut found = sweep(&run_dir)?;
    if existed {
        found.push(format!("the directory {}", run_dir.path().display()));
    }
    Ok(found)
}

fn sweep(run_dir: &RunDir) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let cgroup = Cgroup::new(run_dir.name().cgroup());
    if cgroup.dirs().iter().any(|dir| dir.exists()) {
        cgroup.destroy(Duration::from_secs(10))?;
        found.push(format!("the cgroup {} and what ran in it", cgroup.oci_path()));
    }
    let namespaces = network::remove_leftovers(run_dir.name())?;
    if namespaces > 0 {
        found.push(format!("{namespaces} network namespaces"));
    }
    if let Some(size) = host::PipeSize::restore_after_crash(run_dir.path()) {
        found.push(format!("fs.pipe-max-size (back to {size})"));
    }
    for entry in fs::read_dir(run_dir.path()).into_iter().flatten().flatten().filter(|e| e.file_name() != "lock") {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|source| TestbedError::File { what: "remove", path, source })?;
    }
    Ok(found)
}

impl Testbed {
    /// Makes it and starts its workloads; `note` is told what is being done. Whatever fails, nothing stays behind.
    pub fn up(config: &TestbedConfig<'_>, stop: &Stop, note: &mut dyn FnMut(&str)) -> Result<Self> {
        let scenario = config.scenario;
        check(scenario)?;
        host::require_root()?;
        host::require_tun()?;
        host::require_programs()?;
        host::require_links(config.links)?;
        host::require_image(&config.image)?;
        let images = Images::open(&scenario.workloads, &config.image_cache, note)?;
        let mut containers = BTreeMap::new();
        for workload in &scenario.workloads {
            let container = Container::new(workload, &images, &config.image)?;
            containers.insert(workload.name.clone(), container);
        }
        let go_on = || if stop.is_asked() { Err(TestbedError::Interrupted) } else { Ok(()) };

        let run_dir = RunDir::take(&config.name, false)?;
        for left in sweep(&run_dir)? {
            note(&format!("removed what an earlier testbed of this name left behind: {left}"));
        }
        let journal = SqliteJournal::open(&run_dir.name().journal()).map_err(|e| TestbedError::File {
            what: "open",
            path: run_dir.path().to_owned(),
            source: io::Error::other(e),
        })?;
        let app = install_program(&config.program, run_dir.path())?;
        let pipes = host::PipeSize::raise(run_dir.path());
        let cgroup = GroupGuard(Cgroup::new(config.name.cgroup()));
        cgroup.0.create()?;
        cgroup.0.favour()?;

        note(&format!("namespaces and links of {} node(s) and {} user(s)", scenario.nodes.len(), scenario.users.len()));
        let nodes: Vec<NodeName> = scenario.nodes.iter().map(|n| n.name.clone()).collect();
        let users: Vec<UserName> = scenario.users.iter().map(|u| u.name.clone()).collect();
        let workloads: Vec<WorkloadName> = scenario.workloads.iter().map(|w| w.name.clone()).collect();
        let network = Network::create(&config.name, &nodes, &users, &workloads, config.links)?;
        go_on()?;

        let authority = Authority::new().map_err(TestbedError::Authority)?;
        let mut testbed = Self {
            containers,
            placement: Mutex::default(),
            journal: Mutex::new(journal),
            agents: BTreeMap::new(),
            authority,
            nodes: BTreeMap::new(),
            checkpoints: Registry::default(),
            image: config.image.clone(),
            images,
            network,
            _pipes: pipes,
            _cgroup: cgroup,
            run_dir,
        };
        for spec in &scenario.nodes {
            go_on()?;
            note(&format!("node {}: {} cores, {}", spec.name, spec.cpu, spec.memory));
            testbed.start_node(config, &spec.name, Size { cpu: spec.cpu, memory: spec.memory }, &app)?;
        }
        for workload in &scenario.workloads {
            go_on()?;
            note(&format!("workload {} on {}", workload.name, workload.node));
            testbed.start_workload(&workload.name, &workload.node, stop)?;
        }
        go_on()?;
        Ok(testbed)
    }

    fn start_node(&mut self, config: &TestbedConfig<'_>, name: &NodeName, size: Size, app: &Path) -> Result<()> {
        let node = Node::start(NodeConfig {
            name,
            size,
            netns: &self.network.node(name).netns,
            cgroup: self._cgroup.0.child(name.as_str()),
            program: &config.program,
            image: &config.image,
            app,
            images: self.images.roots(),
            scratch: self.run_dir.path().join("nodes").join(name.as_str()),
        })?;
        let criu = |source| match source {
            godwit_criu::Error::CriuTooOld { found, needed } => TestbedError::Lacks {
                what: format!(
                    "CRIU {needed} or newer in the node image at {} (it has {found})",
                    config.image.display()
                ),
                next: host::MAKE_IMAGE.into(),
            },
            source => TestbedError::Criu { node: name.clone(), source },
        };
        // Also warms CRIU's memory of what the kernel can do, which no migration has to wait for then.
        let can = godwit_criu::check(&node.env(), &Limit::seconds(20)).map_err(criu)?;
        if let [first, ..] = can.complaints.as_slice() {
            tracing::warn!(node = %name, "criu check: {first}");
        }
        for container in self.containers.values() {
            container.prepare(&node, &self.network)?;
        }
        let log = self.run_dir.path().join("nodes").join(format!("{name}.agent.log"));
        self.agents.insert(name.clone(), NodeAgent::start(&node, self.network.node(name), &self.authority, &log)?);
        self.nodes.insert(name.clone(), node);
        Ok(())
    }

    fn start_workload(&self, name: &WorkloadName, node: &NodeName, stop: &Stop) -> Result<()> {
        let container = &self.containers[name];
        container.fill_volumes(self.node(node))?;
        container.start(self.node(node))?;
        self.network.place(name, node)?;
        self.placement().insert(name.clone(), node.clone());
        self.wait_until_it_listens(container, node, stop)
    }

    fn wait_until_it_listens(&self, container: &Container, node: &NodeName, stop: &Stop) -> Result<()> {
        let address = self.service_address(&container.name);
        let deadline = Instant::now() + START_PATIENCE;
        // A kernel that cannot list sockets has no answer about datagrams, and TCP decides.
        let sockets = SockDiag::open(self.network.service_netns(node, &container.name)).ok();
        let takes_datagrams = || sockets.as_ref().is_some_and(|all| all.has_udp(address.port()).unwrap_or(false));
        loop {
            if takes_datagrams() {
                return Ok(());
            }
            let connected =
                self.network.gateway().enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))?;
            let Err(error) = connected else { return Ok(()) };
            container.must_run(self.node(node))?;
            if stop.is_asked() {
                return Err(TestbedError::Interrupted);
            }
            if Instant::now() >= deadline {
                return Err(TestbedError::Workload {
                    workload: container.name.clone(),
                    node: node.clone(),
                    why: format!(
                        "it runs, but neither accepts TCP connections nor takes datagrams at {address} within {} s ({error}); \
                         does it listen on 0.0.0.0 or [::], and port {}?",
                        START_PATIENCE.as_secs(),
                        address.port()
                    ),
                    source: None,
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Moves a workload, sending no more than `bandwidth`; blocks until it is over.
    pub(crate) fn migrate(
        &self,
        order: &Order,
        wanted: StrategyChoice,
        bandwidth: Option<Bandwidth>,
        cancel: &Cancel,
        observe: &mut dyn FnMut(Progress),
    ) -> (Chosen, Ended) {
        let container = &self.containers[&order.workload];
        let (from, to) = (self.network.node(&order.from), self.network.node(&order.to));
        let chosen = choose(wanted, self.node(&order.from), container, from, to);
        let strategy = chosen.strategy;
        let mut traffic = TrafficSide {
            network: &self.network,
            service: self.network.service(&order.workload),
            is_copy: false,
            from,
            to,
            towards_source: self.network.towards(&order.from),
            towards_target: self.network.towards(&order.to),
            released: None,
            sockets: SockDiag::open(self.network.service_netns(&order.from, &order.workload)),
            fenced: false,
            orphans: Vec::new(),
            unread: Vec::new(),
            sockets_there: SockDiag::open(self.network.service_netns(&order.to, &order.workload)).ok(),
            room: None,
        };
        let mut journal = JournalOf(&self.journal);
        let request = Request {
            id: order.id,
            workload: order.workload.clone(),
            from: order.from.clone(),
            to: order.to.clone(),
            strategy,
        };
        let (source, target) = match (self.call_agent(&order.from), self.call_agent(&order.to)) {
            (Ok(source), Ok(target)) => (source, target),
            (Err(error), _) | (_, Err(error)) => return (chosen, not_begun(&error)),
        };
        let (mut source, mut target) = sides(&request, container.memory, bandwidth, &source, &target);
        let mut parts = Parts {
            source: &mut source,
            target: &mut target,
            traffic: &mut traffic,
            journal: &mut journal,
            retries: Retries::default(),
        };
        let mut ended = migrate(&request, &mut parts, cancel, observe);
        // An agent does not answer, or the journal cannot be written: who asks again later may have better luck.
        while ended.open && !cancel.is_cancelled() {
            thread::sleep(RECOVER_EVERY);
            let Some(entry) = self.open_entry(order) else { break };
            let again = recover(&entry, &mut parts, observe);
            ended.freeze = ended.freeze.map(|(from, to)| (from, again.freeze.map_or(to, |(_, to)| to)));
            ended.total += RECOVER_EVERY + again.total;
            (ended.outcome, ended.open) = (again.outcome, again.open);
            ended.error = [ended.error, again.error].into_iter().flatten().reduce(|a, b| format!("{a}; recovery: {b}"));
        }
        match ended.outcome {
            Outcome::Done => drop(self.placement().insert(order.workload.clone(), order.to.clone())),
            // The engine can bring back what was there, not what had ended by itself.
            Outcome::RolledBack if !container.is_running(self.node(&order.from)) => {
                ended.outcome = Outcome::Lost;
                let why = ended.error.take().unwrap_or_default();
                ended.error = Some(format!("{why}; all its processes on {} have ended", order.from));
            }
            Outcome::RolledBack | Outcome::Lost => {}
        }
        (chosen, ended)
    }

    /// What the journal has open of a migration; none also where it cannot be read.
    fn open_entry(&self, order: &Order) -> Option<Entry> {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = journal.open_entries().inspect_err(|error| tracing::warn!(%error, "no recovery")).ok()?;
        entries.into_iter().find(|entry| entry.request.id == order.id)
    }

    fn call_agent(&self, node: &NodeName) -> std::result::Result<Arc<AgentClient>, AgentError> {
        let here = |source| AgentError::Here { node: node.clone(), source };
        self.agents[node].client().map(Arc::new).map_err(here)
    }

    /// Whether a node's agent runs; else it is about to be started again.
    pub(crate) fn agent_runs(&self, node: &NodeName) -> bool {
        self.agents.get(node).is_some_and(NodeAgent::runs)
    }

    /// The nodes whose agent had to be started again since this was asked last.
    pub(crate) fn agents_started_again(&self) -> impl Iterator<Item = &NodeName> {
        self.agents.iter().filter(|(_, agent)| agent.take_deaths() > 0).map(|(node, _)| node)
    }

    /// Where every workload runs.
    pub fn placement(&self) -> MutexGuard<'_, BTreeMap<WorkloadName, NodeName>> {
        self.placement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address and port of a workload, by IPv4.
    pub fn service_address(&self, workload: &WorkloadName) -> SocketAddr {
        SocketAddr::new(self.network.service(workload).ip(), self.containers[workload].port)
    }

    /// The same by IPv6, if the kernel has it.
    pub fn service_address_v6(&self, workload: &WorkloadName) -> Option<SocketAddr> {
        let ip = self.network.service(workload).ip_v6()?;
        Some(SocketAddr::new(ip, self.containers[workload].port))
    }

    /// The one that a user of this family speaks to.
    pub(crate) fn service_address_by(&self, family: Family, workload: &WorkloadName) -> SocketAddr {
        let v6 = self.service_address_v6(workload).filter(|_| family == Family::Ipv6);
        v6.unwrap_or_else(|| self.service_address(workload))
    }

    pub(crate) fn container(&self, workload: &WorkloadName) -> &Container {
        &self.containers[workload]
    }

    /// All workloads.
    pub(crate) fn containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.values()
    }

    pub(crate) fn node(&self, name: &NodeName) -> &Node {
        &self.nodes[name]
    }

    /// The nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Its copies, and what was ended with a checkpoint.
    pub(crate) fn checkpoints(&self) -> &Registry {
        &self.checkpoints
    }

    /// The node image's root file system.
    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Its name.
    pub fn name(&self) -> &TestbedName {
        self.run_dir.name()
    }
}

/// A migration for which this process has not even the means to call the agents.
fn not_begun(error: &AgentError) -> Ended {
    Ended {
        outcome: Outcome::RolledBack,
        phases: Vec::new(),
        rounds: Vec::new(),
        freeze: None,
        bytes: Bytes(0),
        wire_bytes: None,
        total: Duration::ZERO,
        open: false,
        error: Some(match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }),
    }
}

/// A journal that migrations of one testbed share.
struct JournalOf<'a>(&'a Mutex<SqliteJournal>);

impl godwit_migration::Journal for JournalOf<'_> {
    fn record(&mut self, entry: &godwit_migration::Entry) -> std::result::Result<(), godwit_migration::JournalError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).record(entry)
    }
}

/// What this world does not have.
fn check(scenario: &Scenario) -> Result<()> {
    if let Some(user) = scenario.users.iter().find(|user| user.family == Family::Ipv6 && !has_v6()) {
        let what = format!("user {} speaks IPv6, which this kernel does not have", user.name);
        return Err(TestbedError::Lacks { what, next: "give it family: ipv4, or load the module ipv6".into() });
    }
    if let Some(vm) = scenario.workloads.iter().find(|w| w.kind == WorkloadKind::Vm) {
        return Err(TestbedError::Unsupported(format!(
            "workload {} is a virtual machine, and the testbed has containers only so far; try --world sim",
            vm.name
        )));
    }
    for (kind, count) in
        [("nodes", scenario.nodes.len()), ("users", scenario.users.len()), ("workloads", scenario.workloads.len())]
    {
        if count > MAX_OF_A_KIND {
            return Err(TestbedError::Unsupported(format!(
                "{count} {kind} are more than the {MAX_OF_A_KIND} that a testbed has addresses for; try --world sim"
            )));
        }
    }
    if let Some(big) = scenario
        .workloads
        .iter()
        .find(|w| scenario.node(w.node.as_str()).is_some_and(|node| node.memory < w.memory + Bytes(16 << 20)))
    {
        return Err(TestbedError::Unsupported(format!(
            "workload {} holds {}, more than its node {} has",
            big.name, big.memory, big.node
        )));
    }
    Ok(())
}

/// Makes the layer of a container's root file system that has Godwit's program in it.
fn install_program(program: &Path, run_dir: &Path) -> Result<PathBuf> {
    let layer = run_dir.join("app");
    let target = layer.join(crate::container::PROGRAM.trim_start_matches('/'));
    let file = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TestbedError::File { what, path, source }
    };
    let dir = target.parent().unwrap_or(&layer);
    fs::create_dir_all(dir).map_err(file("make", dir))?;
    fs::copy(program, &target).map_err(file("copy", program))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).map_err(file("make executable", &target))?;
    Ok(layer)
}
