//! `godwit run --world sim`.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::e2e::{Call, Ran, godwit, shipped};

fn run(scenario: &Path, out: &Path, more: &[&str]) -> Ran {
    let fixed = ["run", scenario.to_str().unwrap(), "--world", "sim", "--out", out.to_str().unwrap()];
    godwit([&fixed[..], more].concat())
}

fn summary(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap()
}

fn targets(summary: &Value) -> Vec<&str> {
    summary["migrations"].as_array().unwrap().iter().map(|m| m["to"].as_str().unwrap()).collect()
}

pub fn follows_the_car_there_and_back() {
    let dir = tempdir().unwrap();
    run(&shipped("car.yaml"), dir.path(), &[]).code(0).prints("OK: 4 migrations").prints("report.html");
    let summary = summary(dir.path());
    assert_eq!(summary["schema"], "godwit.dev/summary/v1");
    assert_eq!(summary["world"], "sim");
    assert_eq!(summary["ok"], true);
    assert_eq!(summary["migrations"][0]["from"], "edge1");
    assert_eq!(targets(&summary), ["edge2", "edge3", "edge2", "edge1"]);
}

pub fn the_same_run_twice_is_the_same_to_the_byte() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    for scenario in ["car.yaml", "car-and-load.yaml"] {
        run(&shipped(scenario), one.path(), &["--seed", "7"]).code(0);
        run(&shipped(scenario), two.path(), &["--seed", "7"]).code(0);
        for entry in fs::read_dir(one.path()).unwrap() {
            let name = entry.unwrap().file_name();
            let [a, b] = [&one, &two].map(|dir| fs::read(dir.path().join(&name)).unwrap());
            assert!(a == b, "{scenario}: {} differs", name.display());
        }
    }
}

pub fn another_seed_measures_otherwise_and_decides_the_same() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    run(&shipped("car.yaml"), one.path(), &["--seed", "1"]).code(0);
    run(&shipped("car.yaml"), two.path(), &["--seed", "2"]).code(0);
    let [a, b] = [&one, &two].map(|dir| fs::read_to_string(dir.path().join("samples.csv")).unwrap());
    assert_ne!(a, b);
    let [a, b] = [&one, &two].map(|dir| summary(dir.path()));
    assert_eq!((&a["seed"], &b["seed"]), (&1.into(), &2.into()));
    assert_eq!(targets(&a), targets(&b));
}

pub fn json_prints_the_summary_alone() {
    let dir = tempdir().unwrap();
    let ran = run(&shipped("car.yaml"), dir.path(), &["--json"]).code(0);
    assert_eq!(ran.json(), summary(dir.path()));
    assert_eq!(ran.err, "");
}

pub fn its_snapshots_make_a_policy_decide_as_it_did() {
    let dir = tempdir().unwrap();
    run(&shipped("car.yaml"), dir.path(), &[]).code(0);
    let snapshots = dir.path().join("snapshots.jsonl");
    let decided = godwit(["policy", "decide", "--policy", "threshold", snapshots.to_str().unwrap()]).code(0);
    let decisions = decided.json_lines();
    let text = fs::read_to_string(&snapshots).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), decisions.len());

    // Every migration was decided upon one of these, in these words; the first move after each is made.
    let summary = summary(dir.path());
    for migration in summary["migrations"].as_array().unwrap() {
        let at = lines.iter().position(|line| line["at_s"] == migration["start_s"]).expect("a snapshot of its instant");
        assert_eq!(lines[at]["workloads"][0]["node"], migration["from"]);
        let decision = &decisions[at];
        assert_eq!(decision["action"], "move");
        assert_eq!((&decision["to"], &decision["reason"]), (&migration["to"], &migration["reason"]));
    }
    let asked_to_stay = decisions.iter().filter(|decision| decision["action"] == "stay").count();
    assert!(asked_to_stay > decisions.len() / 2, "{asked_to_stay} of {}", decisions.len());
}

pub fn a_policy_and_its_parameters_can_be_chosen() {
    let dir = tempdir().unwrap();
    run(&shipped("car.yaml"), dir.path(), &["--policy", "never"]).code(0);
    let never = summary(dir.path());
    assert_eq!((&never["policy"], targets(&never).len()), (&"never".into(), 0));
    run(&shipped("car.yaml"), dir.path(), &["--set", "rtt_average_below_ms=20", "--speed", "8"]).code(0);
    let eager = summary(dir.path());
    assert!(eager["migrations"][0]["reason"].as_str().unwrap().contains("bad from 20 ms"), "{eager:#}");
    assert_eq!(eager["speed"], 8.0);
}

pub fn a_scenario_comes_from_standard_input_too() {
    let dir = tempdir().unwrap();
    let text = fs::read_to_string(shipped("car.yaml")).unwrap();
    let args = ["run", "-", "--world", "sim", "--json"];
    let ran = Call::new(args).stdin(text).dir(dir.path()).run().code(0);
    assert_eq!(ran.json()["scenario"], "car");
    // Where nothing else is said the results are found by the scenario's name.
    assert_eq!(ran.json(), summary(&dir.path().join("out/car-sim")));
}

pub fn all_shipped_scenarios_run() {
    let dir = tempdir().unwrap();
    for (name, moves) in [("load.yaml", 1), ("car-and-load.yaml", 3)] {
        let out = dir.path().join(name);
        run(&shipped(name), &out, &[]).code(0);
        let summary = summary(&out);
        assert!(targets(&summary).len() >= moves, "{name}: {summary:#}");
    }
}
