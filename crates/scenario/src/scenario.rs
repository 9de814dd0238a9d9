//! A checked scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_model::{Bandwidth, Bytes, Family, NodeName, Protocol, Rtt, Time, UserName, WorkloadKind, WorkloadName};

use crate::problem::{Problem, ScenarioError};
use crate::read;
use crate::trajectory::Trajectory;
use crate::tree::Tree;

/// What happens in a run. Made by [`Scenario::parse`] only, so that every name in it is declared and every quantity is
/// in its range.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Scenario {
    /// Its name, used in output folders and titles: the form of a [`NodeName`].
    pub name: String,
    /// What it shows, for a person; may be empty.
    pub description: String,
    /// How long it goes, in scenario time. Default: the end of the last ramp or stress. More than zero.
    pub duration: Duration,
    /// Seeds everything random. Default 1.
    pub seed: u64,
    /// Scenario seconds a second of the wall clock in a real world. Default 1, in 0.01..=1000.
    pub speed: f64,
    /// Above this RTT a user counts as badly served. Default 26 ms.
    pub rtt_bound: Rtt,
    /// The edge nodes, in the order of the file; at least one.
    pub nodes: Vec<Node>,
    /// The users.
    pub users: Vec<User>,
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// What loads the nodes, in the order of the file.
    pub stress: Vec<Stress>,
    /// Which policy decides. Default `threshold`.
    pub policy: PolicySpec,
    /// The control loop.
    pub control: Control,
    /// The RTT probes.
    pub probe: Probe,
    /// How workloads migrate.
    pub migration: Migration,
}

/// An edge node.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its declared cores; a load of 1 on the cpu is all of them in use. Default 1.
    pub cpu: f64,
    /// Its declared memory. Default 1GiB.
    pub memory: Bytes,
}

/// A user.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct User {
    /// Its name.
    pub name: UserName,
    /// The RTT to every node over time.
    pub rtt: BTreeMap<NodeName, Trajectory>,
    /// What its clients speak. Default TCP.
    pub protocol: Protocol,
    /// By which addresses. Default IPv4.
    pub family: Family,
}

/// A workload.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Workload {
    /// Its name.
    pub name: WorkloadName,
    /// What it is. Default a container.
    pub kind: WorkloadKind,
    /// The node where it starts.
    pub node: NodeName,
    /// Whom it serves.
    pub users: Vec<UserName>,
    /// The TCP port at its service address. Default 5555.
    pub port: u16,
    /// Memory that it holds. Default 16MiB.
    pub memory: Bytes,
    /// How much of that it writes anew in a second. Default 0.
    pub dirty_rate: Bytes,
    /// Its host name; none: the node's, or the workload's if it is of several containers.
    pub hostname: Option<String>,
    /// Directories that several containers have in common, as plain absolute paths: each that names one among its own volumes
    /// has it.
    pub volumes: Vec<PathBuf>,
    /// What it is made of: one container without a name, or several with names of their own.
    pub containers: Vec<Container>,
}

/// A container of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Container {
    /// Its name, the form of a [`NodeName`], no other container's of the workload; none: it is the whole workload.
    pub name: Option<String>,
    /// What runs in it; empty: what its image says, or without an image the built-in counting service.
    pub command: Vec<String>,
    /// Arguments after the command, or in the place of the image's own.
    pub args: Vec<String>,
    /// Its root file system: a directory, tar, OCI layout or OCI archive. Relative paths of the file are joined to the
    /// file's directory. None: the node image's.
    pub image: Option<PathBuf>,
    /// Environment variables, beside or in the place of the image's.
    pub env: BTreeMap<String, String>,
    /// Whose rights it has (`name`, `uid`, `name:group` …); none: what its image says, else root's.
    pub user: Option<String>,
    /// Where it is started, an absolute path in the container; none: what its image says, else `/`.
    pub workdir: Option<PathBuf>,
    /// Directories of the container, as plain absolute paths, that are kept apart from its root file system and move with
    /// it. None is within another.
    pub volumes: Vec<PathBuf>,
}

impl Workload {
    /// Whether it is of several containers, or of one with a name of its own, which is the same.
    pub fn is_several(&self) -> bool {
        self.containers.iter().any(|container| container.name.is_some())
    }
}

impl Container {
    /// Whether it is the built-in counting service.
    pub fn is_counting(&self) -> bool {
        self.command.is_empty() && self.image.is_none()
    }
}

/// A phase of load on a node, active in `from..until()`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Stress {
    /// On which node.
    pub node: NodeName,
    /// From when.
    pub from: Time,
    /// For how long.
    pub length: Duration,
    /// How many processes.
    pub stressers: u32,
    /// Memory of all its processes together, as a fraction of the node's memory. Default 0.
    pub memory: f64,
    /// Cpu of *each* process, as a fraction of the node's cores. Default 0.27.
    pub cpu: f64,
}

impl Stress {
    /// When it ends (it is active up to here, not at it).
    pub fn until(&self) -> Time {
        self.from + self.length
    }

    /// Whether it is active at an instant.
    pub fn is_active(&self, at: Time) -> bool {
        self.from <= at && at < self.until()
    }

    /// Cpu of all its processes together, as a fraction of the node's cores.
    pub fn total_cpu(&self) -> f64 {
        self.cpu * f64::from(self.stressers)
    }
}

/// Which policy decides, and with what parameters; these are checked by the policy.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PolicySpec {
    /// Its name.
    pub name: String,
    /// Everything else that stood in `policy`: a JSON object, empty if nothing did.
    pub params: serde_json::Value,
}

/// The control loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Control {
    /// From decision to decision, in scenario time. Default 1 s.
    pub interval: Duration,
    /// After a migration a workload is left alone for so long, in scenario time. Default 35 s.
    pub cooldown: Duration,
}

impl Default for Control {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), cooldown: Duration::from_secs(35) }
    }
}

/// How workloads migrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Migration {
    /// The most that a migration sends, on a testbed. Default: what the link carries.
    pub bandwidth: Option<Bandwidth>,
}

/// The RTT probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// From probe to probe of one node and user, in the wall clock's time. Default 200 ms.
    pub interval: Duration,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval: Duration::from_millis(200) }
    }
}

impl Scenario {
    /// The form that this version reads.
    pub const VERSION: u64 = 1;

    /// Reads and checks a scenario. `file` is what the error calls the text; paths in the text are relative to its directory.
    pub fn parse(text: &str, file: &str) -> Result<Self, ScenarioError> {
        let tree = Tree::parse(text).map_err(|problem| ScenarioError::new(file, text, vec![problem]))?;
        let dir = Path::new(file).parent().unwrap_or(Path::new(""));
        read::scenario(&tree, dir).map_err(|problems| ScenarioError::new(file, text, problems))
    }

    /// An error at a place that was found wrong later than here, for example by the policy that checks its parameters:
    /// `path` leads from the top to it (`["policy", "bands"]`). Shown at the longest part of `path` that is there.
    pub fn error_at(text: &str, file: &str, path: &[&str], what: &str, what_to_do: Option<&str>) -> ScenarioError {
        let mut at = crate::problem::Place::default();
        if let Ok(tree) = Tree::parse(text) {
            let mut here = &tree;
            for step in path {
                let Some((key, next)) = here.get(step) else { break };
                (at, here) = (key.at, next);
            }
        }
        let problem = Problem::new(at, what);
        let problem = match what_to_do {
            Some(help) => problem.help(help),
            None => problem,
        };
        ScenarioError::new(file, text, vec![problem])
    }

    /// When it ends.
    pub fn end(&self) -> Time {
        Time::ZERO + self.duration
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name.as_str() == name)
    }

    /// A user by its name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name.as_str() == name)
    }

    /// A workload by its name.
    pub fn workload(&self, name: &str) -> Option<&Workload> {
        self.workloads.iter().find(|workload| workload.name.as_str() == name)
    }

    /// What stresses a node at an instant.
    pub fn stress_at<'a>(&'a self, node: &'a NodeName, at: Time) -> impl Iterator<Item = &'a Stress> {
        self.stress.iter().filter(move |stress| &stress.node == node && stress.is_active(at))
    }

    /// What stresses a node at an instant, summed up: the fractions of its cores and of its memory, each in 0..=1.
    pub fn stress_use(&self, node: &NodeName, at: Time) -> (f64, f64) {
        let sum = self.stress_at(node, at).fold((0.0, 0.0), |(cpu, mem), s| (cpu + s.total_cpu(), mem + s.memory));
        (sum.0.clamp(0.0, 1.0), sum.1.clamp(0.0, 1.0))
    }

    /// Every instant within the run at which some stress begins or ends, in order.
    pub fn stress_changes(&self) -> impl Iterator<Item = Time> + use<> {
        let ends: BTreeSet<_> = self.stress.iter().flat_map(|stress| [stress.from, stress.until()]).collect();
        let end = self.end();
        ends.into_iter().filter(move |at| *at <= end)
    }
}
