//! A workload as a runc container on a node.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_agent::{Layout, Root, container_id};
use godwit_criu::{Limit, NodeEnv, Runc, Spec, Status, Streams};
use godwit_model::{Bytes, NodeName, WorkloadName};
use godwit_scenario::Workload;

use crate::contents::Contents;
use crate::error::TestbedError;
use crate::images::Images;
use crate::network::Network;
use crate::node::Node;
use crate::node_init::STATE_DIR;

/// How long one runc call may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take to copy what an image has in the place of a volume.
const FILL_PATIENCE: Duration = Duration::from_secs(300);
/// Where Godwit's program is in a container.
pub(crate) const PROGRAM: &str = "/usr/local/bin/godwit";

/// What all nodes agree upon about a workload: mostly one container, of its name.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) name: WorkloadName,
    pub(crate) port: u16,
    pub(crate) memory: Bytes,
    /// Whether it is the counting service, or has it in it, which Godwit's clients can measure.
    pub(crate) is_counting: bool,
    /// Of several containers: the host name that they have.
    hostname: String,
    pub(crate) layout: Layout,
    parts: Vec<Part>,
}

/// What the containers of a checkpoint are made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct MadeOf {
    /// Those of all.
    pub(crate) volumes: Vec<PathBuf>,
    pub(crate) containers: Vec<MadeOfOne>,
}

/// The same of one container.
#[derive(Debug, Clone, Default)]
pub(crate) struct MadeOfOne {
    /// None: it is the only one.
    pub(crate) name: Option<String>,
    pub(crate) contents: Contents,
    /// Which of the volumes it has.
    pub(crate) volumes: Vec<usize>,
}

impl MadeOf {
    /// Whether the same images and volumes are in the same places.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let like = |(own, others): (&MadeOfOne, &MadeOfOne)| {
            let places = |one: &MadeOfOne| (one.name.clone(), one.contents.image.clone(), one.volumes.clone());
            places(own) == places(others)
        };
        self.volumes == other.volumes
            && self.containers.len() == other.containers.len()
            && self.containers.iter().zip(&other.containers).all(like)
    }
}

/// One container of it.
#[derive(Debug, Clone)]
struct Part {
    /// As runc knows it.
    id: String,
    /// In the bundle of the workload.
    dir: PathBuf,
    contents: Contents,
    /// Which of the layout's volumes it has.
    volumes: Vec<usize>,
}

impl Container {
    /// With the images that its containers begin with; none: the node image, whose root file system on the host is `node_image`.
    pub(crate) fn new(workload: &Workload, images: &Images, node_image: &Path) -> Result<Self, TestbedError> {
        let mut layout = Layout { volumes: workload.volumes.clone(), ..Layout::default() };
        let mut parts = Vec::new();
        for container in &workload.containers {
            let begin = images.of(container.image.as_deref());
            let contents = Contents::of(workload, container, begin, node_image)?;
            let lower = contents.lower.clone();
            let (id, dir) = match &container.name {
                None => (workload.name.to_string(), PathBuf::new()),
                Some(name) => (container_id(workload.name.as_str(), name), Layout::place_of(name)),
            };
            match &container.name {
                None => layout.lower = lower,
                Some(name) => layout.containers.push(Root { name: name.clone(), lower }),
            }
            let volumes = container.volumes.iter().map(|inside| {
                // What they have in common is the workload's.
                let common = workload.volumes.iter().position(|volume| volume == inside);
                common.unwrap_or_else(|| {
                    layout.volumes.push(inside.clone());
                    layout.volumes.len() - 1
                })
            });
            parts.push(Part { id, dir, contents, volumes: volumes.collect() });
        }
        Ok(Self {
            name: workload.name.clone(),
            port: workload.port,
            memory: workload.memory,
            is_counting: workload.containers.iter().any(godwit_scenario::Container::is_counting),
            hostname: workload.hostname.clone().unwrap_or_else(|| workload.name.to_string()),
            layout,
            parts,
        })
    }

    /// A restored checkpoint beside the testbed's workloads; its program is the checkpoint's.
    pub(crate) fn of_checkpoint(name: &WorkloadName, port: u16, memory: Bytes, made_of: MadeOf) -> Self {
        let mut layout = Layout { volumes: made_of.volumes, ..Layout::default() };
        let mut parts = Vec::new();
        for MadeOfOne { name: part, contents, volumes } in made_of.containers {
            let lower = contents.lower.clone();
            let (id, dir) = match part {
                None => {
                    layout.lower = lower;
                    (name.to_string(), PathBuf::new())
                }
                Some(part) => {
                    let own = (container_id(name.as_str(), &part), Layout::place_of(&part));
                    layout.containers.push(Root { name: part, lower });
                    own
                }
            };
            parts.push(Part { id, dir, contents, volumes });
        }
        let (name, hostname) = (name.clone(), name.to_string());
        Self { name, port, memory, is_counting: false, hostname, layout, parts }
    }

    /// What a checkpoint of it has to be made of, to be restored in its place.
    pub(crate) fn made_of(&self) -> MadeOf {
        let of = |part: &Part| {
            let name = part.dir.file_name().map(|name| name.to_string_lossy().into_owned());
            MadeOfOne { name, contents: part.contents.clone(), volumes: part.volumes.clone() }
        };
        MadeOf { volumes: self.layout.volumes.clone(), containers: self.parts.iter().map(of).collect() }
    }

    /// Of several containers each: its name, what it is made of, and which volumes it has.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, &Contents, &[usize])> {
        let names = self.layout.containers.iter().map(|root| root.name.as_str());
        names.zip(&self.parts).map(|(name, part)| (name, &part.contents, &part.volumes[..]))
    }

    /// The bundle of each container, in any node.
    pub(crate) fn bundles(&self) -> impl Iterator<Item = PathBuf> {
        self.parts.iter().map(|part| self.bundle().join(&part.dir))
    }

    /// The control group of each container.
    pub(crate) fn groups(&self, node: &Node) -> Vec<crate::cgroup::Cgroup> {
        self.parts.iter().map(|part| self.group_of(part, node)).collect()
    }

    /// What it is made of, unless it is of several containers.
    pub(crate) fn only(&self) -> Option<&Contents> {
        if self.is_several() { None } else { self.parts.first().map(|part| &part.contents) }
    }

    /// Whether its containers have names of their own.
    pub(crate) fn is_several(&self) -> bool {
        !self.layout.containers.is_empty()
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

    /// Makes bundle, root file systems and specifications on a node, so that it can be started or restored there.
    pub(crate) fn prepare(&self, node: &Node, network: &Network) -> Result<(), TestbedError> {
        let failed = |why: &str, source| self.failed(node.name(), why, Some(source));
        let bundle = self.bundle();
        let roots = self.parts.iter().flat_map(|part| ["rootfs", "upper", "work"].map(|name| part.dir.join(name)));
        for dir in roots.chain(self.layout.places()) {
            let path = node.host_path(bundle.join(dir));
            fs::create_dir_all(&path).map_err(|source| TestbedError::File { what: "make", path, source })?;
        }
        let path = node.host_path(&bundle);
        self.layout.write(&path).map_err(|source| TestbedError::File { what: "write into", path, source })?;
        self.mount_root(node).map_err(|e| failed("its root file system cannot be mounted", e))?;
        if self.is_several() {
            self.make_namespaces(node).map_err(|e| failed("its containers' common namespaces cannot be made", e))?;
        }
        for part in &self.parts {
            let spec = self.spec(part, node, network).write(&node.host_path(bundle.join(&part.dir)));
            spec.map_err(|e| failed("its specification cannot be written", e))?;
        }
        Ok(())
    }

    fn spec(&self, part: &Part, node: &Node, network: &Network) -> Spec {
        let bundle = self.bundle();
        let mut spec = Spec::new(part.contents.args.iter(), bundle.join(&part.dir).join("rootfs"))
            .netns(network.service_netns(node.name(), &self.name).path())
            .cgroups_path(self.group_of(part, node).oci_path());
        if self.is_several() {
            let [ipc, uts] = ["ipc", "uts"].map(|kind| self.namespaces().join(kind));
            spec = spec.ipc(ipc).uts(uts);
        }
        spec = part.contents.apply(spec);
        let places: Vec<PathBuf> = self.layout.places().collect();
        for volume in &part.volumes {
            let inside = self.layout.volumes[*volume].display().to_string();
            spec = spec.bind(bundle.join(&places[*volume]), &inside, &["rw"]);
        }
        spec
    }

    /// Where the namespaces are named that its containers have in common, beside the network's.
    pub(crate) fn namespaces(&self) -> PathBuf {
        self.bundle().join("namespaces")
    }

    /// Makes them: no process holds them, they are there as long as the node.
    pub(crate) fn make_namespaces(&self, node: &Node) -> Result<(), godwit_criu::Error> {
        let script = "set -e; mkdir -p \"$1\"; cd \"$1\"; touch ipc uts; umount -l ipc uts 2>/dev/null || true; exec unshare --ipc=ipc --uts=uts \
                      sh -c 'printf %s \"$1\" >/proc/sys/kernel/hostname' sh \"$2\"";
        let make = node.env().command("sh").args(["-c", script, "sh"]).arg(self.namespaces()).arg(&self.hostname);
        make.run(&Limit::within(PATIENCE)).map(drop)
    }

    /// Puts into its volumes what its image has in their places, as container engines do: that of the first container which has
    /// the volume.
    pub(crate) fn fill_volumes(&self, node: &Node) -> Result<(), TestbedError> {
        let bundle = node.host_path(self.bundle());
        for (number, (volume, inside)) in self.layout.places().zip(&self.layout.volumes).enumerate() {
            let Some(part) = self.parts.iter().find(|part| part.volumes.contains(&number)) else { continue };
            part.contents.fill(&bundle.join(volume), inside, &Limit::within(FILL_PATIENCE)).map_err(|e| {
                let why = format!("its volume {} cannot be filled", inside.display());
                self.failed(node.name(), &why, Some(e))
            })?;
        }
        Ok(())
    }

    /// Mounts its root file system on a node: the image, and above it what it writes.
    pub(crate) fn mount_root(&self, node: &Node) -> Result<(), godwit_criu::Error> {
        self.layout.mount(&node.env(), &self.bundle(), &Limit::within(PATIENCE))
    }

    /// Unmounts its root file system on a node where it does not run, if it is mounted, and forgets what it has written.
    pub(crate) fn clear_root(&self, node: &Node) -> Result<(), godwit_criu::Error> {
        let (bundle, limit) = (self.bundle(), Limit::within(PATIENCE));
        self.layout.clear(&node.env(), &bundle, &limit)?;
        // Files that name namespaces are mount points.
        let script = "cd \"$1\"; umount -l namespaces/* 2>/dev/null; rm -rf stand-ins";
        node.env().command("sh").args(["-c", script, "sh"]).arg(&bundle).run(&limit).map(drop)
    }

    pub(crate) fn cgroup(&self, node: &Node) -> crate::cgroup::Cgroup {
        node.cgroup().child(&format!("workload-{}", self.name))
    }

    fn group_of(&self, part: &Part, node: &Node) -> crate::cgroup::Cgroup {
        let own = self.cgroup(node);
        part.dir.file_name().map_or_else(|| own.clone(), |name| own.child(&name.to_string_lossy()))
    }

    /// Its processes on a node, as the host knows them.
    pub(crate) fn pids(&self, node: &Node) -> Vec<i32> {
        self.parts.iter().flat_map(|part| self.pids_of(part, node)).collect()
    }

    fn pids_of(&self, part: &Part, node: &Node) -> BTreeSet<i32> {
        let dirs = self.group_of(part, node).dirs();
        let texts = dirs.into_iter().map(|dir| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default());
        // In every hierarchy the same.
        texts.flat_map(|text| text.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
    }

    /// Whether any process of it is there.
    pub(crate) fn is_running(&self, node: &Node) -> bool {
        !self.pids(node).is_empty()
    }

    /// The containers of which no process is there, as runc knows them.
    pub(crate) fn ended(&self, node: &Node) -> Vec<&str> {
        let ended = self.parts.iter().filter(|part| self.pids_of(part, node).is_empty());
        ended.map(|part| part.id.as_str()).collect()
    }

    /// Starts it on a prepared node.
    pub(crate) fn start(&self, node: &Node) -> Result<(), TestbedError> {
        let limit = Limit::within(PATIENCE);
        for part in &self.parts {
            Runc::new(&node.env())
                .run(&part.id, &self.bundle().join(&part.dir), Streams::default(), &limit)
                .map_err(|e| self.failed(node.name(), &format!("runc refuses {}", part.id), Some(e)))?;
        }
        self.must_run(node)
    }

    /// An error that says why, unless all of it runs.
    pub(crate) fn must_run(&self, node: &Node) -> Result<(), TestbedError> {
        self.parts.iter().try_for_each(|part| self.part_must_run(part, node))
    }

    fn part_must_run(&self, part: &Part, node: &Node) -> Result<(), TestbedError> {
        let state = Runc::new(&node.env())
            .state(&part.id, &Limit::within(PATIENCE))
            .map_err(|e| self.failed(node.name(), "its state is not known", Some(e)))?;
        if state.status == Status::Running {
            return Ok(());
        }
        let it = if self.is_several() { format!("its container {}", part.id) } else { "it".into() };
        let why = match self.last_words(part, node) {
            Some(words) => format!("{it} ended at once, saying: {words}"),
            None => format!("{it} is {} right after its start and said nothing", state.status),
        };
        Err(self.failed(node.name(), &why, None))
    }

    /// What the program says when it is run once more with its output caught (a workload's own is not kept: CRIU could
    /// not carry the file).
    fn last_words(&self, part: &Part, node: &Node) -> Option<String> {
        let (env, limit) = (node.env(), Limit::within(PATIENCE));
        let (runc, again) = (Runc::new(&env), format!("{}-again", part.id));
        runc.delete(&part.id, true, &limit).ok()?;
        let run = env.command("runc").args(["run", "--bundle"]).arg(self.bundle().join(&part.dir)).arg(&again);
        let output = run.output(&Limit::seconds(5));
        if let Err(error) = runc.delete(&again, true, &limit) {
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
        let (runc, limit) = (Runc::new(env), Limit::within(PATIENCE));
        let delete = |part: &Part| runc.delete(&part.id, true, &limit);
        self.parts.iter().map(delete).fold(Ok(()), Result::and)
    }

    fn failed(&self, node: &NodeName, why: &str, source: Option<godwit_criu::Error>) -> TestbedError {
        TestbedError::Workload { workload: self.name.clone(), node: node.clone(), why: why.into(), source }
    }
}
