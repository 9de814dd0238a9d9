//! What the loop guarantees under any schedule of events and any policy, however silly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use godwit_control::{ControlConfig, Controller, Decided, Event, Order, Output, Verdict};
use godwit_model::{
    Action, Decision, Load, MigrationId, NodeName, Outcome, Rtt, Snapshot, Time, UserName, WorkloadKind, WorkloadName,
};
use godwit_policy::Policy;
use proptest::prelude::*;

/// Asks for moves of everything to everywhere, also of and to what does not exist.
struct Silly;

impl Policy for Silly {
    fn name(&self) -> &str {
        "silly"
    }

    fn decide(&self, snapshot: &Snapshot) -> Vec<Decision> {
        let round = snapshot.at.micros() / 1_000;
        (0..8)
            .map(|n| Decision {
                workload: workload(n % 5),
                action: Action::Move { to: node((round + n * 7) % 6) },
                rule: "silly".into(),
                reason: "why not".into(),
            })
            .collect()
    }
}

fn node(n: u64) -> NodeName {
    NodeName::new(format!("edge{n}")).unwrap()
}

fn workload(n: u64) -> WorkloadName {
    WorkloadName::new(format!("w{n}")).unwrap()
}

fn user(n: u64) -> UserName {
    UserName::new(format!("u{n}")).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Poll,
    Ready(u64, bool),
    Rtt(u64, u64, Option<f64>),
    Load(u64, Option<f64>),
    At(u64, u64, u64),
    /// Of the migrations in flight, this one (modulo their number) ends.
    End(usize, Outcome),
    /// One that never was.
    EndUnknown,
    Request(u64, Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop::sample::select(vec![Outcome::Done, Outcome::Done, Outcome::RolledBack, Outcome::Lost]);
    prop_oneof![
        4 => (1u64..3_000).prop_map(Step::Wait),
        4 => Just(Step::Poll),
        1 => (0u64..5, prop::bool::weighted(0.8)).prop_map(|(n, ready)| Step::Ready(n, ready)),
        4 => (0u64..3, 0u64..6, prop::option::weighted(0.9, 0.0..60.0)).prop_map(|(u, n, rtt)| Step::Rtt(u, n, rtt)),
        2 => (0u64..6, prop::option::weighted(0.9, 1.0..12.0)).prop_map(|(n, load)| Step::Load(n, load)),
        1 => (0u64..4, 0u64..5, 0u64..3).prop_map(|(w, n, u)| Step::At(w, n, u)),
        3 => (0usize..8, outcome).prop_map(|(n, outcome)| Step::End(n, outcome)),
        1 => Just(Step::EndUnknown),
        1 => (0u64..5, prop::option::of(0u64..6)).prop_map(|(w, n)| Step::Request(w, n)),
    ]
}

prop_compose! {
    fn config()(
        decide_ms in 1u64..2_000,
        cooldown_ms in 0u64..10_000,
        backoff_ms in 0u64..10_000,
        budgets in (0usize..3, 0usize..3, 0usize..4),
        stale_ms in 1u64..5_000,
    ) -> ControlConfig {
        ControlConfig {
            decide_every: Duration::from_millis(decide_ms),
            cooldown: Duration::from_millis(cooldown_ms),
            backoff: Duration::from_millis(backoff_ms),
            backoff_max: Duration::from_millis(backoff_ms * 4),
            per_node_in: budgets.0,
            per_node_out: budgets.1,
            max_in_flight: budgets.2,
            stale_after: Duration::from_millis(stale_ms),
        }
    }
}

/// What a world sees, kept apart from the controller's own books.
#[derive(Default)]
struct World {
    now: Time,
    ready: BTreeMap<NodeName, bool>,
    placement: BTreeMap<WorkloadName, NodeName>,
    rtt: BTreeMap<(UserName, NodeName), (Time, Option<Rtt>)>,
    load: BTreeMap<NodeName, (Time, Option<Load>)>,
    in_flight: BTreeMap<MigrationId, Order>,
    ended: BTreeMap<WorkloadName, Time>,
    lost: BTreeSet<WorkloadName>,
    ids: BTreeSet<MigrationId>,
}

impl World {
    fn begin(&mut self, order: Order, by_hand: bool, config: &ControlConfig) -> Result<(), TestCaseError> {
        prop_assert!(self.ids.insert(order.id), "a number is used once");
        prop_assert!(
            self.in_flight.values().all(|other| other.workload != order.workload),
            "{order:?}: already moving"
        );
        prop_assert_eq!(self.placement.get(&order.workload), Some(&order.from));
        prop_assert_ne!(&order.from, &order.to);
        prop_assert_eq!(self.ready.get(&order.to), Some(&true));
        prop_assert!(!self.lost.contains(&order.workload));
        if let (Some(ended), false) = (self.ended.get(&order.workload), by_hand) {
            prop_assert!(self.now.since(*ended) >= config.cooldown, "{order:?} at {:?}: ended {ended:?}", self.now);
        }
        prop_assert_eq!(order.rule == Order::MANUAL, by_hand);
        self.in_flight.insert(order.id, order);
        let count = |which: &dyn Fn(&Order) -> bool| self.in_flight.values().filter(|order| which(order)).count();
        prop_assert!(self.in_flight.len() <= config.max_in_flight);
        for node in self.ready.keys() {
            prop_assert!(count(&|order| &order.to == node) <= config.per_node_in);
        }
        // Only orders know where they leave from: the world may have moved the workload meanwhile.
        for order in self.in_flight.values() {
            prop_assert!(count(&|other| other.from == order.from) <= config.per_node_out);
        }
        Ok(())
    }

    fn check_round(&self, decided: &Decided, config: &ControlConfig) -> Result<(), TestCaseError> {
        let fresh = |at: Time| self.now.since(at) <= config.stale_after;
        for user in &decided.snapshot.users {
            for (node, rtt) in &user.rtt_ms {
                let (at, measured) = self.rtt[&(user.name.clone(), node.clone())];
                prop_assert!(fresh(at) && measured == Some(*rtt), "{} {node}: {at:?}, now {:?}", user.name, self.now);
            }
        }
        for ((user, node), (at, measured)) in &self.rtt {
            let seen = decided.snapshot.users.iter().any(|u| &u.name == user && u.rtt_ms.contains_key(node));
            prop_assert_eq!(seen, fresh(*at) && measured.is_some(), "fresh figures are used");
        }
        for node in &decided.snapshot.nodes {
            prop_assert_eq!(self.ready.get(&node.name), Some(&node.ready));
            let figure = self.load.get(&node.name).filter(|(at, _)| fresh(*at)).and_then(|(_, load)| *load);
            prop_assert_eq!(node.load, figure);
        }
        let placed: BTreeMap<_, _> =
            decided.snapshot.workloads.iter().map(|w| (w.name.clone(), w.node.clone())).collect();
        prop_assert_eq!(&placed, &self.placement);
        Ok(())
    }
}

fn run(controller: &mut Controller, steps: &[Step]) -> Result<Vec<Output>, TestCaseError> {
    let config = controller.config().clone();
    let mut world = World::default();
    let mut all = Vec::new();
    for step in steps {
        let now = world.now;
        match step.clone() {
            Step::Wait(ms) => world.now = world.now + Duration::from_millis(ms),
            Step::Poll => {
                let due = now >= controller.next_poll();
                let outputs = controller.poll(now);
                prop_assert_eq!(due, !outputs.is_empty());
                prop_assert!(controller.next_poll() > now);
                prop_assert!(controller.next_poll().since(now) <= config.decide_every);
                let mut admitted = Vec::new();
                for (n, output) in outputs.iter().enumerate() {
                    match output {
                        Output::Decided(decided) => {
                            prop_assert_eq!(n, 0, "the round comes first, once");
                            world.check_round(decided, &config)?;
                            admitted.extend(decided.decisions.iter().filter_map(|(decision, verdict)| match verdict {
                                Verdict::Admitted { id } => Some((*id, decision.clone())),
                                _ => None,
                            }));
                        }
                        Output::Migrate(order) => {
                            let (id, decision) = &admitted[n - 1];
                            prop_assert_eq!(*id, order.id);
                            prop_assert_eq!(decision.target(), Some(&order.to));
                            prop_assert_eq!(&decision.workload, &order.workload);
                            world.begin(order.clone(), false, &config)?;
                        }
                    }
                }
                prop_assert_eq!(admitted.len(), outputs.len().saturating_sub(1));
                all.extend(outputs);
            }
            Step::Ready(n, ready) => {
                world.ready.insert(node(n), ready);
                controller.handle(now, Event::NodeReady { node: node(n), ready });
            }
            Step::Rtt(u, n, ms) => {
                let (user, node, rtt) = (user(u), node(n), ms.and_then(Rtt::from_ms));
                if world.ready.contains_key(&node) {
                    world.rtt.insert((user.clone(), node.clone()), (now, rtt));
                }
                controller.handle(now, Event::RttMeasured { user, node, rtt });
            }
            Step::Load(n, index) => {
                let (node, load) = (node(n), index.and_then(Load::from_index));
                if world.ready.contains_key(&node) {
                    world.load.insert(node.clone(), (now, load));
                }
                controller.handle(now, Event::LoadMeasured { node, load });
            }
            Step::At(w, n, u) => {
                world.placement.insert(workload(w), node(n));
                world.lost.remove(&workload(w));
                let event = Event::WorkloadAt {
                    workload: workload(w),
                    kind: WorkloadKind::Container,
                    node: node(n),
                    users: vec![user(u)],
                };
                controller.handle(now, event);
            }
            Step::End(n, outcome) => {
                let ids: Vec<_> = world.in_flight.keys().copied().collect();
                let Some(id) = ids.get(n % ids.len().max(1)) else { continue };
                let order = world.in_flight.remove(id).unwrap();
                match outcome {
                    Outcome::Done => drop(world.placement.insert(order.workload.clone(), order.to)),
                    Outcome::RolledBack => drop(world.placement.insert(order.workload.clone(), order.from)),
                    Outcome::Lost => drop(world.lost.insert(order.workload.clone())),
                }
                world.ended.insert(order.workload, now);
                controller.handle(now, Event::MigrationEnded { id: *id, outcome });
            }
            Step::EndUnknown => {
                let unknown = controller.counters().unknown;
                controller.handle(now, Event::MigrationEnded { id: MigrationId(u64::MAX), outcome: Outcome::Done });
                prop_assert_eq!(controller.counters().unknown, unknown + 1);
            }
            Step::Request(w, n) => {
                if let Ok(order) = controller.request(now, &workload(w), n.map(node).as_ref()) {
                    prop_assert_eq!(&order.workload, &workload(w));
                    prop_assert!(n.is_none_or(|n| order.to == node(n)));
                    world.begin(order, true, &config)?;
                }
            }
        }
        let known: Vec<_> = controller.in_flight().cloned().collect();
        prop_assert_eq!(known, world.in_flight.values().cloned().collect::<Vec<_>>());
    }
    let counters = controller.counters();
    prop_assert_eq!(counters.admitted + counters.admitted_manual, world.ids.len() as u64);
    let ended = counters.done + counters.rolled_back + counters.lost;
    prop_assert_eq!(ended + world.in_flight.len() as u64, world.ids.len() as u64);
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_the_policy_asks_for(config in config(), steps in prop::collection::vec(step(), 0..200)) {
        run(&mut Controller::new(config, Box::new(Silly)), &steps)?;
    }

    #[test]
    fn under_threshold(config in config(), steps in prop::collection::vec(step(), 0..200)) {
        let threshold = || Box::new(godwit_policy::Threshold::default());
        let once = run(&mut Controller::new(config.clone(), threshold()), &steps)?;
        let again = run(&mut Controller::new(config, threshold()), &steps)?;
        prop_assert_eq!(once, again, "the same calls give the same answers");
    }
}
