//! SIGKILL of a node's agent, which is started again.

use nix::sys::signal::Signal;

use crate::e2e::bed::Asked;
use crate::e2e::node::{Node, Process, signal};
use crate::e2e::writer::{assert_nothing_on, check, writer};
use crate::e2e::{Bed, STRATEGIES, until};
use crate::hold::{Standing, assert_rolled_back, assert_unharmed, bed};

const PHASES: [&str; 10] =
    ["preflight", "stage", "pre-copy", "freeze", "dump", "transfer", "restore", "commit", "switch", "drain"];

/// It runs, or is about to be started again.
pub fn agent(node: &Node) -> Process {
    let is_agent = |p: &Process| p.args.get(1).is_some_and(|arg| arg == "agent");
    until("its agent runs", || node.processes().into_iter().find(is_agent))
}

fn kill(node: &Node) {
    signal(&agent(node), Signal::SIGKILL);
}

/// One copy runs where it is said to, and nothing is left of the other.
#[track_caller]
fn one_copy_runs(bed: &Bed, asked: Asked, from: &str, to: &str, victim: &str, at: &str) -> bool {
    let record = asked.record();
    // The one moment that harms, at the target of a post-copy: what runs and cannot have all its memory any more is ended
    // (docs/adr/0011). It is told, and no copy runs on with pages that it lacks.
    if record["outcome"] == "lost" {
        let late = ["transfer", "restore", "commit", "switch", "drain"].iter().any(|phase| at.starts_with(phase));
        assert!(at.ends_with("post-copy") && late && victim == to, "killed in {at}: {record:#}");
        [from, to]
            .iter()
            .for_each(|node| assert!(bed.node(node).copy_of("video").is_empty(), "killed in {at}, on {node}"));
        return false;
    }
    let runs_on = match record["outcome"].as_str() {
        Some("done") => to,
        Some("rolled-back") => from,
        _ => panic!("killed in {at}: {record:#}"),
    };
    assert_eq!(bed.until_it_answers(), 0, "killed in {at}, the client's connection broke: {record:#}");
    bed.assert_runs_only_on("video", runs_on);
    for node in [from, to] {
        assert_eq!(bed.node(node).images(), "", "killed in {at}, on {node}: {record:#}");
    }
    true
}

fn in_every_phase(whose: fn(&'static str, &'static str) -> &'static str) {
    for strategy in STRATEGIES {
        let mut bed = bed();
        for phase in PHASES {
            let (from, to) = if bed.node_of("video") == "edge1" { ("edge1", "edge2") } else { ("edge2", "edge1") };
            let at = whose(from, to);
            let victim = agent(&bed.node(at));
            let mut asked = bed.ask_to_migrate_by(strategy, "video", to);
            // Stop-copy has one phase less.
            if asked.until_phase(phase).is_ok() {
                signal(&victim, Signal::SIGKILL);
                if !one_copy_runs(&bed, asked, from, to, at, &format!("{phase} of {strategy}")) {
                    // The slot first: another test may wait for it.
                    drop(bed);
                    bed = crate::hold::bed();
                }
            }
        }
        let at = if bed.node_of("video") == "edge1" { "edge1" } else { "edge2" };
        assert_unharmed(&bed, at);
    }
}

pub fn the_source_s_in_every_phase() {
    in_every_phase(|from, _| from);
}

pub fn the_target_s_in_every_phase() {
    in_every_phase(|_, to| to);
}

/// The source is frozen, dumped and sent: the target has all it needs. By post-copy the agent that comes next serves the memory
/// of the frozen processes, which nobody else has.
pub fn the_source_s_while_it_holds() {
    let bed = bed();
    for strategy in STRATEGIES {
        let standing = Standing::new(&bed, strategy);
        let to = standing.to;
        kill(&standing.source);
        let record = standing.go_on();
        assert_eq!(record["outcome"], "done", "{record:#}");
        assert_unharmed(&bed, to);
    }
}

pub fn the_target_s_in_the_restore() {
    let bed = bed();
    for strategy in STRATEGIES {
        let standing = Standing::new(&bed, strategy);
        let from = standing.from;
        kill(&standing.target);
        let record = standing.go_on();
        assert_rolled_back(&record, "restore", "cannot be reached");
        assert_unharmed(&bed, from);
    }
}

pub fn while_nothing_moves() {
    let bed = bed();
    let before = agent(&bed.node("edge1"));
    kill(&bed.node("edge1"));
    until("another agent runs", || (agent(&bed.node("edge1")).pid != before.pid).then_some(()));
    assert_unharmed(&bed, "edge1");
}

/// By stop-copy, which loses nothing whenever an agent is killed.
pub fn files_are_whole_whichever_is_killed() {
    let (bed, mut client) = writer("");
    for phase in PHASES {
        for source_s in [true, false] {
            let (from, to) = if bed.node_of("app") == "a" { ("a", "b") } else { ("b", "a") };
            let victim = agent(&bed.node(if source_s { from } else { to }));
            let mut asked = bed.ask_to_migrate("app", to);
            if asked.until_phase(phase).is_err() {
                continue;
            }
            signal(&victim, Signal::SIGKILL);
            let record = asked.record();
            let (at, other) = match record["outcome"].as_str() {
                Some("done") => (to, from),
                Some("rolled-back") => (from, to),
                _ => panic!("killed in {phase}: {record:#}"),
            };
            check(&mut client);
            bed.assert_runs_only_on("app", at);
            assert_nothing_on(&bed, other);
        }
    }
}
