//! No room for the state.

use crate::e2e::service::scenario;
use crate::e2e::{Bed, node::Node};
use crate::hold::{assert_rolled_back, assert_unharmed};

/// Sets how large a node's file system for state is.
fn room(node: &Node, size: &str) {
    node.sh(&format!("mount -o remount,size={size} /var/lib/godwit/state"));
}

/// Memory that goes ahead is kept by the agent; only stop-copy has it in files.
pub fn the_target() {
    let bed = Bed::up();
    room(&bed.node("edge2"), "8m");
    let record = bed.call(&["migrate", "video", "edge2", "--strategy", "stop-copy", "--json"]).code(1).json();
    assert_rolled_back(&record, "transfer", "images");
    room(&bed.node("edge2"), "50%");
    assert_unharmed(&bed, "edge1");
}

pub fn the_source() {
    let bed = Bed::up();
    room(&bed.node("edge1"), "8m");
    let record = bed.call(&["migrate", "video", "edge2", "--strategy", "stop-copy", "--json"]).code(1).json();
    assert_rolled_back(&record, "dump", "No space left on device");
    room(&bed.node("edge1"), "50%");
    assert_unharmed(&bed, "edge1");
}

pub fn the_target_s_memory() {
    let two = scenario(&["true"])
        .replace("{ name: a }, { name: b }", "{ name: a, memory: 128MiB }, { name: b, memory: 128MiB }")
        .replace(", command: [\"true\"]", ", memory: 64MiB");
    let two = two + "  - { name: web, node: b, users: [car], port: 5556, memory: 64MiB }\n";
    let bed = Bed::of(&two);
    let record = bed.call(&["migrate", "app", "b", "--json"]).code(1).json();
    assert_rolled_back(&record, "preflight", "of memory left, app holds 64MiB");
    assert_eq!(record["freeze_ms"], 0.0);
    assert_eq!(bed.until_it_answers(), 0);
    bed.assert_runs_only_on("app", "a");
    bed.assert_runs_only_on("web", "b");
}
