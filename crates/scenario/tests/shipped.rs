//! The scenarios that come with Godwit say what the reference's did.

#![allow(clippy::disallowed_methods, reason = "the crate is pure; this test reads the files that are shipped")]

use godwit_model::{NodeName, Time, WorkloadKind};
use godwit_scenario::Scenario;

fn shipped(name: &str) -> Scenario {
    let path = format!("{}/../../scenarios/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    Scenario::parse(&text, &path).unwrap_or_else(|error| panic!("{error}"))
}

fn rtts(scenario: &Scenario, at: f64) -> Vec<f64> {
    let at = Time::from_secs(at);
    scenario.nodes.iter().map(|node| scenario.users[0].rtt[&node.name].at(at).ms()).collect()
}

#[test]
fn the_car_drives_out_and_back() {
    let car = shipped("car");
    assert_eq!(car.duration.as_secs(), 240);
    for (at, expected) in [
        (0.0, [0.0, 32.0, 64.0]),
        (6.0, [3.0, 29.0, 61.0]),
        (60.0, [30.0, 2.0, 34.0]),
        (120.0, [60.0, 32.0, 4.0]),
        (180.0, [30.0, 2.0, 34.0]),
        (240.0, [0.0, 32.0, 64.0]),
    ] {
        assert_eq!(rtts(&car, at), expected, "at {at} s");
    }
    let video = car.workload("video").unwrap();
    assert_eq!((video.kind, video.node.as_str(), video.port), (WorkloadKind::Container, "edge1", 5555));
    assert_eq!(car.stress_changes().count(), 0);
}

#[test]
fn the_load_comes_in_two_halves() {
    let load = shipped("load");
    assert_eq!(load.duration.as_secs(), 240);
    assert_eq!(rtts(&load, 200.0), [12.0, 5.0, 14.0]);
    let stressers = |node: &str, at: f64| -> Vec<(u32, f64)> {
        let node = NodeName::new(node).unwrap();
        load.stress_at(&node, Time::from_secs(at)).map(|s| (s.stressers, s.memory)).collect()
    };
    assert_eq!([stressers("edge1", 0.0), stressers("edge1", 239.9)], [[(2, 0.3)], [(2, 0.3)]]);
    assert_eq!([stressers("edge2", 119.9), stressers("edge2", 120.0)], [[(2, 0.1)], [(3, 0.6)]]);
    assert_eq!([stressers("edge3", 119.9), stressers("edge3", 120.0)], [vec![], vec![(3, 0.1)]]);
    assert_eq!(stressers("edge2", 240.0), []);
    assert_eq!(load.stress_changes().map(Time::secs).collect::<Vec<_>>(), [0.0, 120.0, 240.0]);
    let (cpu, memory) = load.stress_use(&NodeName::new("edge2").unwrap(), Time::from_secs(130.0));
    assert!((cpu - 0.81).abs() < 1e-9 && (memory - 0.6).abs() < 1e-9);
}

#[test]
fn both_at_once_are_both() {
    let (car, load, both) = (shipped("car"), shipped("load"), shipped("car-and-load"));
    assert_eq!(both.users, car.users);
    assert_eq!(both.stress, load.stress);
    assert_eq!(both.workloads, car.workloads);
}
