//! An edge node: namespaces of its own over the node image, a cgroup, and what it says about its load.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use godwit_criu::NodeEnv;
use godwit_model::{Bytes, Load, NodeName};
use godwit_net::Netns;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::cgroup::{Cgroup, CgroupError};
use crate::node_init::{self, NodeInit};

/// How big a node says it is; its load is measured against this.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Cores.
    pub cpu: f64,
    /// Memory.
    pub memory: Bytes,
}

/// A node could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its cgroup failed.
    #[error("node {node}")]
    Cgroup {
        /// Which.
        node: NodeName,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// Its first process failed.
    #[error("node {node}: {what}")]
    Init {
        /// Which.
        node: NodeName,
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// What a node is made of.
#[derive(Debug)]
pub struct NodeConfig<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// Its declared size.
    pub size: Size,
    /// Its network namespace.
    pub netns: &'a Netns,
    /// Its cgroup, to be made.
    pub cgroup: Cgroup,
    /// Godwit's program.
    pub program: &'a Path,
    /// The node image's root file system.
    pub image: &'a Path,
    /// The layer with Godwit's program for containers.
    pub app: &'a Path,
    /// Root file systems of workloads' images.
    pub images: &'a [PathBuf],
    /// An empty directory.
    pub scratch: PathBuf,
}

/// A running node. It ends when this is dropped, and when this process dies.
#[derive(Debug)]
pub struct Node {
    name: NodeName,
    size: Size,
    cgroup: Cgroup,
    init: Child,
    pid: i32,
    meter: Mutex<Meter>,
}

/// How much of a new figure goes into the smoothed one. With a figure a second a step is 90 % there after 6 s, and a
/// migration's own second of work does not look like an overload.
const SMOOTHING: f64 = 0.3;

#[derive(Debug)]
struct Meter {
    at: Instant,
    cpu_time: Duration,
    /// Smoothed fractions of the declared cores and memory.
    used: Option<(f64, f64)>,
}

impl Node {
    /// Starts it; returns when its file system stands.
    pub fn start(config: NodeConfig<'_>) -> Result<Self, NodeError> {
        let cgroup_failed = |source| NodeError::Cgroup { node: config.name.clone(), source };
        let failed = |what: &str, source| NodeError::Init { node: config.name.clone(), what: what.into(), source };
        let system = config.cgroup.child("system");
        system.create().map_err(cgroup_failed)?;
        fs::create_dir_all(&config.scratch).map_err(|e| failed("make its scratch directory", e))?;
        let told = serde_json::to_string(&NodeInit {
            hostname: config.name.to_string(),
            image: config.image.to_owned(),
            app: config.app.to_owned(),
            images: config.images.to_owned(),
            scratch: config.scratch.clone(),
        })
        .expect("plain strings");

        // The shell joins the cgroups (it becomes the process that it starts), nsenter the network, unshare the rest.
        let join = "n=$1; shift; while [ $n -gt 0 ]; do echo $$ > \"$1/cgroup.procs\" || exit 1; shift; n=$((n-1)); done; exec \"$@\"";
        let dirs = system.dirs();
        let mut init = Command::new("sh")
            .args(["-c", join, "sh", &dirs.len().to_string()])
            .args(&dirs)
            .arg("nsenter")
            .arg(format!("--net={}", config.netns.path().display()))
            .args([
                "unshare",
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child=KILL",
                "--propagation=slave",
            ])
            .arg(config.program)
            .args(["node-init", &told])
            // Not in the terminal's process group: ^C is for the testbed, which ends its nodes in order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed("start its first process (are util-linux's nsenter and unshare installed?)", e))?;
        let mut out = init.stdout.take().expect("piped");
        let Some(pid) = node_init::read_ready(&mut out) else {
            drop(init.stdin.take());
            let output = init.wait_with_output().map_err(|e| failed("wait for its first process", e))?;
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(failed("set up its file system", io::Error::other(said)));
        };
        let cpu_time = config.cgroup.cpu_time().map_err(cgroup_failed)?;
        let meter = Mutex::new(Meter { at: Instant::now(), cpu_time, used: None });
        let (name, size) = (config.name.clone(), config.size);
        Ok(Self { name, size, cgroup: config.cgroup, init, pid, meter })
    }

    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// The pid of its first process as the host sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The group of all its processes.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Its declared size.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Where commands of this node run: its namespaces, and the group of its own processes.
    pub fn env(&self) -> NodeEnv {
        NodeEnv::node(self.pid).in_cgroups(self.cgroup.child("system").dirs())
    }

    /// A path of the node as the host can open it.
    pub fn host_path(&self, path: impl AsRef<Path>) -> PathBuf {
        let inside = path.as_ref().strip_prefix("/").unwrap_or(path.as_ref());
        Path::new("/proc").join(self.pid.to_string()).join("root").join(inside)
    }

    /// Whether its first process still runs, and with it any other.
    pub fn is_alive(&self) -> bool {
        kill(Pid::from_raw(self.pid), None).is_ok()
    }

    /// Its load, smoothed over some seconds: cpu time and memory of its cgroup against its declared size.
    pub fn measure_load(&self) -> Result<Load, CgroupError> {
        let (at, cpu_time, memory) = (Instant::now(), self.cgroup.cpu_time()?, self.cgroup.memory()?);
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = (at - meter.at).as_secs_f64().max(1e-3);
        let cpu = cpu_time.saturating_sub(meter.cpu_time).as_secs_f64() / seconds / self.size.cpu;
        let memory = memory.0 as f64 / self.size.memory.0 as f64;
        let smooth = |old: f64, new: f64| old + SMOOTHING * (new.min(1.0) - old);
        let (cpu, memory) = match meter.used {
            Some((old_cpu, old_memory)) => (smooth(old_cpu, cpu), smooth(old_memory, memory)),
            None => (cpu, memory),
        };
        *meter = Meter { at, cpu_time, used: Some((cpu, memory)) };
        Ok(Load::from_use(cpu, memory))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.init.stdin.take());
        if let Err(error) = self.cgroup.destroy(Duration::from_secs(5)) {
            tracing::warn!(node = %self.name, %error, "left behind");
        }
        let _ = self.init.wait();
    }
}
