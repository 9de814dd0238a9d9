//! Standard output and standard error that nobody reads, or that are full.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use tempfile::tempdir;

use crate::e2e::call::program;
use crate::e2e::shipped;
use crate::policy::ISSUE_S_LINE;

/// Calls the program; `out` and `err` go where nobody reads them if they are `None`.
fn call(args: &[&str], input: &str, out: Option<Stdio>, err: Option<Stdio>) -> Output {
    let mut command = Command::new(program());
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::piped());
    let unread = || Stdio::from(std::io::pipe().unwrap().1);
    command.stdout(out.unwrap_or_else(unread)).stderr(err.unwrap_or_else(unread));
    let mut child = command.spawn().unwrap();
    // Its own copies of pipes that nobody reads.
    drop(command);
    // It need not read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

pub fn a_reader_that_has_enough_is_no_failure() {
    let dir = tempdir().unwrap();
    let car = shipped("car.yaml");
    let (car, out, man) = (car.to_str().unwrap(), dir.path().join("out"), dir.path().join("man"));
    let snapshots = format!("{ISSUE_S_LINE}\n").repeat(100);
    for args in [
        &["run", car, "--world", "sim", "--out", out.to_str().unwrap()][..],
        &["run", car, "--world", "sim", "--json", "--out", out.to_str().unwrap()],
        &["policy", "decide"],
        &["policy", "list"],
        &["policy", "schema", "threshold"],
        &["scenario", "check", car],
        &["completions", "bash"],
        &["man", man.to_str().unwrap()],
        &["--help"],
    ] {
        let output = call(args, &snapshots, None, Some(Stdio::piped()));
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{args:?}");
    }
    assert!(out.join("report.html").exists());
}

pub fn a_full_disk_is_a_failure() {
    let full = || Some(Stdio::from(File::options().write(true).open("/dev/full").unwrap()));
    for args in [&["policy", "list"][..], &["policy", "decide"], &["doctor"], &["completions", "bash"]] {
        let output = call(args, ISSUE_S_LINE, full(), Some(Stdio::piped()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code != 0), "{args:?}: {said}");
        assert!(said.contains("No space left on device") && !said.contains("panicked"), "{args:?}: {said}");
        assert_eq!(said.matches("godwit: ").count(), 1, "{args:?}: {said}");
    }
}

pub fn nobody_needs_to_listen_to_standard_error() {
    let output = call(&["policy", "schema", "treshold"], "", Some(Stdio::piped()), None);
    assert_eq!(output.status.code(), Some(2));
    let output = call(&["-v", "policy", "list"], "", Some(Stdio::piped()), None);
    assert_eq!(output.status.code(), Some(0));
}
