//! What a testbed can leave behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::node;

static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A name for a testbed that nobody else has.
pub fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let name = format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
    name
}

/// All names that were given out.
pub fn names() -> Vec<String> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Everything that there is of a testbed.
pub fn of(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for netns in entries(Path::new("/run/netns")) {
        if file_name(&netns).starts_with(&format!("godwit.{name}.")) {
            found.push(format!("namespace {}", netns.display()));
        }
    }
    found.extend(Some(run_dir(name)).filter(|path| path.exists()).map(|path| path.display().to_string()));
    for hierarchy in entries(Path::new("/sys/fs/cgroup")).into_iter().chain(["/sys/fs/cgroup".into()]) {
        let group = hierarchy.join(format!("godwit-{name}"));
        if group.is_dir() {
            found.push(format!("cgroup {}", group.display()));
        }
    }
    for process in node::processes().into_iter().filter(|process| !process.args.is_empty()) {
        let is_ours = process.cgroups.contains(&format!("/godwit-{name}/"))
            || process.args.iter().any(|arg| arg == name || arg.contains(&format!("/run/godwit/{name}/")));
        if is_ours {
            found.push(format!("process {}: {}", process.pid, process.args.join(" ")));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for mount in mounts.lines() {
        if mount.contains(&format!("/run/godwit/{name}/")) || mount.contains(&format!("/godwit.{name}.")) {
            found.push(format!("mount {mount}"));
        }
    }
    found
}

/// Nothing of it may be left.
#[track_caller]
pub fn assert_nothing(name: &str) {
    let left = of(name);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

/// Where a running testbed has its files.
pub fn run_dir(name: &str) -> PathBuf {
    Path::new("/run/godwit").join(name)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
