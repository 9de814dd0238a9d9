//! Two testbeds on one machine.

use std::thread;

use crate::e2e::{Bed, left};

pub fn two_testbeds_do_not_meet() {
    let first = Bed::up();
    let second = Bed::beside(&first);
    second.call_up(&[]).code(0);
    thread::scope(|scope| {
        for bed in [&first, &second] {
            scope.spawn(move || {
                for to in ["edge2", "edge3", "edge1", "edge3"] {
                    bed.migrate("video", to);
                }
            });
        }
    });
    for bed in [&first, &second] {
        assert_eq!(bed.until_it_answers(), 0);
        bed.assert_runs_only_on("video", "edge3");
    }
}

pub fn the_one_that_ends_first_takes_nothing_from_the_other() {
    let pipe_size = || std::fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap();
    let first = Bed::up();
    let second = Bed::beside(&first);
    second.call_up(&[]).code(0);
    let raised = pipe_size();
    first.call(&["testbed", "down"]).code(0);
    left::assert_nothing(first.name());
    assert_eq!(pipe_size(), raised, "the second testbed still needs large pipes");
    second.migrate("video", "edge2");
    assert_eq!(second.until_it_answers(), 0);
    second.assert_runs_only_on("video", "edge2");
}
