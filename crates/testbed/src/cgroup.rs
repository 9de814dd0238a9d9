//! Control groups of either version: a node's processes counted, and ended.
//!
//! Version 1 (or hybrid) has a directory a controller, version 2 one for all. Processes stand in leaves only, which
//! version 2 demands and version 1 allows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use godwit_model::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ROOT: &str = "/sys/fs/cgroup";
const V2_CONTROLLERS: &str = "+cpu +memory +pids +cpuset";

/// A cgroup operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cgroup {path}: {what}")]
pub struct CgroupError {
    path: PathBuf,
    what: &'static str,
    #[source]
    source: io::Error,
}

/// How the host mounts its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// A hierarchy a controller (a version 2 mount for something else may stand beside it).
    V1,
    /// One hierarchy.
    V2,
}

impl Version {
    /// Of this host.
    pub(crate) fn detect() -> Self {
        if Path::new(ROOT).join("cgroup.controllers").exists() { Self::V2 } else { Self::V1 }
    }
}

/// Every mounted hierarchy of version 1, and a version 2 beside them: runc makes its groups in all. One with several
/// controllers has links by their names (`cpu` to `cpu,cpuacct`) and counts once.
fn hierarchies() -> Vec<PathBuf> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| path.join("cgroup.procs").exists();
    let mut found: Vec<PathBuf> = entries.filter_map(|e| e.path().canonicalize().ok()).filter(is_one).collect();
    found.sort();
    found.dedup();
    found
}

/// A group, by its path below the root, in every hierarchy that matters.
#[derive(Debug, Clone)]
pub struct Cgroup {
    version: Version,
    path: String,
}

impl Cgroup {
    /// A handle; nothing is made.
    pub fn new(path: impl Into<String>) -> Self {
        Self { version: Version::detect(), path: path.into() }
    }

    /// The path below the root, as an OCI `cgroupsPath` wants it: `/godwit-x/edge1`.
    pub fn oci_path(&self) -> String {
        format!("/{}", self.path)
    }

    /// A group below this one.
    pub fn child(&self, name: &str) -> Self {
        Self { version: self.version, path: format!("{}/{name}", self.path) }
    }

    /// The directories that a process joins (`cgroup.procs` is in each).
    pub fn dirs(&self) -> Vec<PathBuf> {
        match self.version {
            Version::V2 => vec![Path::new(ROOT).join(&self.path)],
            Version::V1 => hierarchies().into_iter().map(|hierarchy| hierarchy.join(&self.path)).collect(),
        }
    }

    fn controller_file(&self, controller: &str, file: &str) -> PathBuf {
        match self.version {
            Version::V2 => Path::new(ROOT).join(&self.path).join(file),
            Version::V1 => Path::new(ROOT).join(controller).join(&self.path).join(file),
        }
    }

    /// Makes the group and those above it; a group that exists is taken as it is.
    pub fn create(&self) -> Result<(), CgroupError> {
        let parts: Vec<&str> = self.path.split('/').collect();
        for depth in 1..=parts.len() {
            let group = Self { version: self.version, path: parts[..depth].join("/") };
            for dir in group.dirs() {
                make(&dir)?;
            }
        }
        Ok(())
    }

    /// cpu time that the group and all below it have used.
    pub fn cpu_time(&self) -> Result<Duration, CgroupError> {
        match self.version {
            Version::V1 => {
                let path = self.controller_file("cpuacct", "cpuacct.usage");
                parse(&path, read(&path)?.trim()).map(Duration::from_nanos)
            }
            Version::V2 => {
                let path = self.controller_file("cpu", "cpu.stat");
                field(&path, &read(&path)?, "usage_usec").map(Duration::from_micros)
            }
        }
    }

    /// Where its memory is accounted for.
    pub(crate) fn memory_stat(&self) -> PathBuf {
        self.controller_file("memory", "memory.stat")
    }

    /// Memory that the group and all below it hold and that cannot be had back by dropping caches: anonymous pages and
    /// those of tmpfs.
    pub fn memory(&self) -> Result<Bytes, CgroupError> {
        let path = self.memory_stat();
        let text = read(&path)?;
        let (anonymous, shared) = match self.version {
            Version::V1 => ("total_rss", "total_shmem"),
            Version::V2 => ("anon", "shmem"),
        };
        // Version 1 of older kernels has no total_shmem.
        Ok(Bytes(field(&path, &text, anonymous)? + field(&path, &text, shared).unwrap_or(0)))
    }

    /// Gives the group ten times the weight of an ordinary one, so that other work of the machine does not pass for load
    /// or distance.
    pub(crate) fn favour(&self) -> Result<(), CgroupError> {
        match self.version {
            Version::V1 => write(&self.controller_file("cpu", "cpu.shares"), "10240"),
            Version::V2 => write(&self.controller_file("cpu", "cpu.weight"), "1000"),
        }
    }

    /// Lets the group use at most this many cores (shared out every 10 ms, so that it is smooth).
    pub fn limit_cpu(&self, cores: f64) -> Result<(), CgroupError> {
        const PERIOD_US: f64 = 10_000.0;
        let quota = ((cores * PERIOD_US).round() as u64).max(1_000);
        match self.version {
            Version::V1 => {
                write(&self.controller_file("cpu", "cpu.cfs_period_us"), &format!("{PERIOD_US}"))?;
                write(&self.controller_file("cpu", "cpu.cfs_quota_us"), &quota.to_string())
            }
            Version::V2 => write(&self.controller_file("cpu", "cpu.max"), &format!("{quota} {PERIOD_US}")),
        }
    }

    /// Every group at and below this one, deepest first, hierarchy by hierarchy.
    fn tree(&self) -> Vec<PathBuf> {
        fn below(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    below(&entry.path(), found);
                }
            }
            found.push(dir.to_owned());
        }
        let mut found = Vec::new();
        for dir in self.dirs().into_iter().filter(|dir| dir.is_dir()) {
            below(&dir, &mut found);
        }
        found
    }

    /// Ends every process in it (a frozen one too), waits until they are gone and removes the group. For clean-up: does
    /// what it can for up to `patience`, then says what is left.
    pub fn destroy(&self, patience: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + patience;
        loop {
            let tree = self.tree();
            let mut left = None;
            for dir in &tree {
                let _ = fs::write(dir.join("freezer.state"), "THAWED");
                if self.version == Version::V2 {
                    let _ = fs::write(dir.join("cgroup.freeze"), "0");
                }
                for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
                    if let Ok(pid) = pid.parse() {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
            }
            for dir in tree {
                match fs::remove_dir(&dir) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => {
                        left =
                            Some(CgroupError { path: dir, what: "not empty after its processes were killed", source })
                    }
                }
            }
            match left {
                None => return Ok(()),
                Some(error) if Instant::now() >= deadline => return Err(error),
                Some(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// Makes one directory; gives version 1's cpuset what its parent has, and version 2's children their controllers.
fn make(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(CgroupError { path: dir.to_owned(), what: "cannot be made", source }),
    }
    let parent = dir.parent().expect("below the root");
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        if fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty())
            && let Ok(inherited) = fs::read_to_string(parent.join(file))
            && !inherited.trim().is_empty()
        {
            write(&own, inherited.trim())?;
        }
    }
    let subtree = parent.join("cgroup.subtree_control");
    if subtree.exists() && Version::detect() == Version::V2 {
        write(&subtree, V2_CONTROLLERS)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError { path: path.to_owned(), what: "cannot be read", source })
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text).map_err(|source| CgroupError { path: path.to_owned(), what: "cannot be written", source })
}

fn parse(path: &Path, text: &str) -> Result<u64, CgroupError> {
    text.parse().map_err(|e| CgroupError {
        path: path.to_owned(),
        what: "is no number",
        source: io::Error::new(io::ErrorKind::InvalidData, e),
    })
}

/// The value of `name` in lines of "name value".
fn field(path: &Path, text: &str, name: &str) -> Result<u64, CgroupError> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    parse(path, value.unwrap_or("").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_of_both_versions_are_read() {
        let path = Path::new("memory.stat");
        let v1 = "cache 1\nrss 2\ntotal_cache 9\ntotal_rss 4096\ntotal_shmem 8192\n";
        assert_eq!(field(path, v1, "total_rss").unwrap(), 4096);
        let v2 = "anon 12288\nfile 5\nanon_thp 7\nshmem 1\n";
        assert_eq!(field(path, v2, "anon").unwrap(), 12288);
        assert!(field(path, v2, "anonymous").is_err());
    }
}
