//! Nothing that is written is ever missed: rounds are copied while the process writes as fast as it can, and the copy
//! is compared with its memory once it is stopped.

mod world;

use std::time::{Duration, Instant};

use godwit_memory::Tracker;
use world::{PAGE, Shadow, Subject, freeze_and_compare, supported_or_skip};

#[test]
fn random_writers_in_several_threads() {
    supported_or_skip!();
    for (pages, threads, rounds) in [(64, 4, 60), (4096, 3, 30), (20_000, 2, 12)] {
        let mut subject = Subject::start();
        let mut shadow = Shadow::default();
        let at = subject.written(pages, 1);
        subject.ask(format!("hammer {at:#x} {pages} {threads}"));
        let pid = subject.pid;
        let mut tracker = Tracker::attach(&[pid]).unwrap();
        for _ in 0..rounds {
            shadow.take(&tracker.round(&[pid]).unwrap());
        }
        let compared = freeze_and_compare(tracker, &mut shadow, pid);
        assert!(compared >= pages * PAGE);
        assert_eq!(shadow.vanished, 0);
        world::signal(pid, "CONT");
        let written: u64 = subject.ask("calm").parse().unwrap();
        assert!(written > 1000, "{written} writes");
    }
}

#[test]
fn mappings_that_change_all_the_time() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let mut shadow = Shadow::default();
    let pid = subject.pid;
    let at = subject.written(256, 1);
    subject.ask(format!("hammer {at:#x} 256 1"));
    subject.tell("churn 1500");
    let mut tracker = Tracker::attach(&[pid]).unwrap();
    let began = Instant::now();
    let mut rounds = 0;
    while rounds < 3 || began.elapsed() < Duration::from_millis(1000) {
        shadow.take(&tracker.round(&[pid]).unwrap());
        rounds += 1;
    }
    freeze_and_compare(tracker, &mut shadow, pid);
}

#[test]
fn trackers_that_come_and_go() {
    supported_or_skip!();
    let mut subject = Subject::start();
    let pid = subject.pid;
    let at = subject.written(512, 1);
    subject.ask(format!("hammer {at:#x} 512 2"));
    // Each begins with nothing of the others.
    for _ in 0..20 {
        let mut shadow = Shadow::default();
        let mut tracker = Tracker::attach(&[pid]).unwrap();
        (0..3).for_each(|_| shadow.take(&tracker.round(&[pid]).unwrap()));
        freeze_and_compare(tracker, &mut shadow, pid);
        world::signal(pid, "CONT");
    }
    subject.ask("calm");
}
