//! SIGKILL of the testbed's own process.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::e2e::{Bed, Call, STRATEGIES, left, node, shipped, until};
use crate::hold::Standing;

/// Kills it.
fn crash(bed: &Bed) {
    let pid = fs::read_to_string(left::run_dir(bed.name()).join("lock")).unwrap();
    kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
}

/// Its nodes die with it.
fn until_the_nodes_die(bed: &Bed) {
    let group = format!("/godwit-{}/", bed.name());
    until("the nodes die", || node::processes().iter().all(|p| !p.cgroups.contains(&group)).then_some(()));
}

pub fn down_removes_what_is_left_and_says_what() {
    let bed = Bed::up();
    bed.migrate("video", "edge2");
    crash(&bed);
    until_the_nodes_die(&bed);
    bed.call(&["status"]).fails(2).says("no testbed named");
    bed.call(&["migrate", "video", "edge1"]).fails(2).says("no testbed named");
    assert!(!left::of(bed.name()).is_empty(), "names survive a process");
    let down = bed.call(&["testbed", "down"]).code(0);
    let down = down.prints("was not running any more; removed ").prints("network namespaces").prints("the cgroup");
    down.prints(left::run_dir(bed.name()).to_str().unwrap());
    left::assert_nothing(bed.name());
    bed.call(&["testbed", "down"]).code(0).prints("there is no testbed");
}

pub fn up_again_without_down() {
    let bed = Bed::up();
    crash(&bed);
    bed.call_up(&[]).code(0);
    assert_eq!(bed.until_it_answers(), 0);
    bed.migrate("video", "edge2");
    assert_eq!(bed.until_it_answers(), 0);
    bed.assert_runs_only_on("video", "edge2");
}

pub fn in_the_middle_of_a_migration() {
    for strategy in STRATEGIES {
        let bed = crate::hold::bed();
        let _standing = Standing::new(&bed, strategy);
        // The source's copy is frozen: it cannot even die before somebody thaws it.
        crash(&bed);
        bed.call(&["testbed", "down"]).code(0).prints("was not running any more");
        left::assert_nothing(bed.name());
    }
}

pub fn while_memory_goes_ahead() {
    let bed = crate::hold::bed();
    let mut asked = bed.ask_to_migrate_by("pre-copy", "video", "edge2");
    asked.until_phase("pre-copy").unwrap();
    crash(&bed);
    until_the_nodes_die(&bed);
    bed.call_up(&[]).code(0);
    assert_eq!(bed.until_it_answers(), 0);
    bed.migrate("video", "edge2");
    bed.assert_runs_only_on("video", "edge2");
}

pub fn a_node_that_dies_is_no_target() {
    let bed = Bed::up();
    kill(Pid::from_raw(bed.node("edge2").init()), Signal::SIGKILL).unwrap();
    let ran = until("it is known that edge2 is down", || {
        let ran = bed.call(&["migrate", "video", "edge2"]);
        (ran.status() == Some(2)).then_some(ran)
    });
    ran.says("node edge2 is not ready");
    assert_eq!(bed.until_it_answers(), 0);
    bed.migrate("video", "edge3");
    assert_eq!(bed.until_it_answers(), 0);
    assert_eq!(bed.node_of("video"), "edge3");
}

pub fn a_node_that_dies_takes_its_workload_along_which_is_told() {
    let bed = Bed::up();
    kill(Pid::from_raw(bed.node("edge1").init()), Signal::SIGKILL).unwrap();
    until("it is told", || (bed.status()["workloads"][0]["running"] == false).then_some(()));
    assert_ne!(bed.call(&["migrate", "video", "edge2"]).status(), Some(0));
    until("the client's broken connection is counted", || (bed.client().1 > 0).then_some(()));
}

pub fn a_run_does_not_hurt_the_next() {
    let bed = Bed::none();
    let (car, out) = (shipped("car.yaml"), bed.path("out"));
    let args = ["run", car.to_str().unwrap(), "--speed", "60", "--out", out.to_str().unwrap(), "--name", bed.name()];
    let mut run = Call::new(args).start();
    run.until_it_says("*edge1 rtt");
    run.signal(Signal::SIGKILL);
    assert_eq!(run.end().killed_by(), Some(9));
    assert!(!out.join("summary.json").exists(), "half a report is none");
    let ran = Call::new(args).start().end();
    let ran = ran.says("removed what an earlier testbed of this name left behind: ");
    assert!([Some(0), Some(1)].contains(&ran.status()), "{ran}");
    left::assert_nothing(bed.name());
    assert!(out.join("report.html").exists());
}
