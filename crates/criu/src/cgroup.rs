//! The control groups of a container, and the freezer: the switch that stops a whole container at once.
//!
//! Frozen tasks stay so whatever becomes of CRIU, which makes the frozen cgroup the safe place in which the source
//! of a migration waits for the decision.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use crate::error::{Context, Error, Result};
use crate::limit::Limit;
use crate::node::NodeEnv;
use crate::runc::Runc;
use crate::sys;

/// Between two looks at a v1 freezer, which announces nothing.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

/// The cgroups of one container, as runc names them: controller to directory (v1), or "" to the one directory (v2).
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    /// As seen by the host.
    dirs: BTreeMap<String, PathBuf>,
    /// As seen by the node.
    inside: BTreeMap<String, PathBuf>,
}

impl Cgroups {
    pub(crate) fn new(env: &NodeEnv, inside: &BTreeMap<String, PathBuf>) -> Self {
        let dirs = inside.iter().map(|(k, v)| (k.clone(), env.host_path(v))).collect();
        Self { dirs, inside: inside.clone() }
    }

    /// Every directory, as the host sees it, once each (controllers may share one).
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = self.dirs.values().cloned().collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }

    fn freezer_key(&self) -> Option<&'static str> {
        ["freezer", ""].into_iter().find(|key| self.dirs.contains_key(*key))
    }

    /// The freezer's directory as the node sees it.
    pub(crate) fn freezer_inside(&self) -> Result<&Path> {
        self.freezer_key().map(|key| self.inside[key].as_path()).ok_or_else(no_freezer)
    }

    pub(crate) fn freezer(&self) -> Result<Freezer> {
        Freezer::open(&self.dirs[self.freezer_key().ok_or_else(no_freezer)?])
    }
}

fn no_freezer() -> Error {
    Error::Command { program: "freezer".into(), message: "the container has no freezer cgroup".into() }
}

/// The freezer of one cgroup.
#[derive(Debug)]
pub struct Freezer {
    dir: PathBuf,
    v2: bool,
}

impl Freezer {
    /// The freezer in `dir`, a cgroup directory of the freezer hierarchy (v1) or of the unified one (v2).
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let v2 = if dir.join("freezer.state").exists() {
            false
        } else if dir.join("cgroup.freeze").exists() {
            true
        } else {
            return Err(Error::BadFile { path: dir, message: "not a cgroup directory with a freezer".into() });
        };
        Ok(Self { dir, v2 })
    }

    /// That of the control group above the one of a container, which is to hold nothing but containers of one workload: it stops
    /// and starts them all at the same instant.
    pub fn above(env: &NodeEnv, id: &str) -> Result<Self> {
        let own = Cgroups::new(env, &Runc::new(env).state_file(id)?.cgroup_paths()).freezer()?;
        Self::open(own.dir.parent().unwrap_or(&own.dir))
    }

    /// Asks for the freeze and does not wait.
    pub fn ask(&self) -> Result<()> {
        if self.v2 { self.write("cgroup.freeze", "1") } else { self.write("freezer.state", "FROZEN") }
    }

    /// Freezes, and returns how long it took until every task stood.
    pub fn freeze(&self, limit: &Limit) -> Result<Duration> {
        let start = Instant::now();
        self.ask()?;
        self.wait_frozen(limit)?;
        Ok(start.elapsed())
    }

    /// Waits until every task stands.
    pub fn wait_frozen(&self, limit: &Limit) -> Result<()> {
        let what = "the freeze of the container";
        if self.v2 {
            let events = File::open(self.dir.join("cgroup.events")).context(|| "open cgroup.events".into())?;
            while !self.frozen()? {
                limit.wait_any(&[events.as_fd()], PollFlags::POLLPRI, what)?;
            }
            return Ok(());
        }
        let mut looks = 0u32;
        while !self.frozen()? {
            limit.pause(LOOK_AGAIN, what)?;
            looks += 1;
            // A v1 freezer may stay FREEZING for ever over a task that forked meanwhile; asking again helps.
            if looks.is_multiple_of(50) {
                self.ask()?;
            }
        }
        Ok(())
    }

    /// Whether every task stands.
    pub fn frozen(&self) -> Result<bool> {
        if self.v2 {
            return Ok(self.read("cgroup.events")?.lines().any(|l| l == "frozen 1"));
        }
        Ok(self.read("freezer.state")?.trim() == "FROZEN")
    }

    /// Lets the tasks run again.
    pub fn thaw(&self) -> Result<()> {
        if self.v2 { self.write("cgroup.freeze", "0") } else { self.write("freezer.state", "THAWED") }
    }

    /// The processes in it and below it, by the pids that this process sees.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect_pids(&self.dir, &mut pids)?;
        Ok(pids)
    }

    /// Kills every process in it, without one of them running another instruction if it is frozen, thaws, and
    /// waits until they are gone.
    pub fn kill_all(&self, limit: &Limit) -> Result<()> {
        let killed: Vec<OwnedFd> = self.pids()?.into_iter().filter_map(|pid| sys::pidfd_open(pid).ok()).collect();
        for pidfd in &killed {
            // Gone already is as good.
            let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        self.thaw()?;
        for pidfd in &killed {
            limit.wait_readable(pidfd, "the end of the container's processes")?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        fs::read_to_string(&path).context(|| format!("read {}", path.display()))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).context(|| format!("write {text} to {}", path.display()))
    }
}

fn collect_pids(dir: &Path, pids: &mut Vec<i32>) -> Result<()> {
    let procs = dir.join("cgroup.procs");
    let text = fs::read_to_string(&procs).context(|| format!("read {}", procs.display()))?;
    // 0 is a process that this pid namespace does not see.
    pids.extend(text.lines().filter_map(|l| l.trim().parse::<i32>().ok()).filter(|pid| *pid > 0));
    for entry in fs::read_dir(dir).context(|| format!("list {}", dir.display()))?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_pids(&entry.path(), pids)?;
        }
    }
    Ok(())
}
