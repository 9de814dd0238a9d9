//! What a run adds up to: the same sums for every world.
//!
//! A sample holds until the next one, the last one until the end of the run. A user is as far as the farthest of the
//! nodes that serve it.

use std::collections::BTreeMap;

use godwit_model::{
    ClientSummary, MigrationRecord, NodeName, Outcome, Rtt, Sample, Summary, Time, UserName, UserSummary, WorkloadName,
    WorkloadSummary,
};

/// What a world knows about a run without having measured anything.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The scenario's name.
    pub scenario: String,
    /// `sim` or `testbed`.
    pub world: String,
    /// The policy's name.
    pub policy: String,
    /// The policy's parameters in force.
    pub policy_params: BTreeMap<String, f64>,
    /// Seeds everything random.
    pub seed: u64,
    /// Seconds of the scenario a second of the wall clock.
    pub speed: f64,
    /// The end of the run.
    pub end: Time,
    /// The nodes, in the scenario's order.
    pub nodes: Vec<NodeName>,
    /// Above this a user counts as badly served.
    pub rtt_bound: Rtt,
    /// The users, in the scenario's order.
    pub users: Vec<UserName>,
    /// The workloads, in the scenario's order, and whom each serves.
    pub workloads: Vec<WorkloadSummary>,
}

impl Facts {
    fn serving(&self, user: &UserName) -> Vec<WorkloadName> {
        let serving = self.workloads.iter().filter(|workload| workload.users.contains(user));
        serving.map(|workload| workload.name.clone()).collect()
    }
}

/// `summary.json`, without a baseline: that is for a world which has a plain tool to compare with.
pub fn summary(
    facts: &Facts,
    samples: &[Sample],
    migrations: Vec<MigrationRecord>,
    clients: Vec<ClientSummary>,
) -> Summary {
    let users = facts.users.iter().map(|user| served(facts, samples, user, &facts.serving(user))).collect();
    let ok = migrations.iter().all(|m| m.outcome == Outcome::Done) && clients.iter().all(ClientSummary::is_clean);
    Summary {
        schema: Summary::SCHEMA.into(),
        godwit: env!("CARGO_PKG_VERSION").into(),
        scenario: facts.scenario.clone(),
        world: facts.world.clone(),
        policy: facts.policy.clone(),
        policy_params: facts.policy_params.clone(),
        seed: facts.seed,
        speed: facts.speed,
        duration_s: facts.end.secs(),
        nodes: facts.nodes.clone(),
        workloads: facts.workloads.clone(),
        rtt_bound_ms: facts.rtt_bound.ms(),
        migrations,
        users,
        clients,
        baseline: None,
        ok,
    }
}

/// RTT of the user to the farthest of its serving nodes; `None` when one of them has no figure.
pub fn serving_rtt(sample: &Sample, user: &UserName, workloads: &[WorkloadName]) -> Option<Rtt> {
    let rtt = sample.rtt.get(user)?;
    let mut worst: Option<Rtt> = None;
    for workload in workloads {
        let rtt = *rtt.get(sample.placement.get(workload)?)?;
        if worst.is_none_or(|w| rtt > w) {
            worst = Some(rtt);
        }
    }
    worst
}

/// How well one user was served.
///
/// Where there is no figure, the user does not answer its serving node, and counts as above the bound; mean and
/// percentile are those of the figures there are. Before the first figure nothing counts: measuring has not begun.
fn served(facts: &Facts, samples: &[Sample], user: &UserName, workloads: &[WorkloadName]) -> UserSummary {
    let ends = samples.iter().skip(1).map(|sample| sample.at).chain([facts.end]);
    let (mut sum, mut known, mut above, mut begun) = (0.0, 0.0, 0.0, false);
    // Microseconds at each RTT; bits of a number that is not negative sort as the number does.
    let mut spread: BTreeMap<u64, u64> = BTreeMap::new();
    for (sample, end) in samples.iter().zip(ends) {
        let held = end.min(facts.end).since(sample.at);
        let rtt = serving_rtt(sample, user, workloads);
        begun |= rtt.is_some();
        if begun && rtt.is_none_or(|rtt| rtt > facts.rtt_bound) {
            above += held.as_secs_f64();
        }
        if let Some(rtt) = rtt {
            sum += rtt.ms() * held.as_secs_f64();
            known += held.as_secs_f64();
            *spread.entry(rtt.ms().to_bits()).or_default() += held.as_micros() as u64;
        }
    }
    let length = facts.end.secs();
    UserSummary {
        name: user.clone(),
        rtt_mean_ms: (known > 0.0).then(|| sum / known),
        rtt_p95_ms: percentile(&spread, 0.95),
        above_bound_s: above,
        above_bound_fraction: if length > 0.0 { above / length } else { 0.0 },
    }
}

/// The lowest RTT that is not exceeded for the fraction `p` of the time.
fn percentile(spread: &BTreeMap<u64, u64>, p: f64) -> Option<f64> {
    let total: u64 = spread.values().sum();
    let wanted = (total as f64 * p).ceil() as u64;
    let mut passed = 0;
    for (bits, micros) in spread {
        passed += micros;
        if passed >= wanted && passed > 0 {
            return Some(f64::from_bits(*bits));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_model::WorkloadKind;

    fn user() -> UserName {
        UserName::new("car").unwrap()
    }

    fn name(n: u8) -> NodeName {
        NodeName::new(format!("edge{n}")).unwrap()
    }

    fn video() -> WorkloadName {
        WorkloadName::new("video").unwrap()
    }

    fn sample(at: f64, node: u8, rtt: &[(u8, f64)]) -> Sample {
        let rtt = rtt.iter().map(|(n, ms)| (name(*n), Rtt::from_ms(*ms).unwrap())).collect();
        Sample {
            at: Time::from_secs(at),
            rtt: BTreeMap::from([(user(), rtt)]),
            load: BTreeMap::new(),
            placement: BTreeMap::from([(video(), name(node))]),
            gap_ms: BTreeMap::new(),
        }
    }

    fn account(samples: &[Sample], end: f64) -> UserSummary {
        let facts = Facts {
            scenario: "test".into(),
            world: "sim".into(),
            policy: "never".into(),
            policy_params: BTreeMap::new(),
            seed: 1,
            speed: 1.0,
            end: Time::from_secs(end),
            nodes: vec![name(1), name(2)],
            rtt_bound: Rtt::from_ms(26.0).unwrap(),
            users: vec![user()],
            workloads: vec![WorkloadSummary { name: video(), kind: WorkloadKind::Container, users: vec![user()] }],
        };
        summary(&facts, samples, Vec::new(), Vec::new()).users.remove(0)
    }

    #[test]
    fn the_rtt_to_the_serving_node_counts_for_as_long_as_it_holds() {
        let samples = [
            sample(0.0, 1, &[(1, 10.0), (2, 99.0)]),
            sample(2.0, 1, &[(1, 30.0), (2, 99.0)]),
            sample(3.0, 2, &[(1, 99.0), (2, 26.0)]),
        ];
        let car = account(&samples, 10.0);
        assert_eq!(car.rtt_mean_ms, Some((10.0 * 2.0 + 30.0 + 26.0 * 7.0) / 10.0));
        assert_eq!((car.above_bound_s, car.above_bound_fraction), (1.0, 0.1), "the bound itself is not above");
        assert_eq!(car.rtt_p95_ms, Some(30.0));
    }

    #[test]
    fn the_percentile_is_the_lowest_that_holds_for_95_percent_of_the_time() {
        let car = account(&[sample(0.0, 1, &[(1, 10.0)]), sample(95.0, 1, &[(1, 50.0)])], 100.0);
        assert_eq!(car.rtt_p95_ms, Some(10.0));
        let car = account(&[sample(0.0, 1, &[(1, 10.0)]), sample(94.0, 1, &[(1, 50.0)])], 100.0);
        assert_eq!(car.rtt_p95_ms, Some(50.0));
    }

    #[test]
    fn a_user_who_stops_answering_is_badly_served_but_not_before_the_first_figure() {
        let samples = [sample(0.0, 1, &[]), sample(4.0, 1, &[(1, 10.0)]), sample(7.0, 1, &[(2, 1.0)])];
        let car = account(&samples, 10.0);
        assert_eq!((car.rtt_mean_ms, car.above_bound_s), (Some(10.0), 3.0));
    }

    #[test]
    fn nothing_measured_gives_no_figures_and_no_division_by_zero() {
        for (samples, end) in [(vec![], 0.0), (vec![], 10.0), (vec![sample(0.0, 1, &[(1, 3.0)])], 0.0)] {
            let car = account(&samples, end);
            assert_eq!((car.rtt_mean_ms, car.rtt_p95_ms, car.above_bound_fraction), (None, None, 0.0));
        }
    }
}
