//! No room for the state.

use crate::e2e::service::scenario;
use crate::e2e::{Bed, node::Node};
use crate::hold::{assert_rolled_back, assert_unharmed};

/// Leaves so little of a node's file system for state that a note fits, and images do not, without their memory either.
pub fn fill(node: &Node) {
    node.sh("mount -o remount,size=16m /var/lib/godwit/state && cd /var/lib/godwit/state && \
             fallocate -l $(($(df --output=avail -k . | tail -1) - 128))K full");
}

pub fn empty(node: &Node) {
    node.sh("rm /var/lib/godwit/state/full && mount -o remount,size=50% /var/lib/godwit/state");
}

/// Memory is kept by the agent, whether it goes ahead or beside the images.
pub fn the_target() {
    let bed = Bed::up();
    for strategy in ["stop-copy", "pre-copy"] {
        fill(&bed.node("edge2"));
        let record = bed.call(&["migrate", "video", "edge2", "--strategy", strategy, "--json"]).code(1).json();
        assert_rolled_back(&record, "transfer", "No space left on device");
        empty(&bed.node("edge2"));
        assert_unharmed(&bed, "edge1");
    }
}

pub fn the_source() {
    let bed = Bed::up();
    for strategy in ["stop-copy", "pre-copy"] {
        fill(&bed.node("edge1"));
        let record = bed.call(&["migrate", "video", "edge2", "--strategy", strategy, "--json"]).code(1).json();
        assert_rolled_back(&record, "dump", "No space left on device");
        empty(&bed.node("edge1"));
        assert_unharmed(&bed, "edge1");
    }
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
