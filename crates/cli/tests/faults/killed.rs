//! SIGKILL in the middle.

use serde_json::json;

use crate::e2e::{STRATEGIES, until};
use crate::hold::{Standing, assert_rolled_back, assert_unharmed, bed, kill_all};

pub fn the_target_s_criu_in_the_restore() {
    let bed = bed();
    for strategy in STRATEGIES {
        let standing = Standing::new(&bed, strategy);
        let from = standing.from;
        standing.kill_target_criu();
        let record = standing.go_on();
        assert_rolled_back(&record, "restore", "criu was killed by signal 9");
        assert_unharmed(&bed, from);
    }
}

pub fn the_source_s_criu_while_it_holds() {
    let bed = bed();
    for strategy in STRATEGIES {
        let standing = Standing::new(&bed, strategy);
        let to = standing.to;
        // It stands, so what is told of it can be looked at.
        let workload = bed.status()["workloads"][0].clone();
        assert_eq!((&workload["node"], &workload["migrating"]), (&json!(standing.from), &json!([to, "restore"])));
        bed.call(&["status"]).code(0).prints(&format!("moving to {to}: restore"));
        standing.kill_source_criu();
        let record = standing.go_on();
        assert_eq!(record["outcome"], "done", "the state is whole and with the target: {record:#}");
        assert_unharmed(&bed, to);
    }
}

pub fn both_crius() {
    let bed = bed();
    for strategy in STRATEGIES {
        let standing = Standing::new(&bed, strategy);
        let from = standing.from;
        standing.kill_source_criu();
        standing.kill_target_criu();
        let record = standing.go_on();
        assert_rolled_back(&record, "restore", "criu was killed by signal 9");
        assert_unharmed(&bed, from);
    }
}

/// The one moment that CRIU's death harms: its code is inside the tasks and their sockets are in its hands.
pub fn the_source_s_criu_in_the_dump() {
    let bed = bed();
    let mut at = "edge1";
    for _ in 0..3 {
        let to = if at == "edge1" { "edge2" } else { "edge1" };
        let mut asked = bed.ask_to_migrate("video", to);
        asked.until_phase("dump").unwrap();
        kill_all(&bed.node(at).criu());
        let record = asked.record();
        if record["outcome"] == "done" {
            // It had dumped already.
            at = to;
        } else {
            assert!(record["error"].as_str().unwrap().contains("criu was killed by signal 9"), "{record:#}");
        }
        if record["outcome"] == "lost" {
            assert!(bed.node(at).copy_of("video").is_empty(), "it is said to be lost and runs: {record:#}");
            return;
        }
        // Connections may have broken, which is counted; the service serves.
        bed.until_it_answers();
        bed.assert_runs_only_on("video", at);
    }
    bed.migrate("video", if at == "edge1" { "edge2" } else { "edge1" });
    bed.until_it_answers();
}

/// Its state is with the target already, which runs on.
pub fn the_frozen_container() {
    let bed = bed();
    for strategy in STRATEGIES {
        let standing = Standing::new(&bed, strategy);
        let to = standing.to;
        kill_all(&standing.source.copy_of("video"));
        let record = standing.go_on();
        assert_eq!(record["outcome"], "done", "{record:#}");
        assert_unharmed(&bed, to);
    }
}

/// Then there is nothing to be moved, and nobody is told that all is well.
pub fn the_container_before_the_freeze() {
    for (strategy, phase) in [("stop-copy", "preflight"), ("pre-copy", "pre-copy")] {
        // Too late where the machine was slow: its state was with the target already, which runs on.
        let in_time = (0..5).any(|_| {
            let bed = bed();
            let victims = bed.node("edge1").copy_of("video");
            let mut asked = bed.ask_to_migrate_by(strategy, "video", "edge2");
            asked.until_phase(phase).unwrap();
            kill_all(&victims);
            let record = asked.record();
            if record["outcome"] == "done" {
                bed.until_it_answers();
                bed.assert_runs_only_on("video", "edge2");
                return false;
            }
            assert_eq!(record["outcome"], "lost", "{record:#}");
            is_told_to_be_lost(&bed);
            true
        });
        assert!(in_time, "five migrations went past {phase} before the container could be killed");
    }
}

pub fn the_container_while_nothing_moves() {
    let bed = bed();
    kill_all(&bed.node("edge1").copy_of("video"));
    is_told_to_be_lost(&bed);
}

fn is_told_to_be_lost(bed: &crate::e2e::Bed) {
    until("the client's broken connection is counted", || (bed.client().1 > 0).then_some(()));
    let status = until("the status says that it ended", || {
        let status = bed.status();
        (status["workloads"][0]["running"] == json!(false)).then_some(status)
    });
    assert_eq!(status["workloads"][0]["node"], "edge1");
    bed.call(&["status"]).code(0).prints("ended");
    let ran = bed.call(&["migrate", "video", "edge2"]);
    assert_ne!(ran.status(), Some(0), "{ran}");
    for node in ["edge1", "edge2"] {
        assert!(bed.node(node).copy_of("video").is_empty(), "on {node}");
        assert!(bed.node(node).criu().is_empty(), "on {node}");
    }
}
