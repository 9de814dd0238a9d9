//! The freezer of either cgroup version stops and kills processes.

use std::fs;
use std::path::{Path, PathBuf};

use godwit_criu::{Freezer, Limit, NodeEnv};

/// The freezer hierarchies of this host: v1, v2 (also beside v1, where it has no controllers but a freezer).
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let with_freezer =
        fields.filter(|f| f[2] == "cgroup2" || (f[2] == "cgroup" && f[3].split(',').any(|o| o == "freezer")));
    with_freezer.map(|f| PathBuf::from(f[1])).collect()
}

#[test]
fn frozen_processes_stand_run_on_when_thawed_and_can_be_killed_as_they_stand() {
    let hierarchies = hierarchies();
    if hierarchies.is_empty() || !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root and a cgroup hierarchy with a freezer");
        return;
    }
    for hierarchy in hierarchies {
        let dir = hierarchy.join(format!("gwt-freezer-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        check(&dir);
        fs::remove_dir(&dir).unwrap();
    }
}

fn check(dir: &Path) {
    let limit = Limit::seconds(10);
    let mut child = NodeEnv::host().in_cgroups([dir]).command("sleep").arg("1000").spawn().unwrap();
    let freezer = Freezer::open(dir).unwrap();
    assert_eq!(freezer.pids().unwrap(), [child.pid()]);
    assert!(!freezer.frozen().unwrap());
    freezer.freeze(&limit).unwrap();
    assert!(freezer.frozen().unwrap());
    freezer.thaw().unwrap();
    assert!(!freezer.frozen().unwrap());
    freezer.freeze(&limit).unwrap();
    freezer.kill_all(&limit).unwrap();
    assert!(!child.wait(&limit).unwrap().success());
    assert!(freezer.pids().unwrap().is_empty());
}
