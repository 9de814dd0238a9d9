//! A migration that stands still at a known point: the target's CRIU is stopped before it restores.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::e2e::bed::Asked;
use crate::e2e::node::{Node, Process, signal};
use crate::e2e::{Bed, STRATEGIES, shipped};

/// The shipped car with a service large enough that its dump and transfer take a while.
pub fn bed() -> Bed {
    let car = fs::read_to_string(shipped("car.yaml")).unwrap();
    let bed = Bed::of(&car.replace("memory: 16MiB", "memory: 64MiB"));
    // CRIU would stumble over a connection that the service has not taken up yet.
    bed.until_it_answers();
    bed
}

/// A migration of `video` that stands in its restore: the source is frozen, dumped and sent, and its CRIU holds it.
pub struct Standing {
    asked: Asked,
    /// From where.
    pub source: Node,
    /// To where.
    pub target: Node,
    pub to: &'static str,
    pub from: &'static str,
}

impl Standing {
    pub fn new(bed: &Bed, strategy: &str) -> Self {
        // When the target's criu has been made ready, and has nothing to do for long enough.
        let ready = if strategy == "stop-copy" { "freeze" } else { "pre-copy" };
        for _ in 0..10 {
            let (from, to) = if bed.node_of("video") == "edge1" { ("edge1", "edge2") } else { ("edge2", "edge1") };
            let (source, target) = (bed.node(from), bed.node(to));
            let mut asked = bed.ask_to_migrate_by(strategy, "video", to);
            asked.until_phase(ready).expect("a migration that goes well");
            let criu = target.criu();
            let stopped = !criu.is_empty() && criu.iter().all(|process| signal(process, Signal::SIGSTOP));
            // Too late where the machine was slow to let us: then it ended well, and the next one goes back.
            if stopped && asked.until_phase("restore").is_ok() && is_stopped(&target) && stays_in_restore(bed, to) {
                return Self { asked, source, target, from, to };
            }
            target.criu().iter().for_each(|process| _ = signal(process, Signal::SIGCONT));
            assert_eq!(asked.record()["outcome"], "done");
        }
        panic!("ten migrations went through before their criu could be stopped");
    }

    /// Kills the target's CRIU with everything that it has started.
    pub fn kill_target_criu(&self) {
        kill_all(&self.target.criu());
    }

    /// Kills the source's CRIU.
    pub fn kill_source_criu(&self) {
        let criu = self.source.criu();
        assert!(!criu.is_empty(), "the source's criu holds");
        kill_all(&criu);
    }

    /// Lets it go on; its record.
    pub fn go_on(self) -> Value {
        self.target.criu().iter().for_each(|process| _ = signal(process, Signal::SIGCONT));
        self.asked.record()
    }
}

/// Not on its way to the switch: it was stopped before it had restored. (Past that a migration does not stay in this phase
/// while the state is asked for again and again.)
fn stays_in_restore(bed: &Bed, to: &str) -> bool {
    (0..4).all(|_| bed.status()["workloads"][0]["migrating"] == json!([to, "restore"]))
}

fn is_stopped(node: &Node) -> bool {
    let criu = node.criu();
    !criu.is_empty() && criu.iter().all(|process| process.state == 'T')
}

/// Kills processes.
pub fn kill_all(processes: &[Process]) {
    for process in processes {
        signal(process, Signal::SIGKILL);
    }
}

/// The service runs on `at` alone, its one connection lives, and it can be moved there and back.
#[track_caller]
pub fn assert_unharmed(bed: &Bed, at: &str) {
    assert_eq!(bed.until_it_answers(), 0, "the client's connection broke");
    bed.assert_runs_only_on("video", at);
    for node in ["edge1", "edge2"] {
        assert_eq!(bed.node(node).images(), "", "on {node}");
    }
    let other = if at == "edge1" { "edge2" } else { "edge1" };
    for (strategy, to) in STRATEGIES.into_iter().zip([other, at]) {
        bed.migrate_by(strategy, "video", to);
    }
    assert_eq!(bed.until_it_answers(), 0, "the client's connection broke later");
    bed.assert_runs_only_on("video", at);
}

/// It was rolled back, in this phase, with these words.
#[track_caller]
pub fn assert_rolled_back(record: &Value, phase: &str, says: &str) {
    assert_eq!(record["outcome"], "rolled-back", "{record:#}");
    let error = record["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("{phase}: ")) && error.contains(says), "not \"{says}\" in {phase}: {record:#}");
    assert!(!error.contains("roll-back:"), "the roll-back went well: {record:#}");
}
