//! A node whose tools or ways do not work.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::e2e::{Bed, node::Node};
use crate::hold::{assert_rolled_back, assert_unharmed};

/// Puts a program before the node's own of that name.
fn put_before(node: &Node, name: &str, script: &str) {
    let path = node.path("/usr/local/sbin").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn remove(node: &Node, name: &str) {
    fs::remove_file(node.path("/usr/local/sbin").join(name)).unwrap();
}

/// Moving to edge2 fails before the freeze, with these words.
fn stays(bed: &Bed, phase: &str, says: &str) {
    let record = bed.call(&["migrate", "video", "edge2", "--json"]).code(1).json();
    assert_rolled_back(&record, phase, says);
    assert_eq!(record["freeze_ms"], 0.0, "the service never stood still: {record:#}");
}

pub fn the_target_s_criu() {
    let bed = Bed::up();
    put_before(&bed.node("edge2"), "criu", "#!/bin/sh\necho criu is broken >&2\nexit 1\n");
    stays(&bed, "stage", "criu is broken; criu ended with status 1");
    remove(&bed.node("edge2"), "criu");
    assert_unharmed(&bed, "edge1");
}

pub fn the_target_s_runc() {
    let bed = Bed::up();
    put_before(&bed.node("edge2"), "runc", "#!/bin/sh\necho runc is broken >&2\nexit 1\n");
    stays(&bed, "stage", "runc");
    remove(&bed.node("edge2"), "runc");
    assert_unharmed(&bed, "edge1");
}

pub fn the_source_s_criu() {
    let bed = Bed::up();
    put_before(&bed.node("edge1"), "criu", "#!/bin/sh\necho criu is broken >&2\nexit 1\n");
    stays(&bed, "preflight", "criu is broken; criu ended with status 1");
    remove(&bed.node("edge1"), "criu");
    assert_unharmed(&bed, "edge1");
}

pub fn the_way_between_the_nodes() {
    let bed = Bed::up();
    bed.node("edge2").sh("ip link set backhaul down");
    stays(&bed, "stage", "over the backhaul");
    bed.node("edge2").sh("ip link set backhaul up");
    assert_unharmed(&bed, "edge1");
}
