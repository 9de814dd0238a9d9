//! Renders a MADE-UP record, to look at the report while working on it. None of its figures was measured.
//!
//! `cargo run -p godwit-report --example sample_report -- OUT [good|failed|sim|many|empty]`

use std::collections::BTreeMap;
use std::path::PathBuf;

use godwit_model::{
    Baseline, BaselineMove, Bytes, ClientSummary, Load, MigrationId, MigrationRecord, NodeName, Outcome, Phase,
    PhaseTime, Rtt, RunRecord, Sample, Strategy, Summary, Time, UserName, UserSummary, WorkloadKind, WorkloadName,
    WorkloadSummary,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let out = PathBuf::from(args.next().unwrap_or_else(|| "out/sample".into()));
    let record = match args.next().as_deref() {
        None | Some("good") => made_up(3, &[(45.0, 0, 1), (92.0, 1, 2), (160.0, 2, 1), (207.0, 1, 0)], &[]),
        Some("failed") => {
            let mut record = made_up(3, &[(45.0, 0, 1), (92.0, 1, 2), (101.0, 1, 2), (207.0, 2, 0)], &[1]);
            let client = &mut record.summary.clients[0];
            (client.restarts, client.rewinds, client.memory_bad) = (1, 2, 4096);
            record
        }
        Some("sim") => {
            let mut record = made_up(3, &[(45.0, 0, 1), (92.0, 1, 2), (160.0, 2, 1), (207.0, 1, 0)], &[]);
            record.summary.world = "sim".into();
            record.summary.clients.clear();
            record.summary.baseline = None;
            record.summary.migrations.iter_mut().for_each(|m| m.gap_ms = None);
            record.samples.iter_mut().for_each(|s| s.gap_ms.clear());
            record
        }
        Some("many") => {
            let moves: Vec<_> = (0..60).map(|i| (4.0 * i as f64, (i * 7) % 20, (i * 7 + 7) % 20)).collect();
            made_up(20, &moves, &[3, 17])
        }
        Some("empty") => {
            let mut record = made_up(1, &[], &[]);
            record.samples.clear();
            record.summary.clients.clear();
            record.summary.users.clear();
            record
        }
        Some(other) => return Err(format!("there is no sample {other:?}: good, failed, sim, many, empty").into()),
    };
    for path in godwit_report::write(&record, &out)? {
        println!("{}", path.display());
    }
    print!("{}", godwit_report::final_table(&record.summary));
    Ok(())
}

/// A little noise that is the same each time.
fn noise(n: usize) -> f64 {
    let x = (n as f64 * 12.9898).sin() * 43_758.545_3;
    x - x.floor() - 0.5
}

/// `moves`: when, from which node, to which; `failing`: the indexes of those that are rolled back.
fn made_up(nodes: usize, moves: &[(f64, usize, usize)], failing: &[usize]) -> RunRecord {
    let names: Vec<NodeName> = (1..=nodes).filter_map(|n| NodeName::new(format!("edge{n}")).ok()).collect();
    let (car, video) = (UserName::new("car").expect("a name"), WorkloadName::new("video").expect("a name"));
    let migrations: Vec<_> = moves
        .iter()
        .enumerate()
        .map(|(index, (at, from, to))| {
            let failed = failing.contains(&index);
            migration(index, *at, [&names[*from], &names[*to]], &video, failed)
        })
        .collect();

    let samples: Vec<Sample> = (0..480)
        .map(|n| {
            let at = n as f64 / 2.0 + 0.2;
            let position = if at < 120.0 { at / 120.0 } else { 2.0 - at / 120.0 } * (nodes.max(2) - 1) as f64;
            let rtt = names
                .iter()
                .enumerate()
                .filter(|(node, _)| !(*node == 2 && (70.0..76.0).contains(&at)))
                .map(|(node, name)| {
                    let distance = (position - node as f64).abs() * 64.0 / (nodes.max(2) - 1) as f64;
                    (name.clone(), Rtt::from_ms((distance + 1.2 + noise(n * 31 + node)).max(0.3)).expect("finite"))
                })
                .collect();
            let load = names
                .iter()
                .enumerate()
                .map(|(node, name)| {
                    let base = match (node, at < 120.0) {
                        (0, _) => 3.2,
                        (1, true) => 2.3,
                        (1, false) => 12.6,
                        (2, false) => 5.6,
                        _ => 1.1,
                    };
                    (name.clone(), Load::from_index(base + 0.25 + noise(n * 17 + node) * 0.4).expect("at least 1"))
                })
                .collect();
            let mut done = migrations.iter().filter(|m| m.outcome == Outcome::Done && m.start.secs() + 0.4 <= at);
            let serving = done.next_back().map_or(&names[0], |m| &m.to);
            let gap =
                migrations.iter().find(|m| (at - 0.5..at).contains(&(m.start.secs() + 0.3))).and_then(|m| m.gap_ms);
            Sample {
                at: Time::from_secs(at),
                rtt: BTreeMap::from([(car.clone(), rtt)]),
                load,
                placement: BTreeMap::from([(video.clone(), serving.clone())]),
                gap_ms: BTreeMap::from([(car.clone(), gap.unwrap_or(7.0 + noise(n) * 4.0))]),
            }
        })
        .collect();

    let worst = migrations.iter().filter_map(|m| m.gap_ms).fold(9.4, f64::max);
    let summary = Summary {
        schema: Summary::SCHEMA.into(),
        godwit: "0.1.0 (made-up sample)".into(),
        scenario: "car-and-load".into(),
        world: "testbed".into(),
        policy: "threshold".into(),
        policy_params: params(),
        seed: 1,
        speed: 2.0,
        duration_s: 240.0,
        nodes: names.clone(),
        workloads: vec![WorkloadSummary {
            name: video.clone(),
            kind: WorkloadKind::Container,
            users: vec![car.clone()],
        }],
        rtt_bound_ms: 26.0,
        migrations,
        users: vec![UserSummary {
            name: car.clone(),
            rtt_mean_ms: Some(14.31),
            rtt_p95_ms: Some(27.8),
            above_bound_s: 21.5,
            above_bound_fraction: 21.5 / 240.0,
        }],
        clients: vec![ClientSummary {
            user: car,
            workload: video,
            connections: 1,
            broken: 0,
            sent: 23_987,
            received: 23_987,
            bytes_lost: 0,
            reordered: 0,
            duplicated: 0,
            restarts: 0,
            rewinds: 0,
            memory_bad: 0,
            worst_gap_ms: worst,
            response_median_ms: Some(5.2),
        }],
        baseline: Some(baseline(names.clone())),
        ok: failing.is_empty(),
    };
    RunRecord { summary, samples }
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

/// Four moves by plain runc.
fn baseline(nodes: Vec<NodeName>) -> Baseline {
    let mut moves = Vec::new();
    for (n, pair) in nodes.windows(2).chain(nodes.windows(2)).take(4).enumerate() {
        let vary = 1.0 + noise(n + 50) * 0.2;
        let freeze_ms = 318.0 * vary;
        moves.push(BaselineMove {
            from: pair[0].clone(),
            to: pair[1].clone(),
            freeze_ms,
            gap_ms: Some(freeze_ms + 14.0),
            checkpoint_ms: 121.0 * vary,
            transfer_ms: 47.0 * vary,
            restore_ms: 133.0 * vary,
            switch_ms: 9.0 * vary,
        });
    }
    Baseline { tool: Baseline::RUNC.into(), moves }
}

fn migration(index: usize, at: f64, [from, to]: [&NodeName; 2], video: &WorkloadName, failed: bool) -> MigrationRecord {
    let vary = 1.0 + noise(index) * 0.3;
    let mut phases: Vec<PhaseTime> = [
        (Phase::Preflight, 3.0),
        (Phase::Stage, 48.0),
        (Phase::Freeze, 6.0),
        (Phase::Dump, 38.0),
        (Phase::Transfer, 24.0),
        (Phase::Restore, 51.0),
        (Phase::Commit, 1.4),
        (Phase::Switch, 7.5),
        (Phase::Drain, 60.0),
    ]
    .into_iter()
    .map(|(phase, ms)| PhaseTime { phase, ms: ms * vary })
    .collect();
    if failed {
        phases.truncate(5);
    }
    let freeze_ms: f64 = phases.iter().filter(|time| time.phase.is_frozen()).map(|time| time.ms).sum::<f64>() + 1.5;
    MigrationRecord {
        id: MigrationId(index as u64 + 1),
        workload: video.clone(),
        from: from.clone(),
        to: to.clone(),
        strategy: Strategy::StopCopy,
        strategy_why: None,
        rounds: Vec::new(),
        reason: format!(
            "rtt from {from} is 27.2 ms (bad, from 26 ms); {to} has 11.4 ms (good) and load 2.31 (healthy)"
        ),
        start: Time::from_secs(at),
        freeze_ms,
        gap_ms: Some(freeze_ms + 9.0),
        total_ms: phases.iter().map(|time| time.ms).sum::<f64>() + 20.0,
        bytes: Bytes(17_400_000),
        wire_bytes: None,
        phases,
        outcome: if failed { Outcome::RolledBack } else { Outcome::Done },
        error: failed.then(|| "criu restore: Can't open /proc/self/ns/net: No such file or directory".into()),
    }
}
