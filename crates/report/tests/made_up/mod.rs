//! Records with made-up figures.

use std::collections::BTreeMap;

use godwit_model::{
    Baseline, BaselineMove, Bytes, ClientSummary, Load, MigrationId, MigrationRecord, NodeName, Outcome, Phase,
    PhaseTime, Rtt, RunRecord, Sample, Strategy, Summary, Time, UserName, UserSummary, WorkloadKind, WorkloadName,
    WorkloadSummary,
};

fn node(n: usize) -> NodeName {
    NodeName::new(format!("edge{n}")).unwrap()
}

fn car() -> UserName {
    UserName::new("car").unwrap()
}

fn video() -> WorkloadName {
    WorkloadName::new("video").unwrap()
}

/// The parameters of the policy `threshold` where none are given.
fn params() -> BTreeMap<String, f64> {
    let params = [
        ("load_average_below", 8.0),
        ("load_healthy_below", 3.0),
        ("rtt_average_below_ms", 26.0),
        ("rtt_good_below_ms", 15.0),
    ];
    params.map(|(name, value)| (name.to_owned(), value)).into()
}

fn migration(id: u64, from: usize, to: usize, start: f64) -> MigrationRecord {
    let times = [3.0, 40.0, 5.25, 41.5, 30.0, 44.25, 1.5, 8.5, 60.0];
    MigrationRecord {
        id: MigrationId(id),
        workload: video(),
        from: node(from),
        to: node(to),
        strategy: Strategy::StopCopy,
        strategy_why: None,
        rounds: Vec::new(),
        reason: format!("rtt from edge{from} is bad, \"27.0 ms\"; edge{to} has 11.4 ms, and load 2.31"),
        start: Time::from_secs(start),
        phases: Phase::ALL
            .into_iter()
            .filter(|phase| *phase != Phase::PreCopy)
            .zip(times)
            .map(|(phase, ms)| PhaseTime { phase, ms })
            .collect(),
        freeze_ms: 132.5,
        gap_ms: Some(140.0 + id as f64),
        total_ms: 240.0,
        bytes: Bytes(17 << 20),
        wire_bytes: None,
        outcome: Outcome::Done,
        error: None,
    }
}

/// Two migrations in 60 s, one sample a second.
pub(crate) fn run() -> RunRecord {
    let samples = (0..60).map(|n| {
        let at = f64::from(n) + 0.1;
        let serving = if at < 20.0 {
            1
        } else if at < 40.0 {
            2
        } else {
            3
        };
        // Node 2 is silent for a while.
        let answers = (1..=3).filter(|i| *i != 2 || !(28..=32).contains(&n));
        let rtt = answers.map(|i| (node(i), Rtt::from_ms(f64::from(n) / 4.0 + i as f64 * 7.125).unwrap())).collect();
        Sample {
            at: Time::from_secs(at),
            rtt: [(car(), rtt)].into(),
            load: (1..=3)
                .map(|i| (node(i), Load::from_index(1.0 + i as f64 / 8.0 + f64::from(n % 3)).unwrap()))
                .collect(),
            placement: [(video(), node(serving))].into(),
            gap_ms: [(car(), if n == 20 || n == 40 { 141.5 } else { 6.75 })].into(),
        }
    });
    let samples = samples.collect();
    let summary = Summary {
        schema: Summary::SCHEMA.into(),
        godwit: "0.1.0".into(),
        scenario: "car".into(),
        world: "testbed".into(),
        policy: "threshold".into(),
        policy_params: params(),
        seed: 1,
        speed: 2.0,
        duration_s: 60.0,
        nodes: (1..=3).map(node).collect(),
        workloads: vec![WorkloadSummary { name: video(), kind: WorkloadKind::Container, users: vec![car()] }],
        rtt_bound_ms: 26.0,
        migrations: vec![migration(1, 1, 2, 19.5), migration(2, 2, 3, 39.5)],
        users: vec![UserSummary {
            name: car(),
            rtt_mean_ms: Some(14.25),
            rtt_p95_ms: Some(26.5),
            above_bound_s: 3.75,
            above_bound_fraction: 3.75 / 60.0,
        }],
        clients: vec![ClientSummary {
            user: car(),
            workload: video(),
            connections: 1,
            broken: 0,
            sent: 6000,
            received: 6000,
            bytes_lost: 0,
            reordered: 0,
            duplicated: 0,
            restarts: 0,
            rewinds: 0,
            memory_bad: 0,
            worst_gap_ms: 142.0,
            response_median_ms: Some(5.25),
        }],
        baseline: None,
        ok: true,
    };
    RunRecord { summary, samples }
}

/// The same, but the second migration was rolled back and took the connection with it.
pub(crate) fn failed() -> RunRecord {
    let mut record = run();
    let second = &mut record.summary.migrations[1];
    second.phases.truncate(4);
    second.outcome = Outcome::RolledBack;
    second.error = Some("criu: dump failed, \"socket\" of an unknown kind".into());
    second.gap_ms = None;
    let client = &mut record.summary.clients[0];
    (client.broken, client.bytes_lost, client.worst_gap_ms, client.received) = (1, 640, 2300.0, 5990);
    record.summary.ok = false;
    record
}

/// Nothing at all.
pub(crate) fn empty() -> RunRecord {
    let mut record = run();
    record.samples.clear();
    let summary = &mut record.summary;
    (summary.migrations, summary.users, summary.clients) = (Vec::new(), Vec::new(), Vec::new());
    record
}

/// What the first run would have cost with plain runc.
pub(crate) fn beside_runc() -> RunRecord {
    let mut record = run();
    let moved = |from, to, freeze_ms| BaselineMove {
        from: node(from),
        to: node(to),
        freeze_ms,
        gap_ms: Some(freeze_ms + 14.0),
        checkpoint_ms: 130.0,
        transfer_ms: 61.25,
        restore_ms: 120.0,
        switch_ms: 8.0,
    };
    let moves = vec![moved(1, 2, 330.5), moved(2, 3, 410.0), moved(3, 1, 320.25)];
    record.summary.baseline = Some(Baseline { tool: Baseline::RUNC.into(), moves });
    record
}
