//! `godwit testbed up | status | down`, `godwit status`, `godwit migrate`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::e2e::{Bed, Call, left, until};

pub fn up_status_down() {
    let bed = Bed::none();
    let up = bed.call_up(&[]).code(0);
    let said = format!("testbed {} is up: video on edge1 at 10.", bed.name());
    up.prints(&said).prints(&format!("godwit testbed down --name {}", bed.name()));

    // Figures come in one by one.
    let status = until("every node is measured", || {
        let status = bed.status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["load"].is_number() && node["rtt_ms"]["car"].is_number()).then_some(status)
    });
    assert_eq!((&status["testbed"], &status["scenario"]), (&json!(bed.name()), &json!("car")));
    let names: Vec<_> = status["nodes"].as_array().unwrap().iter().map(|node| &node["name"]).collect();
    assert_eq!(names, ["edge1", "edge2", "edge3"]);
    let rtt = |node: usize| status["nodes"][node]["rtt_ms"]["car"].as_f64().unwrap();
    assert!(rtt(1) >= 32.0 && rtt(2) >= 64.0, "a delay is never shorter than it was set: {status:#}");
    assert_eq!(status["clients"][0]["broken"], 0);
    bed.assert_runs_only_on("video", "edge1");

    let text = bed.call(&["status"]).code(0);
    assert_eq!(text.err, "");
    for part in [bed.name(), "edge1", "edge2", "edge3", "video", "10.", "running", "car"] {
        assert!(text.out.contains(part), "{part}: {text}");
    }
    assert!(status["nodes"].as_array().unwrap().iter().all(|node| node["agent"] == true), "{status:#}");
    let same = bed.call(&["testbed", "status", "--json"]).code(0).json();
    assert_eq!(same["workloads"][0]["service"], status["workloads"][0]["service"]);

    let said = format!("testbed {} is gone", bed.name());
    bed.call(&["testbed", "down"]).code(0).prints(&said);
    left::assert_nothing(bed.name());
    bed.call(&["status"]).fails(2).says("no testbed named");
    bed.call(&["testbed", "down"]).code(0).prints("there is no testbed");
}

pub fn a_second_one_of_the_same_name_is_refused() {
    let bed = Bed::up();
    let down = format!("godwit testbed down --name {}", bed.name());
    bed.call_up(&[]).fails(2).says("runs already").says(&down);
    bed.call_up(&["--foreground"]).fails(2).says("runs already").says(&down);
    let scenario = crate::e2e::shipped("car.yaml");
    let out = bed.path("out");
    let run = ["run", scenario.to_str().unwrap(), "--world", "testbed", "--out", out.to_str().unwrap()];
    bed.call(&run).fails(2).says("runs already").says("or choose another --name");
    assert!(!out.exists());
    assert_eq!(bed.until_it_answers(), 0);
    bed.assert_runs_only_on("video", "edge1");
}

pub fn of_two_that_come_up_at_once_one_is_refused() {
    let bed = Bed::none();
    let up = || Call::new(["testbed", "up", "--name", bed.name()]).start();
    let (one, two) = (up(), up());
    let (one, two) = (one.end(), two.end());
    let (won, lost) = if one.status() == Some(0) { (one, two) } else { (two, one) };
    won.code(0).prints("is up");
    // Its own process is refused; it may see the other's testbed answer before it hears of that.
    lost.fails(2).says("runs already");
    assert_eq!(bed.until_it_answers(), 0);
    bed.assert_runs_only_on("video", "edge1");
}

pub fn requests_that_make_no_sense_are_refused_and_change_nothing() {
    let bed = Bed::up();
    let before = bed.until_it_answers();
    for (args, says) in [
        (["migrate", "video", "edge1"], "video is on edge1 already"),
        (["migrate", "video", "edge9"], "there is no node edge9; there are edge1, edge2, edge3"),
        (["migrate", "radio", "edge2"], "there is no workload radio; there is only video"),
    ] {
        let ran = bed.call(&args).fails(2).says(says);
        assert_eq!(ran.out, "");
        let json = bed.call(&[&args[..], &["--json"]].concat()).fails(2).says(says);
        assert_eq!(json.out, "");
    }
    bed.call(&["migrate", "video", "edge2", "--strategy", "teleport"]).code(2).says("pre-copy, post-copy or stop-copy");
    let other = crate::e2e::godwit(["migrate", "video", "edge2", "--name", "nobody-has-this"]).fails(2);
    other.says("testbed up --name nobody-has-this").says("(running: ").says(bed.name());
    assert_eq!((bed.until_it_answers(), before), (0, 0));
    bed.assert_runs_only_on("video", "edge1");
}

pub fn the_control_socket_is_for_root_and_minds_its_manners() {
    let bed = Bed::up();
    let socket = left::run_dir(bed.name()).join("control.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    for nonsense in [json!({"ask": "explode"}), json!([]), json!("x".repeat(1 << 21))] {
        let reply = bed.ask(&nonsense).end();
        assert_eq!(reply["reply"], "refused", "{reply}");
    }
    // A connection that says nothing keeps nobody from asking.
    let _silent = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert_eq!(bed.ask(&json!({"ask": "status"})).end()["reply"], "status");
    assert_eq!(bed.until_it_answers(), 0);
}
