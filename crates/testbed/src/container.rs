//! A workload as a runc container on a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_criu::{Limit, NodeEnv, Runc, Spec, Status, Streams};
use godwit_model::{Bytes, NodeName, WorkloadName};
use godwit_scenario::Workload;

use crate::contents::Contents;
use crate::error::TestbedError;
use crate::images::Begin;
use crate::network::Network;
use crate::node::Node;
use crate::node_init::STATE_DIR;

/// How long one runc call may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take to copy what an image has in the place of a volume.
const FILL_PATIENCE: Duration = Duration::from_secs(300);
/// Where Godwit's program is in a container.
pub(crate) const PROGRAM: &str = "/usr/local/bin/godwit";

/// What all nodes agree upon about a workload.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) name: WorkloadName,
    pub(crate) port: u16,
    pub(crate) memory: Bytes,
    /// Whether it is the counting service, which Godwit's clients can measure.
    pub(crate) is_counting: bool,
    pub(crate) contents: Contents,
}

impl Container {
    /// With the image that it begins with; none: the node image, whose root file system on the host is `node_image`.
    pub(crate) fn new(workload: &Workload, begin: Option<&Begin>, node_image: &Path) -> Result<Self, TestbedError> {
        Ok(Self {
            name: workload.name.clone(),
            port: workload.port,
            memory: workload.memory,
            is_counting: workload.command.is_empty() && begin.is_none(),
            contents: Contents::of(workload, begin, node_image)?,
        })
    }

    /// A restored checkpoint beside the testbed's workloads; its program is the checkpoint's.
    pub(crate) fn of_checkpoint(name: &WorkloadName, port: u16, memory: Bytes, contents: Contents) -> Self {
        Self { name: name.clone(), port, memory, is_counting: false, contents }
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

    /// Makes bundle, root file system and specification on a node, so that it can be started or restored there.
    pub(crate) fn prepare(&self, node: &Node, network: &Network) -> Result<(), TestbedError> {
        let failed = |why: &str, source| self.failed(node.name(), why, Some(source));
        let bundle = self.bundle();
        let layout = &self.contents.layout;
        for dir in ["rootfs", "upper", "work"].map(PathBuf::from).into_iter().chain(layout.places()) {
            let path = node.host_path(bundle.join(dir));
            fs::create_dir_all(&path).map_err(|source| TestbedError::File { what: "make", path, source })?;
        }
        let path = node.host_path(&bundle);
        layout.write(&path).map_err(|source| TestbedError::File { what: "write into", path, source })?;
        self.mount_root(node).map_err(|e| failed("its root file system cannot be mounted", e))?;
        let mut spec = Spec::new(self.contents.args.iter(), bundle.join("rootfs"))
            .netns(network.service_netns(node.name(), &self.name).path())
            .cgroups_path(self.cgroup(node).oci_path());
        spec = self.contents.apply(spec);
        for (volume, inside) in layout.places().zip(&layout.volumes) {
            spec = spec.bind(bundle.join(volume), &inside.display().to_string(), &["rw"]);
        }
        spec.write(&node.host_path(&bundle)).map_err(|e| failed("its specification cannot be written", e))
    }

    /// Puts into its volumes what its image has in their places, as container engines do.
    pub(crate) fn fill_volumes(&self, node: &Node) -> Result<(), TestbedError> {
        let (layout, bundle) = (&self.contents.layout, node.host_path(self.bundle()));
        for (volume, inside) in layout.places().zip(&layout.volumes) {
            self.contents.fill(&bundle.join(volume), inside, &Limit::within(FILL_PATIENCE)).map_err(|e| {
                let why = format!("its volume {} cannot be filled", inside.display());
                self.failed(node.name(), &why, Some(e))
            })?;
        }
        Ok(())
    }

    /// Mounts its root file system on a node: the image, and above it what it writes.
    pub(crate) fn mount_root(&self, node: &Node) -> Result<(), godwit_criu::Error> {
        self.contents.layout.mount(&node.env(), &self.bundle(), &Limit::within(PATIENCE))
    }

    /// Unmounts its root file system on a node where it does not run, if it is mounted, and forgets what it has written.
    pub(crate) fn clear_root(&self, node: &Node) -> Result<(), godwit_criu::Error> {
        let (bundle, limit) = (self.bundle(), Limit::within(PATIENCE));
        self.contents.layout.clear(&node.env(), &bundle, &limit)?;
        node.env().command("rm").arg("-rf").arg(bundle.join("stand-ins")).run(&limit).map(drop)
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
