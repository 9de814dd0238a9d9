//! A workload as a runc container on a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_criu::{Limit, NodeEnv, Runc, Spec, Status, Streams};
use godwit_model::{Bytes, NodeName, WorkloadName};
use godwit_scenario::Workload;

use crate::error::TestbedError;
use crate::network::Network;
use crate::node::Node;
use crate::node_init::{APP_DIR, IMAGE_DIR, STATE_DIR};

/// How long one runc call may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where Godwit's program is in a container.
pub(crate) const PROGRAM: &str = "/usr/local/bin/godwit";

/// What all nodes agree upon about a workload.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) name: WorkloadName,
    pub(crate) port: u16,
    pub(crate) memory: Bytes,
    /// The program that a user gave; empty: the counting service.
    pub(crate) command: Vec<String>,
    dirty_rate: Bytes,
}

impl Container {
    pub(crate) fn new(workload: &Workload) -> Self {
        Self {
            name: workload.name.clone(),
            port: workload.port,
            memory: workload.memory,
            command: workload.command.clone(),
            dirty_rate: workload.dirty_rate,
        }
    }

    /// A restored checkpoint beside the testbed's workloads; its program is the checkpoint's.
    pub(crate) fn of_checkpoint(name: &WorkloadName, port: u16, memory: Bytes) -> Self {
        let command = vec!["(restored)".to_owned()];
        Self { name: name.clone(), port, memory, command, dirty_rate: Bytes(0) }
    }

    /// Whether it is the counting service, which Godwit's clients can measure.
    pub(crate) fn is_counting(&self) -> bool {
        self.command.is_empty()
    }

    /// Its bundle, in any node.
    pub(crate) fn bundle(&self) -> PathBuf {
        Path::new(STATE_DIR).join("bundles").join(self.name.as_str())
    }

    /// A directory for the images of one migration, in any node; a tmpfs.
    pub(crate) fn images(&self, migration: u64) -> PathBuf {
        Path::new(STATE_DIR).join("images").join(format!("{}-{migration}", self.name))
    }

    /// A directory for a checkpoint of it, in any node; a tmpfs.
    pub(crate) fn scratch(&self, kind: &str, number: usize) -> PathBuf {
        Self::scratch_of(&format!("{}-{kind}", self.name), number)
    }

    /// The same for what has no name yet.
    pub(crate) fn scratch_of(kind: &str, number: usize) -> PathBuf {
        Path::new(STATE_DIR).join("images").join(format!("{kind}-{number}"))
    }

    fn args(&self) -> Vec<String> {
        if !self.command.is_empty() {
            return self.command.clone();
        }
        let listen = format!("0.0.0.0:{}", self.port);
        let (memory, dirty) = (self.memory.0.to_string(), self.dirty_rate.0.to_string());
        ["service", "--listen", &listen, "--memory", &memory, "--dirty-rate", &dirty].iter().fold(
            vec![PROGRAM.to_owned()],
            |mut args, arg| {
                args.push((*arg).to_owned());
                args
            },
        )
    }

    /// Makes bundle, root file system and specification on a node, so that it can be started or restored there.
    pub(crate) fn prepare(&self, node: &Node, network: &Network) -> Result<(), TestbedError> {
        let failed = |why: &str, source| self.failed(node.name(), why, Some(source));
        let bundle = self.bundle();
        let rootfs = bundle.join("rootfs");
        for dir in ["rootfs", "upper", "work"] {
            let path = node.host_path(bundle.join(dir));
            fs::create_dir_all(&path).map_err(|source| TestbedError::File { what: "make", path, source })?;
        }
        self.mount_root(node).map_err(|e| failed("its root file system cannot be mounted", e))?;
        let spec = Spec::new(self.args(), rootfs)
            .netns(network.service_netns(node.name(), &self.name).path())
            .cgroups_path(self.cgroup(node).oci_path());
        spec.write(&node.host_path(&bundle)).map_err(|e| failed("its specification cannot be written", e))
    }

    /// Mounts its root file system on a node: the image, and above it what it writes.
    pub(crate) fn mount_root(&self, node: &Node) -> Result<(), godwit_criu::Error> {
        let bundle = self.bundle();
        let [rootfs, upper, work] = ["rootfs", "upper", "work"].map(|name| bundle.join(name));
        let layers = format!("lowerdir={APP_DIR}:{IMAGE_DIR},upperdir={},workdir={}", upper.display(), work.display());
        let mount = node.env().command("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(&rootfs);
        mount.run(&Limit::within(PATIENCE)).map(drop)
    }

    /// Unmounts its root file system on a node where it does not run, if it is mounted, and forgets what it has written.
    pub(crate) fn clear_root(&self, node: &Node) -> Result<(), godwit_criu::Error> {
        let (bundle, limit) = (self.bundle(), Limit::within(PATIENCE));
        let script = "! mountpoint -q rootfs || umount rootfs; rm -rf upper work stand-ins; mkdir -p rootfs upper work";
        let script = format!("set -e; mkdir -p {0}; cd {0}; {script}", bundle.display());
        node.env().command("sh").args(["-c", &script]).run(&limit).map(drop)
    }

    pub(crate) fn cgroup(&self, node: &Node) -> crate::cgroup::Cgroup {
        node.cgroup().child(&format!("workload-{}", self.name))
    }

    /// Whether any process of it is there.
    pub(crate) fn is_running(&self, node: &Node) -> bool {
        let groups = self.cgroup(node).dirs();
        let processes = |dir: &PathBuf| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        groups.iter().any(|dir| !processes(dir).is_empty())
    }

    /// Starts it on a prepared node.
    pub(crate) fn start(&self, node: &Node) -> Result<(), TestbedError> {
        let limit = Limit::within(PATIENCE);
        Runc::new(&node.env())
            .run(self.name.as_str(), &self.bundle(), Streams::default(), &limit)
            .map_err(|e| self.failed(node.name(), "runc refuses it", Some(e)))?;
        self.must_run(node)
    }

    /// An error that says why, unless it runs.
    pub(crate) fn must_run(&self, node: &Node) -> Result<(), TestbedError> {
        let state = Runc::new(&node.env())
            .state(self.name.as_str(), &Limit::within(PATIENCE))
            .map_err(|e| self.failed(node.name(), "its state is not known", Some(e)))?;
        if state.status == Status::Running {
            return Ok(());
        }
        let why = match self.last_words(node) {
            Some(words) => format!("it ended at once, saying: {words}"),
            None => format!("it is {} right after its start and said nothing", state.status),
        };
        Err(self.failed(node.name(), &why, None))
    }

    /// What the program says when it is run once more with its output caught (a workload's own is not kept: CRIU could
    /// not carry the file).
    fn last_words(&self, node: &Node) -> Option<String> {
        let env = node.env();
        self.delete(&env).ok()?;
        let output = env
            .command("runc")
            .args(["run", "--bundle"])
            .arg(self.bundle())
            .arg(format!("{}-again", self.name))
            .output(&Limit::seconds(5));
        let again = Runc::new(&env).delete(&format!("{}-again", self.name), true, &Limit::within(PATIENCE));
        if let Err(error) = again {
            tracing::warn!(%error, "left behind");
        }
        let output = output.ok()?;
        let all = format!("{}\n{}", output.stdout, output.stderr);
        let mut lines: Vec<&str> = all.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(3));
        (!lines.is_empty()).then(|| lines.join(" / "))
    }

    /// Removes it from a node, whatever its state.
    pub(crate) fn delete(&self, env: &NodeEnv) -> Result<(), godwit_criu::Error> {
        Runc::new(env).delete(self.name.as_str(), true, &Limit::within(PATIENCE))
    }

    fn failed(&self, node: &NodeName, why: &str, source: Option<godwit_criu::Error>) -> TestbedError {
        TestbedError::Workload { workload: self.name.clone(), node: node.clone(), why: why.into(), source }
    }
}
