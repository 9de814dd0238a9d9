//! A workload of several containers, of which none is left behind whoever is killed.

use nix::sys::signal::Signal;

use crate::e2e::node::{Node, Process, signal};
use crate::e2e::pod::{self, Shopper, assert_both_run_on};
use crate::e2e::{Bed, Call, STRATEGIES, until};
use crate::full;
use crate::hold::{Standing, assert_rolled_back, kill_all};

fn kill_agent(node: &Node) {
    let is_agent = |p: &Process| p.args.get(1).is_some_and(|arg| arg == "agent");
    let agent = until("its agent runs", || node.processes().into_iter().find(is_agent));
    signal(&agent, Signal::SIGKILL);
}

/// Whether nothing goes over the loopback device of the workload's place on a node.
fn is_silent(bed: &Bed, node: &str) -> bool {
    let netns = format!("--net=/run/netns/godwit.{}.service.video.{node}", bed.name());
    let shown = Call::of("nsenter", [&netns, "tc", "qdisc", "show", "dev", "lo"]).run().code(0).out;
    shown.contains("blackhole")
}

/// Kills while both containers are frozen and dumped, and wait to be restored.
fn while_both_are_held(kill: fn(&Standing), outcome: &str) {
    let bed = pod::up("", "");
    let mut shopper = Shopper::new(&bed);
    shopper.ask();
    for strategy in STRATEGIES {
        let standing = Standing::new(&bed, strategy);
        let (from, to) = (standing.from, standing.to);
        let silent = |node| is_silent(&bed, node);
        assert!(silent(from) && silent(to), "their kernels still speak to each other over the loopback device");
        kill(&standing);
        let record = standing.go_on();
        assert_eq!(record["outcome"], outcome, "{strategy}: {record:#}");
        assert!(!silent(from) && !silent(to), "a fence is left behind");
        (0..5).for_each(|_| shopper.ask());
        assert_both_run_on(&bed, if outcome == "done" { to } else { from });
        // And they can be moved as ever.
        let back = if bed.node_of("video") == "edge1" { "edge2" } else { "edge1" };
        bed.migrate_by(strategy, "video", back);
        (0..5).for_each(|_| shopper.ask());
        assert_both_run_on(&bed, back);
    }
}

pub fn the_target_s_agent() {
    while_both_are_held(|standing| kill_agent(&standing.target), "rolled-back");
}

pub fn the_source_s_agent() {
    while_both_are_held(|standing| kill_agent(&standing.source), "done");
}

/// One of two: the other, which is restored, goes with it.
pub fn one_criu_of_the_target() {
    while_both_are_held(|standing| kill_all(&standing.target.criu()[..1]), "rolled-back");
}

pub fn one_criu_of_the_source() {
    while_both_are_held(|standing| kill_all(&standing.source.criu()[..1]), "done");
}

pub fn a_target_that_is_full() {
    let bed = pod::up("", "");
    let mut shopper = Shopper::new(&bed);
    for strategy in ["stop-copy", "pre-copy"] {
        full::fill(&bed.node("edge2"));
        let record = bed.call(&["migrate", "video", "edge2", "--strategy", strategy, "--json"]).code(1).json();
        assert_rolled_back(&record, "transfer", "No space left on device");
        full::empty(&bed.node("edge2"));
        (0..5).for_each(|_| shopper.ask());
        assert_both_run_on(&bed, "edge1");
    }
}

const PHASES: [&str; 9] = ["stage", "pre-copy", "freeze", "dump", "transfer", "restore", "commit", "switch", "drain"];

/// Both containers are on one node, whole, whichever agent was killed when.
pub fn either_agent_in_every_phase() {
    let up = || {
        let bed = pod::up("", "");
        let shopper = Shopper::new(&bed);
        (bed, shopper)
    };
    let (mut bed, mut shopper) = up();
    for (phase, of_target) in PHASES.into_iter().flat_map(|phase| [(phase, false), (phase, true)]) {
        let (from, to) = if bed.node_of("video") == "edge1" { ("edge1", "edge2") } else { ("edge2", "edge1") };
        let mut asked = bed.ask_to_migrate_by("pre-copy", "video", to);
        asked.until_phase(phase).expect("it comes so far");
        kill_agent(&bed.node(if of_target { to } else { from }));
        let record = asked.record();
        match record["outcome"].as_str() {
            Some("done") => go_on(&bed, &mut shopper, to),
            Some("rolled-back") => go_on(&bed, &mut shopper, from),
            // What ran and cannot have all its memory any more is ended: both of them.
            Some("lost") if of_target && ["transfer", "restore", "commit", "switch", "drain"].contains(&phase) => {
                for node in [from, to] {
                    assert!(bed.node(node).copy_of("video").is_empty(), "on {node}, killed in {phase}: {record:#}");
                }
                // The slot first: another test may wait for it.
                drop(bed);
                (bed, shopper) = up();
            }
            _ => panic!("killed in {phase}: {record:#}"),
        }
    }
}

#[track_caller]
fn go_on(bed: &Bed, shopper: &mut Shopper, at: &str) {
    (0..5).for_each(|_| shopper.ask());
    assert_both_run_on(bed, at);
}
