//! The loop, one behaviour a test.

use std::time::Duration;

use godwit_control::{ControlConfig, Controller, Event, Order, Output, Verdict};
use godwit_model::{Load, NodeName, Outcome, Rtt, Time, UserName, WorkloadKind, WorkloadName};
use godwit_policy::{Nearest, Threshold};

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn video() -> WorkloadName {
    WorkloadName::new("video").unwrap()
}

fn at(secs: f64) -> Time {
    Time::from_secs(secs)
}

/// `video` on `a`, serving `car`; nodes `a` and `b` are idle.
fn controller(config: ControlConfig) -> Controller {
    let mut controller = Controller::new(config, Box::new(Threshold::default()));
    for name in ["a", "b"] {
        controller.handle(Time::ZERO, Event::NodeReady { node: node(name), ready: true });
    }
    let users = vec![UserName::new("car").unwrap()];
    let event = Event::WorkloadAt { workload: video(), kind: WorkloadKind::Container, node: node("a"), users };
    controller.handle(Time::ZERO, event);
    controller
}

fn measure(controller: &mut Controller, now: Time, to_a: f64, to_b: f64) {
    for (name, ms) in [("a", to_a), ("b", to_b)] {
        let user = UserName::new("car").unwrap();
        controller.handle(now, Event::RttMeasured { user, node: node(name), rtt: Rtt::from_ms(ms) });
        controller.handle(now, Event::LoadMeasured { node: node(name), load: Some(Load::IDLE) });
    }
}

/// The round at that instant: what it said of `video`, and the order, if one came.
fn round(controller: &mut Controller, now: Time) -> (String, Option<Order>) {
    let mut said = String::new();
    let mut ordered = None;
    for output in controller.poll(now) {
        match output {
            Output::Decided(decided) => {
                let (decision, verdict) = &decided.decisions[0];
                said = match verdict {
                    Verdict::Stay => decision.rule.clone(),
                    verdict => verdict.to_string(),
                };
            }
            Output::Migrate(order) => ordered = Some(order),
        }
    }
    (said, ordered)
}

#[test]
fn a_workload_rests_after_a_migration_and_then_moves_again() {
    let mut controller = controller(ControlConfig::default());
    measure(&mut controller, at(1.0), 30.0, 5.0);
    let order = round(&mut controller, at(1.0)).1.unwrap();
    assert_eq!(order.rule, "rtt-bad-nearest-good");
    measure(&mut controller, at(2.0), 30.0, 5.0);
    assert_eq!(round(&mut controller, at(2.0)).0, "not now: migration 1 of it is in flight");
    controller.handle(at(2.5), Event::MigrationEnded { id: order.id, outcome: Outcome::Done });
    measure(&mut controller, at(30.0), 5.0, 30.0);
    assert_eq!(round(&mut controller, at(30.0)).0, "not now: it rests for another 7.5 s after its last migration");
    measure(&mut controller, at(37.0), 5.0, 30.0);
    assert_eq!(round(&mut controller, at(37.0)).1, None);
    measure(&mut controller, at(38.0), 5.0, 30.0);
    let order = round(&mut controller, at(38.0)).1.unwrap();
    assert_eq!((order.from, order.to), (node("b"), node("a")));
}

#[test]
fn a_migration_that_is_rolled_back_again_and_again_is_tried_ever_less_often() {
    let mut controller = controller(ControlConfig::default());
    let mut tried = Vec::new();
    let mut now = at(1.0);
    while now < at(400.0) {
        measure(&mut controller, now, 30.0, 5.0);
        if let Some(order) = round(&mut controller, now).1 {
            tried.push(now.secs());
            controller.handle(now, Event::MigrationEnded { id: order.id, outcome: Outcome::RolledBack });
        }
        now = controller.next_poll();
    }
    assert_eq!(tried, [1.0, 36.0, 106.0, 246.0]);
    measure(&mut controller, now, 30.0, 5.0);
    let (said, _) = round(&mut controller, now);
    assert_eq!(said, "not now: it rests for another 126.0 s: 4 migrations of it in a row were rolled back");
}

#[test]
fn a_workload_that_was_lost_is_not_moved_until_it_is_seen_again() {
    let mut controller = controller(ControlConfig { cooldown: Duration::ZERO, ..ControlConfig::default() });
    measure(&mut controller, at(1.0), 30.0, 5.0);
    let order = round(&mut controller, at(1.0)).1.unwrap();
    controller.handle(at(1.0), Event::MigrationEnded { id: order.id, outcome: Outcome::Lost });
    measure(&mut controller, at(2.0), 30.0, 5.0);
    let (said, ordered) = round(&mut controller, at(2.0));
    assert_eq!((said.as_str(), ordered), ("not now: migration 1 lost it, and it has not been seen since", None));
    let users = vec![UserName::new("car").unwrap()];
    let event = Event::WorkloadAt { workload: video(), kind: WorkloadKind::Container, node: node("a"), users };
    controller.handle(at(2.5), event);
    measure(&mut controller, at(3.0), 30.0, 5.0);
    assert!(round(&mut controller, at(3.0)).1.is_some());
}

#[test]
fn old_figures_are_left_out_and_counted() {
    let mut controller = controller(ControlConfig::default());
    measure(&mut controller, at(1.0), 30.0, 5.0);
    assert_eq!(round(&mut controller, at(7.0)).0, "stay-rtt-unknown");
    assert_eq!(controller.counters().stale_figures, 4);
    let user = UserName::new("car").unwrap();
    measure(&mut controller, at(8.0), 30.0, 5.0);
    controller.handle(at(8.0), Event::RttMeasured { user, node: node("a"), rtt: None });
    assert_eq!(round(&mut controller, at(8.0)).0, "stay-rtt-unknown", "what no longer answers has no figure");
    assert_eq!(controller.counters().stale_figures, 4);
}

#[test]
fn rounds_stay_on_their_grid_and_missed_ones_are_not_made_up_for() {
    let mut controller = controller(ControlConfig::default());
    assert_eq!(controller.next_poll(), at(1.0));
    assert!(controller.poll(at(0.999)).is_empty());
    assert_eq!(controller.poll(at(3.7)).len(), 1);
    assert_eq!(controller.next_poll(), at(4.0));
    assert!(controller.poll(at(3.8)).is_empty());
    assert_eq!(controller.counters().rounds, 1);
}

#[test]
fn a_person_may_move_a_workload_that_rests_but_not_one_that_moves() {
    let mut controller = controller(ControlConfig::default());
    let order = controller.request(at(0.0), &video(), Some(&node("b"))).unwrap();
    assert_eq!((order.rule.as_str(), order.to), (Order::MANUAL, node("b")));
    let refused = controller.request(at(0.1), &video(), Some(&node("b"))).unwrap_err();
    assert_eq!(refused.to_string(), "video cannot be moved now");
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert_eq!(why, "migration 1 of it is in flight");
    controller.handle(at(0.2), Event::MigrationEnded { id: order.id, outcome: Outcome::Done });
    assert!(controller.request(at(0.3), &video(), Some(&node("a"))).is_ok());
    assert_eq!(controller.counters().admitted_manual, 2);
    assert_eq!(controller.counters().refused["in-flight"], 1);
}

#[test]
fn a_person_may_leave_the_choice_of_the_node_to_the_policy() {
    let mut controller = controller(ControlConfig::default());
    measure(&mut controller, at(1.0), 5.0, 30.0);
    let stay = controller.request(at(1.0), &video(), None).unwrap_err().to_string();
    assert!(stay.starts_with("policy threshold sees no better place for video: rtt to a is 5.0 ms"), "{stay}");
    measure(&mut controller, at(1.5), 30.0, 5.0);
    let order = controller.request(at(1.5), &video(), None).unwrap();
    assert_eq!(order.to, node("b"));
    assert!(order.reason.starts_with("asked for by hand: rtt to a is 30.0 ms"), "{}", order.reason);
}

#[test]
fn a_senseless_request_is_told_what_there_is() {
    let mut controller = controller(ControlConfig::default());
    let mut ask = |workload: &str, to: &str| {
        controller.request(at(0.0), &WorkloadName::new(workload).unwrap(), Some(&node(to))).unwrap_err().to_string()
    };
    assert_eq!(ask("audio", "b"), "there is no workload audio; there is only video");
    assert_eq!(ask("video", "c"), "there is no node c; there are a, b");
    assert_eq!(ask("video", "a"), "video is on a already");
    controller.handle(at(0.0), Event::NodeReady { node: node("b"), ready: false });
    let refused = controller.request(at(0.0), &video(), Some(&node("b"))).unwrap_err();
    assert_eq!(std::error::Error::source(&refused).unwrap().to_string(), "node b is not ready");
}

#[test]
fn budgets_let_the_second_workload_wait_for_the_first() {
    let mut controller = Controller::new(ControlConfig::default(), Box::new(Nearest));
    for name in ["a", "b"] {
        controller.handle(Time::ZERO, Event::NodeReady { node: node(name), ready: true });
    }
    for name in ["one", "two"] {
        let users = vec![UserName::new("car").unwrap()];
        let workload = WorkloadName::new(name).unwrap();
        let event = Event::WorkloadAt { workload, kind: WorkloadKind::Container, node: node("a"), users };
        controller.handle(Time::ZERO, event);
    }
    measure(&mut controller, at(1.0), 30.0, 5.0);
    let outputs = controller.poll(at(1.0));
    let [Output::Decided(decided), Output::Migrate(order)] = outputs.as_slice() else { panic!("{outputs:?}") };
    let said: Vec<_> = decided.decisions.iter().map(|(_, verdict)| verdict.to_string()).collect();
    assert_eq!(said, ["admitted as migration 1", "not now: node a sends 1 already, as many as it may"]);
    controller.handle(at(1.5), Event::MigrationEnded { id: order.id, outcome: Outcome::Done });
    let outputs = controller.poll(at(2.0));
    let Some(Output::Migrate(order)) = outputs.last() else { panic!("{outputs:?}") };
    assert_eq!(order.workload.as_str(), "two");
}

#[test]
fn what_is_said_about_unknown_nodes_is_counted_and_changes_nothing() {
    let mut controller = controller(ControlConfig::default());
    let before = controller.snapshot(at(1.0));
    controller.handle(at(1.0), Event::LoadMeasured { node: node("c"), load: Some(Load::IDLE) });
    let user = UserName::new("car").unwrap();
    controller.handle(at(1.0), Event::RttMeasured { user, node: node("c"), rtt: Rtt::from_ms(1.0) });
    assert_eq!(controller.snapshot(at(1.0)), before);
    assert_eq!(controller.counters().unknown, 2);
}

#[test]
fn time_does_not_run_backwards() {
    let mut controller = controller(ControlConfig::default());
    measure(&mut controller, at(10.0), 5.0, 30.0);
    measure(&mut controller, at(2.0), 5.0, 30.0);
    assert_eq!(controller.snapshot(at(1.0)).at, at(10.0));
    assert_eq!(controller.snapshot(at(15.0)).users[0].rtt_ms.len(), 2);
}
