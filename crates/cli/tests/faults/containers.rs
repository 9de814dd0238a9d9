//! A workload of several containers, of which none is left behind whoever is killed.

use nix::sys::signal::Signal;

use crate::e2e::STRATEGIES;
use crate::e2e::node::{Node, signal};
use crate::e2e::pod::{self, Shopper, assert_both_run_on};
use crate::e2e::until;
use crate::hold::{Standing, kill_all};

fn kill_agent(node: &Node) {
    let is_agent = |p: &crate::e2e::node::Process| p.args.get(1).is_some_and(|arg| arg == "agent");
    let agent = until("its agent runs", || node.processes().into_iter().find(is_agent));
    signal(&agent, Signal::SIGKILL);
}

/// Kills while both containers are frozen and dumped, and wait to be restored.
fn while_both_are_held(kill: fn(&Standing), outcome: &str) {
    let bed = pod::up("", "");
    let mut shopper = Shopper::new(&bed);
    shopper.ask();
    for strategy in STRATEGIES {
        let standing = Standing::new(&bed, strategy);
        let (from, to) = (standing.from, standing.to);
        kill(&standing);
        let record = standing.go_on();
        assert_eq!(record["outcome"], outcome, "{strategy}: {record:#}");
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
