//! `godwit bench migrate`: the same container moved by Godwit and by plain runc, in turn.

use std::process::ExitCode;

use godwit_model::{Bytes, Phase};
use godwit_scenario::Scenario;
use godwit_testbed::{Compared, Testbed, TestbedError, compare};
use serde::Serialize;

use crate::args::{Bench, BenchMigrate};
use crate::failure::{Fail, INTERRUPTED, NoTestbed, Result};
use crate::interrupt::stop_on_signal;

pub fn run(command: Bench) -> Result {
    let Bench::Migrate(args) = command;
    let stop = stop_on_signal()?;
    let mut rows = Vec::new();
    for memory in &args.memory {
        let scenario = scenario(*memory).bad_input()?;
        let config = args.host.testbed(&args.name, &scenario).failed_to("find godwit's own program")?;
        eprintln!("a service of {memory} that writes 4 pages a millisecond:");
        let compared = Testbed::up(&config, &stop, &mut |_| ()).and_then(|testbed| {
            let [near, far] = [0, 1].map(|n: usize| scenario.nodes[n].name.clone());
            let (workload, user) = (&scenario.workloads[0].name, &scenario.users[0].name);
            debug_assert_eq!(testbed.placement()[workload], near);
            compare(&testbed, workload, user, &far, args.runs, Some(args.strategy), &stop, |note| eprintln!("  {note}"))
        });
        match compared {
            Ok(compared) => rows.push(Row::new(*memory, &compared)),
            Err(TestbedError::Interrupted) => {}
            Err(error) => return Err(error).no_testbed(),
        }
    }
    print(&args, &rows)?;
    Ok(if stop.is_asked() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Two nodes and a user at no distance: the move itself is what is measured.
fn scenario(memory: Bytes) -> std::result::Result<Scenario, godwit_scenario::ScenarioError> {
    let room = Bytes(memory.0 * 3 + (1 << 30));
    let text = format!(
        "version: 1\nname: bench\nduration: 1s\nnodes: [ {{ name: a, memory: {room}B }}, {{ name: b, memory: {room}B }} ]\n\
         users: [ {{ name: client, rtt: {{ a: 0ms, b: 0ms }} }} ]\n\
         workloads: [ {{ name: service, node: a, users: [client], memory: {memory}B, dirty_rate: 16MiB/s }} ]\n",
        room = room.0,
        memory = memory.0
    );
    Scenario::parse(&text, "bench")
}

/// Median and worst of one figure, ms.
#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    median_ms: f64,
    worst_ms: f64,
}

impl Spread {
    fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let worst_ms = *figures.last()?;
        let median_ms =
            if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 };
        Some(Self { median_ms, worst_ms })
    }
}

#[derive(Debug, Serialize)]
struct Row {
    memory: Bytes,
    runs: usize,
    godwit: Side,
    plain_runc: Side,
}

#[derive(Debug, Serialize)]
struct Side {
    freeze: Option<Spread>,
    gap: Option<Spread>,
    /// Median of each part of the freeze, ms.
    parts_ms: Vec<(String, f64)>,
}

impl Row {
    fn new(memory: Bytes, compared: &Compared) -> Self {
        let (own, plain) = (&compared.own, &compared.plain);
        let of_phase = |phase: Phase| {
            let times = own.iter().flat_map(|m| &m.phases).filter(|p| p.phase == phase).map(|p| p.ms);
            Spread::of(times).map(|spread| (phase.to_string(), spread.median_ms))
        };
        let part = |name: &str, of: fn(&godwit_model::BaselineMove) -> f64| {
            Spread::of(plain.iter().map(of)).map(|spread| (name.to_owned(), spread.median_ms))
        };
        Self {
            memory,
            runs: own.len().max(plain.len()),
            godwit: Side {
                freeze: Spread::of(own.iter().map(|m| m.freeze_ms)),
                gap: Spread::of(own.iter().filter_map(|m| m.gap_ms)),
                parts_ms: Phase::ALL.into_iter().filter(|p| p.is_frozen()).filter_map(of_phase).collect(),
            },
            plain_runc: Side {
                freeze: Spread::of(plain.iter().map(|m| m.freeze_ms)),
                gap: Spread::of(plain.iter().filter_map(|m| m.gap_ms)),
                parts_ms: [
                    part("checkpoint", |m| m.checkpoint_ms),
                    part("transfer", |m| m.transfer_ms),
                    part("restore", |m| m.restore_ms),
                    part("switch", |m| m.switch_ms),
                ]
                .into_iter()
                .flatten()
                .collect(),
            },
        }
    }
}

fn print(args: &BenchMigrate, rows: &[Row]) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(());
    }
    println!("memory   by          runs  freeze median/worst   gap median/worst   where the freeze goes (medians, ms)");
    for row in rows {
        for (name, side) in [("godwit", &row.godwit), ("plain runc", &row.plain_runc)] {
            let spread =
                |s: Option<Spread>| s.map_or("-".into(), |s| format!("{:.0} / {:.0} ms", s.median_ms, s.worst_ms));
            let parts: Vec<String> = side.parts_ms.iter().map(|(part, ms)| format!("{part} {ms:.0}")).collect();
            println!(
                "{:<8} {name:<11} {:<5} {:<21} {:<18} {}",
                row.memory.to_string(),
                row.runs,
                spread(side.freeze),
                spread(side.gap),
                parts.join(", ")
            );
        }
    }
    Ok(())
}
