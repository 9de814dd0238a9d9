//! What is wrong is said before anything is done.

use crate::e2e::{Call, godwit};

pub fn what_is_typed_wrong_is_told_before_anything_is_done() {
    for (args, says) in [
        (&["run", "car.yaml", "--world", "moon"][..], "possible values: sim, testbed"),
        (&["run", "car.yaml", "--speed", "0"], "a speed is a number from 0.01 to 1000"),
        (&["run", "car.yaml", "--speed", "fast"], "a speed is a number from 0.01 to 1000"),
        (&["run", "car.yaml", "--seed", "x"], "--seed"),
        (&["testbed", "up", "--name", "My Bed"], "use 1 to 24 of a-z, 0-9 and '-'"),
        (&["testbed", "up", "--name", "../../etc"], "use 1 to 24 of a-z, 0-9 and '-'"),
        (&["migrate", "video"], "<NODE>"),
        (&["migrate", "video", "Edge 2"], "Edge 2"),
        (&["migrate", "video", "edge2", "--strategy", "teleport"], "auto, pre-copy, post-copy or stop-copy"),
        (&["checkpoint"], "<WORKLOAD> <PATH>"),
        (&["checkpoint", "video"], "<PATH>"),
        (&["checkpoint", "Video 1", "x"], "Video 1"),
        (&["checkpoint", "video", "x", "--format", "zip"], "possible values: godwit, oci"),
        (&["restore", "x"], "--node <NODE>"),
        (&["restore", "x", "--node", "edge1", "--tcp", "maybe"], "possible values: auto, close, keep"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&[], "Usage: godwit"),
    ] {
        godwit(args).code(2).says(says);
    }
    godwit(["testbed", "up", "no-such.yaml"]).fails(2).says("no-such.yaml cannot be read");
}

pub fn no_testbed_of_that_name_runs() {
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["testbed", "status"],
        &["migrate", "video", "edge2"],
        &["checkpoint", "video", "x"],
        &["restore", "x", "--node", "edge1"],
    ] {
        let ran = godwit([args, &["--name", "nobody-has-this"]].concat()).fails(2);
        assert_eq!(ran.out, "");
        ran.says(
            "no testbed named nobody-has-this runs here; start one with: godwit testbed up --name nobody-has-this",
        );
    }
}

pub fn ending_a_testbed_that_is_not_there_is_no_failure() {
    if !nix::unistd::geteuid().is_root() {
        Call::new(["testbed", "down", "--name", "nobody-has-this"]).run().fails(3).says("sudo");
        return;
    }
    let ran = godwit(["testbed", "down", "--name", "nobody-has-this"]).code(0);
    ran.prints("there is no testbed nobody-has-this, and nothing of one");
    assert!(!std::path::Path::new("/run/godwit/nobody-has-this").exists());
}
