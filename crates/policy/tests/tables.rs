//! `threshold` against the reference's two tables of bands, rule by rule, and what it does where they had holes.

use godwit_model::{Decision, Snapshot};
use godwit_policy::{Policy, Threshold};
use serde_json::{Map, Value, json};

/// A node: its name, RTT from the user and load; `None` where there is no figure.
type Node = (&'static str, Option<f64>, Option<f64>);

fn decide(kind: &str, nodes: &[Node]) -> Decision {
    let states: Vec<Value> = nodes.iter().map(|(name, _, load)| json!({"name": name, "load": load})).collect();
    let rtt: Map<String, Value> =
        nodes.iter().filter_map(|(name, rtt, _)| Some((name.to_string(), json!((*rtt)?)))).collect();
    let snapshot = json!({
        "nodes": states,
        "users": [{"name": "car", "rtt_ms": rtt}],
        "workloads": [{"name": "video", "kind": kind, "node": "here", "users": ["car"]}],
    });
    decide_json(&snapshot.to_string())
}

fn decide_json(snapshot: &str) -> Decision {
    let snapshot: Snapshot = serde_json::from_str(snapshot).unwrap();
    Threshold::default().decide(&snapshot).remove(0)
}

fn outcome(decision: &Decision) -> (Option<&str>, &str) {
    (decision.target().map(|to| to.as_str()), &decision.rule)
}

/// Figures in the middle of a band, on its edges, and where the reference had no rule for them.
const RTT: [(&str, [f64; 4]); 3] =
    [("good", [0.0, 2.9, 8.0, 14.9]), ("average", [15.0, 17.9, 18.0, 25.9]), ("bad", [26.0, 40.0, 60.0, 500.0])];
const LOAD: [(&str, [f64; 3]); 3] =
    [("healthy", [1.0, 1.4, 2.9]), ("average", [3.0, 5.0, 7.9]), ("bad", [8.0, 9.0, 10.0])];

#[test]
fn containers_with_one_other_node() {
    // Rows: rtt and load here. Columns: rtt and load there, where bad load is less than a bad load here.
    // N nearest, L least loaded, . stay
    let table = [
        //                          good rtt  average   bad
        //                          h a b     h a b     h a b   load there
        (("good", "healthy"), "     . . .     . . .     . . ."),
        (("good", "average"), "     . . .     . . .     . . ."),
        (("good", "bad"), "         N N L     N N L     . . ."),
        (("average", "healthy"), "  . . .     . . .     . . ."),
        (("average", "average"), "  . . .     . . .     . . ."),
        (("average", "bad"), "      N N L     N N L     . . ."),
        (("bad", "healthy"), "      N N .     N N .     . . ."),
        (("bad", "average"), "      N N .     N N .     . . ."),
        (("bad", "bad"), "          N N L     N N L     . . ."),
    ];
    let rtts = |band: &str| RTT.iter().find(|(name, _)| *name == band).unwrap().1;
    let loads = |band: &str| LOAD.iter().find(|(name, _)| *name == band).unwrap().1;
    for ((rtt_here, load_here), row) in table {
        let there = RTT.iter().flat_map(|rtt| LOAD.iter().map(move |load| (rtt.0, load.0)));
        for ((rtt_there, load_there), cell) in there.zip(row.split_whitespace()) {
            for (rtt, load, to_rtt, to_load) in
                every(rtts(rtt_here), loads(load_here), rtts(rtt_there), loads(load_there))
            {
                // 100 and more were outside the reference's bands.
                let load = if load_here == "bad" { load * 50.0 } else { load };
                let decision =
                    decide("container", &[("here", Some(rtt), Some(load)), ("there", Some(to_rtt), Some(to_load))]);
                let cause = if rtt_here == "bad" { "rtt-bad" } else { "load-bad" };
                let wanted = match cell {
                    "N" => (Some("there"), format!("{cause}-nearest-{rtt_there}")),
                    "L" => (Some("there"), format!("{cause}-least-loaded-{rtt_there}")),
                    _ if rtt_here == "bad" || load_here == "bad" => (None, format!("{cause}-nowhere-better")),
                    _ => (None, format!("stay-rtt-{rtt_here}")),
                };
                assert_eq!(outcome(&decision), (wanted.0, wanted.1.as_str()), "{decision:?}");
            }
        }
    }
}

fn every<const A: usize, const B: usize>(
    a: [f64; A],
    b: [f64; B],
    c: [f64; A],
    d: [f64; B],
) -> impl Iterator<Item = (f64, f64, f64, f64)> {
    a.into_iter().flat_map(move |a| {
        b.into_iter().flat_map(move |b| c.into_iter().flat_map(move |c| d.into_iter().map(move |d| (a, b, c, d))))
    })
}

#[test]
fn containers_prefer_the_reference_s_order() {
    let here = ("here", Some(30.0), Some(9.5));
    let all = [
        // Each is the choice when those above it are not there.
        (("good-near", Some(4.0), Some(7.0)), "rtt-bad-nearest-good"),
        (("good-far", Some(14.0), Some(1.0)), "rtt-bad-nearest-good"),
        (("average-near", Some(16.0), Some(6.0)), "rtt-bad-nearest-average"),
        (("average-far", Some(25.0), Some(1.0)), "rtt-bad-nearest-average"),
        (("good-loaded-less", Some(14.5), Some(8.1)), "rtt-bad-least-loaded-good"),
        (("good-loaded", Some(1.0), Some(9.0)), "rtt-bad-least-loaded-good"),
        (("average-loaded-less", Some(25.0), Some(8.2)), "rtt-bad-least-loaded-average"),
        (("average-loaded", Some(15.0), Some(9.1)), "rtt-bad-least-loaded-average"),
        // Never: as loaded as here, or too far.
        (("good-as-loaded", Some(1.0), Some(9.5)), "rtt-bad-nowhere-better"),
        (("bad", Some(26.0), Some(1.0)), "rtt-bad-nowhere-better"),
    ];
    for first in 0..all.len() {
        let nodes: Vec<Node> = all[first..].iter().map(|(node, _)| *node).chain([here]).collect();
        let ((name, ..), rule) = all[first];
        let target = (!rule.ends_with("nowhere-better")).then_some(name);
        assert_eq!(outcome(&decide("container", &nodes)), (target, rule));
    }
}

#[test]
fn vms_go_by_load_alone() {
    let far = Some(500.0);
    for (load, rule) in
        [(1.0, "stay-load-healthy"), (2.9, "stay-load-healthy"), (3.0, "stay-load-average"), (7.9, "stay-load-average")]
    {
        let decision = decide("vm", &[("here", far, Some(load)), ("there", Some(1.0), Some(1.0))]);
        assert_eq!(outcome(&decision), (None, rule));
    }
    let here = ("here", Some(1.0), Some(200.0));
    let all = [
        (("healthy-less", far, Some(1.0)), "load-bad-to-healthy"),
        (("healthy", Some(1.0), Some(2.0)), "load-bad-to-healthy"),
        (("average-less", far, Some(3.0)), "load-bad-to-average"),
        (("average", Some(1.0), Some(7.9)), "load-bad-to-average"),
        (("bad-less", far, Some(8.0)), "load-bad-to-less-loaded"),
        (("bad", None, Some(199.0)), "load-bad-to-less-loaded"),
        (("as-bad", Some(1.0), Some(200.0)), "load-bad-nowhere-better"),
    ];
    for first in 0..all.len() {
        let nodes: Vec<Node> = all[first..].iter().map(|(node, _)| *node).chain([here]).collect();
        let ((name, ..), rule) = all[first];
        let target = (!rule.ends_with("nowhere-better")).then_some(name);
        assert_eq!(outcome(&decide("vm", &nodes)), (target, rule));
    }
}

#[test]
fn ties_go_to_the_lower_rtt_then_the_lower_load_then_the_name() {
    let here = ("here", Some(30.0), Some(1.0));
    let to = |nodes: &[Node]| decide("container", nodes).target().unwrap().to_string();
    assert_eq!(to(&[here, ("a", Some(5.0), Some(1.0)), ("b", Some(4.9), Some(2.0))]), "b");
    assert_eq!(to(&[here, ("a", Some(5.0), Some(1.5)), ("b", Some(5.0), Some(1.4))]), "b");
    assert_eq!(to(&[here, ("b", Some(5.0), Some(1.5)), ("a", Some(5.0), Some(1.5))]), "a");
    let here = ("here", Some(5.0), Some(9.0));
    let vm = |nodes: &[Node]| decide("vm", nodes).target().unwrap().to_string();
    assert_eq!(vm(&[here, ("a", Some(5.0), Some(1.0)), ("b", Some(4.9), Some(1.0))]), "b");
    assert_eq!(vm(&[here, ("a", None, Some(1.0)), ("b", Some(50.0), Some(1.0))]), "b");
}

#[test]
fn a_missing_figure_is_no_reason_to_move_and_no_place_to_move_to() {
    let other = ("there", Some(1.0), Some(1.0));
    let (rtt, load) = (Some(5.0), Some(1.0));
    for (kind, here, rule) in [
        ("container", ("here", None, load), "stay-rtt-unknown"),
        ("container", ("here", None, None), "stay-rtt-unknown"),
        ("container", ("here", rtt, None), "stay-load-unknown"),
        ("vm", ("here", None, None), "stay-load-unknown"),
    ] {
        assert_eq!(outcome(&decide(kind, &[here, other])), (None, rule));
    }
    // What is known to be bad is reason enough.
    let known_bad = [("here", None, Some(9.0)), other];
    assert_eq!(outcome(&decide("container", &known_bad)), (Some("there"), "load-bad-nearest-good"));
    let known_far = [("here", Some(30.0), None), other];
    assert_eq!(outcome(&decide("container", &known_far)), (Some("there"), "rtt-bad-nearest-good"));
    // Without the load here, no load is less.
    let loaded = [("here", Some(30.0), None), ("there", Some(1.0), Some(9.0))];
    assert_eq!(outcome(&decide("container", &loaded)), (None, "rtt-bad-nowhere-better"));
    for blind in [("there", None, load), ("there", rtt, None)] {
        assert_eq!(
            outcome(&decide("container", &[("here", Some(30.0), load), blind])),
            (None, "rtt-bad-nowhere-better")
        );
    }
}

#[test]
fn the_worst_off_user_counts() {
    let world = |to_bus: f64| {
        format!(
            r#"{{"nodes":[{{"name":"a","load":1}},{{"name":"b","load":1}}],
            "users":[{{"name":"car","rtt_ms":{{"a":3,"b":5}}}},{{"name":"bus","rtt_ms":{{"a":40,"b":{to_bus}}}}}],
            "workloads":[{{"name":"w","node":"a","users":["car","bus"]}}]}}"#
        )
    };
    let decision = decide_json(&world(14.0));
    assert_eq!(outcome(&decision), (Some("b"), "rtt-bad-nearest-good"));
    assert!(
        decision.reason.starts_with("rtt to a for bus, the worst-off of 2 users, is 40.0 ms"),
        "{}",
        decision.reason
    );
    assert_eq!(outcome(&decide_json(&world(20.0))), (Some("b"), "rtt-bad-nearest-average"));
    assert_eq!(outcome(&decide_json(&world(27.0))), (None, "rtt-bad-nowhere-better"));
}

#[test]
fn odd_snapshots_have_an_answer() {
    for (snapshot, wanted) in [
        // It runs where nobody knows of.
        (
            r#"{"nodes":[{"name":"b","load":1}],"users":[{"name":"u","rtt_ms":{"a":50,"b":1}}],
            "workloads":[{"name":"w","node":"a","users":["u"]}]}"#,
            (None, "stay-node-unknown"),
        ),
        (r#"{"nodes":[],"workloads":[{"name":"w","node":"a"}]}"#, (None, "stay-node-unknown")),
        // A user without figures may be the worst off.
        (
            r#"{"nodes":[{"name":"a","load":1},{"name":"b","load":1}],"users":[{"name":"u","rtt_ms":{"a":50,"b":1}}],
            "workloads":[{"name":"w","node":"a","users":["u","ghost"]}]}"#,
            (None, "stay-rtt-unknown"),
        ),
        // What serves nobody is placed by load alone.
        (
            r#"{"nodes":[{"name":"a","load":9},{"name":"b","load":1}],"workloads":[{"name":"w","node":"a"}]}"#,
            (Some("b"), "load-bad-to-healthy"),
        ),
        // A node that takes nothing is no target, but may keep what it has.
        (
            r#"{"nodes":[{"name":"a","load":9},{"name":"b","load":1,"ready":false}],"workloads":[{"name":"w","node":"a"}]}"#,
            (None, "load-bad-nowhere-better"),
        ),
        (
            r#"{"nodes":[{"name":"a","load":1,"ready":false},{"name":"b","load":1}],"workloads":[{"name":"w","node":"a"}]}"#,
            (None, "stay-load-healthy"),
        ),
        // Listed twice: the worst counts.
        (
            r#"{"nodes":[{"name":"a","load":1},{"name":"a","load":9},{"name":"b","load":1}],
            "workloads":[{"name":"w","node":"a"}]}"#,
            (Some("b"), "load-bad-to-healthy"),
        ),
    ] {
        let decision = decide_json(snapshot);
        assert_eq!(outcome(&decision), wanted, "{}", decision.reason);
    }
}

#[test]
fn reasons_are_for_people() {
    let (near, far) = (Some(5.0), Some(27.2));
    for (kind, nodes, reason) in [
        (
            "container",
            vec![("here", near, Some(1.0))],
            "rtt to here is 5.0 ms (good below 15 ms), load of here is 1.00 (healthy below 3)",
        ),
        (
            "container",
            vec![("here", near, Some(9.0)), ("there", Some(20.0), Some(1.0))],
            "load of here is 9.00 (bad from 8), rtt to here is 5.0 ms (good below 15 ms): there is the nearest with \
             average rtt (20.0 ms) and healthy load (1.00); its rtt is in a worse band (average with 20.0 ms, here good)",
        ),
        (
            "container",
            vec![("here", far, Some(1.0)), ("there", near, Some(4.0))],
            "rtt to here is 27.2 ms (bad from 26 ms): there is the nearest with good rtt (5.0 ms) and average load \
             (4.00); its load is in a worse band (average with 4.00, here healthy)",
        ),
        (
            "container",
            vec![
                ("here", far, Some(1.0)),
                ("a", far, Some(1.0)),
                ("b", None, Some(1.0)),
                ("c", near, Some(9.0)),
                ("d", near, None),
            ],
            "rtt to here is 27.2 ms (bad from 26 ms), but no other node is better: a has bad rtt (27.2 ms), b has no \
             fresh rtt, c has bad load (9.00), and 1 more",
        ),
        (
            "container",
            vec![("here", far, None)],
            "rtt to here is 27.2 ms (bad from 26 ms), but no other node is better: there is none",
        ),
        (
            "vm",
            vec![("here", near, Some(9.0)), ("there", far, Some(2.0))],
            "load of here is 9.00 (bad from 8): there is the least loaded, with healthy load (2.00); a vm is placed by \
             load alone; its rtt is in a worse band (bad with 27.2 ms, here good)",
        ),
        (
            "container",
            vec![("here", None, Some(1.0))],
            "there is no fresh rtt to here for car, which is no reason to move; load of here is 1.00 (healthy below 3)",
        ),
    ] {
        assert_eq!(decide(kind, &nodes).reason, reason);
    }
}
