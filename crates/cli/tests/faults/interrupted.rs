//! ^C, SIGTERM, SIGHUP.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::e2e::call::Started;
use crate::e2e::{Bed, Call, left, shipped, until};
use crate::hold::Standing;

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The service has to move at once: its user is far from it from the beginning.
fn restless() -> String {
    let car = fs::read_to_string(shipped("car.yaml")).unwrap();
    let car = car.replace("start: 0ms", "start: 60ms").replace("start: 32ms", "start: 3ms");
    car.replace("memory: 16MiB", "memory: 128MiB").replace("by: -3ms } # comes near", "by: 0ms }")
}

fn run(bed: &Bed) -> Started {
    run_by(bed, "auto")
}

fn run_by(bed: &Bed, strategy: &str) -> Started {
    let file = bed.file("scenario.yaml", &restless());
    let out = bed.path("out");
    let fixed = ["run", file.to_str().unwrap(), "--world", "testbed", "--out", out.to_str().unwrap()];
    Call::new([&fixed[..], &["--name", bed.name(), "--strategy", strategy]].concat()).start()
}

fn summary(bed: &Bed) -> Value {
    serde_json::from_str(&fs::read_to_string(bed.path("out/summary.json")).unwrap()).unwrap()
}

pub fn while_nodes_come_up() {
    let bed = Bed::none();
    for (signal, moment) in SIGNALS.into_iter().zip(["namespaces and links", "node edge2", "workload video"]) {
        let mut run = run(&bed);
        run.until_it_says(moment);
        run.signal(signal);
        let ran = run.end().code(130).says("interrupted, cleaning up");
        assert!(!ran.err.contains("panicked"), "{ran}");
        left::assert_nothing(bed.name());
        // It may have stood by then.
        let stood = ran.err.contains("interrupted after");
        assert_eq!(bed.path("out").exists(), stood, "there is nothing to report of: {ran}");
    }
}

pub fn in_the_middle_of_a_migration() {
    for (signal, strategy) in SIGNALS.into_iter().zip(["auto", "stop-copy", "pre-copy"]) {
        let bed = Bed::none();
        let mut run = run_by(&bed, strategy);
        run.until_it_says("move video edge1 -> edge2");
        run.signal(signal);
        let ran = run.end().code(130).says("interrupted after").says("the report covers these");
        left::assert_nothing(bed.name());
        let summary = summary(&bed);
        assert!(summary["duration_s"].as_f64().unwrap() < 200.0, "{ran}");
        let migrations = summary["migrations"].as_array().unwrap();
        assert_eq!(migrations.len(), 1, "{summary:#}");
        assert!(["done", "rolled-back"].map(Value::from).contains(&migrations[0]["outcome"]), "{summary:#}");
        if migrations[0]["outcome"] == "rolled-back" {
            assert!(migrations[0]["error"].as_str().unwrap().contains("cancelled"), "{summary:#}");
        }
        let client = &summary["clients"][0];
        assert_eq!((&client["broken"], &client["bytes_lost"]), (&0.into(), &0.into()), "{client:#}");
        assert!(bed.path("out/report.html").exists());
    }
}

pub fn again_and_again() {
    let bed = Bed::none();
    let mut run = run(&bed);
    run.until_it_says("move video edge1 -> edge2");
    let mut sent = 0;
    until("it ends", || {
        if !run.has_ended() {
            run.signal(SIGNALS[sent % 3]);
            sent += 1;
        }
        run.has_ended().then_some(())
    });
    let ran = run.end().code(130);
    assert_eq!(ran.err.matches("cleaning up").count(), 1, "{ran}");
    left::assert_nothing(bed.name());
    assert!(bed.path("out/report.html").exists());
}

pub fn a_testbed_that_comes_up_in_the_background() {
    let bed = Bed::none();
    for (signal, moment) in SIGNALS.into_iter().zip(["lock", "app", "nodes/edge2"]) {
        let mut up = Call::new(["testbed", "up", "--name", bed.name()]).start();
        let seen = left::run_dir(bed.name()).join(moment);
        until("it begins to come up", || (seen.exists() || up.has_ended()).then_some(()));
        up.signal(signal);
        let ran = up.end();
        // It may have been up a moment before; then it stays up, and says so.
        if ran.status() == Some(0) {
            assert!(ran.out.contains("is up"), "{ran}");
            bed.call(&["testbed", "down"]).code(0);
        } else {
            let ran = ran.code(130);
            assert_eq!(ran.out, "");
        }
        left::assert_nothing(bed.name());
    }
}

pub fn by_down_in_the_middle_of_a_migration() {
    let bed = crate::hold::bed();
    let standing = Standing::new(&bed, "stop-copy");
    assert_eq!(bed.ask(&json!({"ask": "down"})).end()["reply"], "ending");
    let down = Call::new(["testbed", "down", "--name", bed.name()]).start();
    let record = standing.go_on();
    assert!(["done", "rolled-back"].map(Value::from).contains(&record["outcome"]), "{record:#}");
    down.end().code(0).prints("is gone");
    left::assert_nothing(bed.name());
}

/// ^C is how it is ended.
pub fn a_testbed_in_the_foreground() {
    let bed = Bed::none();
    let up = Call::new(["testbed", "up", "--foreground", "--name", bed.name()]).start();
    until("it is up", || (bed.call(&["status"]).status() == Some(0)).then_some(()));
    bed.migrate("video", "edge2");
    assert_eq!(bed.until_it_answers(), 0);
    up.signal(Signal::SIGINT);
    up.end().code(0);
    left::assert_nothing(bed.name());
}

pub fn the_demo() {
    let bed = Bed::none();
    let out = bed.path("out");
    let args = ["demo", "--name", bed.name(), "--out", out.to_str().unwrap()];
    let mut demo = Call::new(args).start();
    demo.until_it_says("node edge2");
    demo.signal(Signal::SIGINT);
    demo.end().code(130);
    left::assert_nothing(bed.name());

    let mut demo = Call::new(args).start();
    // Its first line of figures.
    demo.until_it_says("*edge1 rtt");
    demo.signal(Signal::SIGINT);
    demo.end().code(130).says("interrupted after");
    left::assert_nothing(bed.name());
    assert!(out.join("report.html").exists());
}
