//! The output folder: what cannot be kept is told before the run, and nothing of anybody else's is touched.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use crate::e2e::call::content;
use crate::e2e::{Ran, godwit, shipped};

fn run(out: &Path) -> Ran {
    godwit(["run", shipped("car.yaml").to_str().unwrap(), "--world", "sim", "--out", out.to_str().unwrap()])
}

pub fn a_file_in_the_place_of_the_folder_is_refused() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    run(&file).fails(2).says("is not a folder; choose another output folder");
    run(&file.join("below")).fails(2).says("file/below");
    assert_eq!(content(dir.path()), [(file, b"mine".to_vec())]);
}

pub fn a_folder_of_somebody_else_is_refused() {
    let dir = tempdir().unwrap();
    let mine = dir.path().join("thesis.tex");
    fs::write(&mine, "mine").unwrap();
    run(dir.path()).fails(2).says("is not empty and holds no earlier run; empty it or choose another output folder");
    assert_eq!(content(dir.path()), [(mine, b"mine".to_vec())]);
}

pub fn a_folder_that_cannot_be_made_is_refused() {
    // Not even root makes a folder there.
    run(Path::new("/proc/godwit-out")).fails(2).says("cannot make the folder /proc/godwit-out");
}

pub fn an_earlier_run_is_replaced() {
    let dir = tempdir().unwrap();
    run(dir.path()).code(0);
    let first = content(dir.path());
    fs::write(dir.path().join("summary.json"), "{}").unwrap();
    run(dir.path()).code(0);
    assert!(first == content(dir.path()), "a second run leaves something else");
    for name in ["summary.json", "samples.csv", "migrations.csv", "snapshots.jsonl", "report.html", "rtt.svg"] {
        assert!(first.iter().any(|(path, text)| path.ends_with(name) && !text.is_empty()), "{name} is missing");
    }
}

pub fn nothing_is_made_when_the_request_is_wrong() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let car = shipped("car.yaml");
    for (scenario, more) in [
        (car.to_str().unwrap(), ["--policy", "nearset"]),
        (car.to_str().unwrap(), ["--set", "rtt=1"]),
        ("no-such.yaml", ["--seed", "1"]),
    ] {
        let fixed = ["run", scenario, "--world", "sim", "--out", out.to_str().unwrap()];
        godwit([&fixed[..], &more].concat()).fails(2);
        assert!(!out.exists());
    }
}
