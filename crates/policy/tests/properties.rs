//! What every policy in the registry promises, whatever the snapshot.

use std::collections::BTreeMap;

use godwit_model::{
    Load, NodeName, NodeState, Rtt, Snapshot, Time, UserName, UserState, WorkloadKind, WorkloadName, WorkloadState,
};
use godwit_policy::{Policy, ThresholdConfig};
use proptest::prelude::*;

/// Few names, so that they meet: most are listed, some are not, some are twice.
fn node() -> impl Strategy<Value = NodeName> {
    (0..5).prop_map(|n| NodeName::new(format!("edge{n}")).unwrap())
}

fn user() -> impl Strategy<Value = UserName> {
    (0..4).prop_map(|n| UserName::new(format!("user{n}")).unwrap())
}

/// Over all bands, often on an edge, often equal.
fn rtt() -> impl Strategy<Value = Rtt> {
    let ms = prop_oneof![0.0..70.0f64, prop::sample::select(vec![0.0, 3.0, 14.9, 15.0, 18.0, 26.0, 60.0, 1e9])];
    ms.prop_map(|ms| Rtt::from_ms(ms).unwrap())
}

fn load() -> impl Strategy<Value = Load> {
    let index = prop_oneof![1.0..12.0f64, prop::sample::select(vec![1.0, 3.0, 7.9, 8.0, 100.0, 10_000.0])];
    index.prop_map(|index| Load::from_index(index).unwrap())
}

prop_compose! {
    fn node_state()(name in node(), load in prop::option::weighted(0.8, load()), ready in prop::bool::weighted(0.8))
        -> NodeState {
        NodeState { name, load, ready }
    }
}

prop_compose! {
    fn user_state()(name in user(), rtt_ms in prop::collection::btree_map(node(), rtt(), 0..9)) -> UserState {
        UserState { name, rtt_ms }
    }
}

prop_compose! {
    fn workload_state()(
        name in 0..4,
        vm in any::<bool>(),
        node in node(),
        users in prop::collection::vec(user(), 0..3),
    ) -> WorkloadState {
        let kind = if vm { WorkloadKind::Vm } else { WorkloadKind::Container };
        WorkloadState { name: WorkloadName::new(format!("w{name}")).unwrap(), kind, node, users }
    }
}

prop_compose! {
    fn snapshot()(
        nodes in prop::collection::vec(node_state(), 0..9),
        users in prop::collection::vec(user_state(), 0..8),
        workloads in prop::collection::vec(workload_state(), 0..9),
    ) -> Snapshot {
        Snapshot { at: Time::ZERO, nodes, users, workloads }
    }
}

fn policies() -> Vec<Box<dyn Policy>> {
    let build = |info: godwit_policy::PolicyInfo| godwit_policy::build(info.name, &Default::default()).unwrap();
    godwit_policy::list().into_iter().map(build).collect()
}

/// RTT to the worst-off user as the snapshot has it; where it lists a user twice the worst figure counts.
fn worst_rtt(snapshot: &Snapshot, workload: &WorkloadState, node: &NodeName) -> Option<Rtt> {
    let mut users: BTreeMap<&UserName, Option<Rtt>> = workload.users.iter().map(|user| (user, None)).collect();
    for state in &snapshot.users {
        if let (Some(worst), Some(rtt)) = (users.get_mut(&state.name), state.rtt_ms.get(node)) {
            *worst = Some(worst.map_or(*rtt, |w| if *rtt > w { *rtt } else { w }));
        }
    }
    let figures: Option<Vec<f64>> = users.values().map(|rtt| rtt.map(Rtt::ms)).collect();
    figures?.into_iter().reduce(f64::max).and_then(Rtt::from_ms)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_snapshot_gives_one_explained_decision_a_workload_in_order(snapshot in snapshot()) {
        for policy in policies() {
            let decisions = policy.decide(&snapshot);
            let decided: Vec<_> = decisions.iter().map(|d| &d.workload).collect();
            let asked: Vec<_> = snapshot.workloads.iter().map(|w| &w.name).collect();
            prop_assert_eq!(decided, asked);
            for decision in &decisions {
                let kebab = |c: char| c.is_ascii_lowercase() || c == '-';
                prop_assert!(decision.rule.chars().all(kebab), "{}", decision.rule);
                prop_assert!(!decision.reason.is_empty());
            }
            prop_assert_eq!(&policy.decide(&snapshot), &decisions, "the same again");
        }
    }

    #[test]
    fn the_order_of_nodes_and_users_does_not_matter(
        (snapshot, shuffled) in snapshot().prop_flat_map(|snapshot| {
            let nodes = Just(snapshot.nodes.clone()).prop_shuffle();
            let users = Just(snapshot.users.clone()).prop_shuffle();
            let shuffled = (Just(snapshot.clone()), nodes, users)
                .prop_map(|(snapshot, nodes, users)| Snapshot { nodes, users, ..snapshot });
            (Just(snapshot), shuffled)
        }),
    ) {
        for policy in policies() {
            prop_assert_eq!(policy.decide(&snapshot), policy.decide(&shuffled));
        }
    }

    #[test]
    fn a_move_goes_elsewhere_to_a_node_that_is_listed_and_ready(snapshot in snapshot()) {
        for policy in policies() {
            for (decision, workload) in policy.decide(&snapshot).iter().zip(&snapshot.workloads) {
                let Some(to) = decision.target() else { continue };
                prop_assert_ne!(to, &workload.node);
                let listed: Vec<_> = snapshot.nodes.iter().filter(|node| &node.name == to).collect();
                prop_assert!(!listed.is_empty() && listed.iter().all(|node| node.ready), "{:?}", decision);
            }
        }
    }

    #[test]
    fn threshold_moves_only_upon_figures_that_are_there(snapshot in snapshot()) {
        let policy = godwit_policy::Threshold::default();
        for (decision, workload) in policy.decide(&snapshot).iter().zip(&snapshot.workloads) {
            let Some(to) = decision.target() else { continue };
            prop_assert!(snapshot.nodes.iter().any(|node| &node.name == to && node.load.is_some()));
            if workload.kind == WorkloadKind::Container && !workload.users.is_empty() {
                prop_assert!(worst_rtt(&snapshot, workload, to).is_some(), "{:?}", decision);
            }
        }
    }

    #[test]
    fn never_to_a_worse_band_without_saying_so(snapshot in snapshot()) {
        let config = ThresholdConfig::default();
        for policy in policies() {
            for (decision, workload) in policy.decide(&snapshot).iter().zip(&snapshot.workloads) {
                let Some(to) = decision.target() else { continue };
                let band = |node| worst_rtt(&snapshot, workload, node).map(|rtt| config.rtt_band(rtt));
                let (Some(here), Some(there)) = (band(&workload.node), band(to)) else { continue };
                let says_so = decision.reason.contains("its rtt is in a worse band");
                prop_assert_eq!(there > here, says_so, "{:?}", decision);
            }
        }
    }

    #[test]
    fn threshold_leaves_what_is_well_alone(snapshot in snapshot()) {
        let policy = godwit_policy::Threshold::default();
        let config = policy.config();
        for (decision, workload) in policy.decide(&snapshot).iter().zip(&snapshot.workloads) {
            let Some(rtt) = worst_rtt(&snapshot, workload, &workload.node) else { continue };
            let near = config.rtt_band(rtt) < godwit_policy::RttBand::Bad;
            let loads = snapshot.nodes.iter().filter(|node| node.name == workload.node).filter_map(|node| node.load);
            let unloaded = loads.into_iter().all(|load| config.load_band(load) < godwit_policy::LoadBand::Bad);
            prop_assert!(decision.target().is_none() || !(near && unloaded), "{:?}", decision);
        }
    }

    #[test]
    fn threshold_never_goes_from_where_it_went(snapshot in snapshot()) {
        // No ping-pong: in a world that stands still, no chain of moves comes back to a node.
        let policy = godwit_policy::Threshold::default();
        let mut snapshot = snapshot;
        let mut been: Vec<_> = snapshot.workloads.iter().map(|w| vec![w.node.clone()]).collect();
        for _ in 0..8 {
            let decisions = policy.decide(&snapshot);
            for ((decision, workload), been) in decisions.iter().zip(&mut snapshot.workloads).zip(&mut been) {
                let Some(to) = decision.target() else { continue };
                prop_assert!(!been.contains(to), "{:?} {:?}", been, decision);
                been.push(to.clone());
                workload.node = to.clone();
            }
        }
    }
}
