//! `godwit bench migrate`: the same container moved by every strategy and by plain runc, in turn.

mod document;
mod machine;
mod measures;
mod row;
mod table;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use godwit_model::Bytes;
use godwit_scenario::Scenario;
use godwit_testbed::{MeasuredMove, Mover, Stop, Testbed, TestbedError, measure};
use serde::Serialize;

use crate::args::{Bench, BenchMigrate};
use crate::failure::{INTERRUPTED, NoTestbed, Result};
use crate::interrupt::stop_on_signal;
use document::Document;
use machine::Machine;
use measures::Measure;
use row::Row;

/// All that came of it; what `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome {
    godwit: &'static str,
    machine: Machine,
    /// Moves of each kind and size that were asked for.
    runs: u32,
    rows: Vec<Row>,
    measures: Vec<Measure>,
    moves: Vec<Sized>,
}

/// A move of a service of that size.
#[derive(Debug, Clone, Serialize)]
struct Sized {
    memory: Bytes,
    #[serde(flatten)]
    moved: MeasuredMove,
}

pub fn run(command: Bench) -> Result {
    let Bench::Migrate(args) = command;
    // Before an hour is spent.
    let document = args.into.as_deref().map(Document::open).transpose()?;
    let stop = stop_on_signal()?;
    let movers = movers(&args);
    let mut machine = Machine::look();
    if let Some(warning) = machine.warning() {
        eprintln!("godwit: {warning}");
    }
    let mut moves = Vec::new();
    for memory in &args.memory {
        match moves_of(&args, *memory, &movers, &stop, &mut moves) {
            Ok(()) | Err(TestbedError::Interrupted) => {}
            Err(error) => return Err(error).no_testbed(),
        }
        machine.look_again();
        if stop.is_asked() {
            break;
        }
    }
    let rows = row::rows(&args.memory, &movers, &moves);
    let measures = measures::all(&rows);
    let outcome = Outcome { godwit: env!("CARGO_PKG_VERSION"), machine, runs: args.runs, rows, measures, moves };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else if args.markdown {
        print!("{}", table::markdown(&outcome));
    } else {
        print!("{}", table::terminal(&outcome));
    }
    if stop.is_asked() {
        eprintln!("godwit: interrupted; the figures are those of the moves until then");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if let Some(document) = document {
        document.put(&table::markdown(&outcome))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn movers(args: &BenchMigrate) -> Vec<Mover> {
    let mut movers: Vec<Mover> = args.strategy.iter().map(|choice| Mover::Godwit(*choice)).collect();
    if !args.no_runc {
        movers.extend([Mover::Runc, Mover::RuncLazyPages]);
    }
    movers
}

fn moves_of(
    args: &BenchMigrate,
    memory: Bytes,
    movers: &[Mover],
    stop: &Stop,
    moves: &mut Vec<Sized>,
) -> std::result::Result<(), TestbedError> {
    let scenario = scenario(memory).map_err(|e| TestbedError::Unsupported(e.to_string()))?;
    let config = args.host.testbed(&args.name, &scenario).map_err(|source| TestbedError::File {
        what: "find",
        path: "godwit's own program".into(),
        source,
    })?;
    eprintln!("a service of {memory} that writes 4 pages a millisecond:");
    let testbed = Testbed::up(&config, stop, &mut |_| ())?;
    let (workload, user) = (&scenario.workloads[0].name, &scenario.users[0].name);
    let mut progress = Progress { all: movers.len() * args.runs as usize, done: 0 };
    let told = |moved: MeasuredMove| {
        progress.done(&moved);
        moves.push(Sized { memory, moved });
    };
    measure(&testbed, workload, user, &scenario.nodes[1].name, movers, args.runs, stop, told)
}

/// A line that is written again and again in a terminal, a line for each move elsewhere.
struct Progress {
    all: usize,
    done: usize,
}

impl Progress {
    fn done(&mut self, moved: &MeasuredMove) {
        self.done += 1;
        let gap = moved.gap_ms.map_or("no gap seen".into(), |gap| format!("gap {gap:.0} ms"));
        let line = format!("  {}/{}  {}: {gap}", self.done, self.all, moved.by);
        if let Some(error) = &moved.error {
            eprintln!("\r{line}  FAILED: {error}");
        } else if !std::io::stderr().is_terminal() {
            eprintln!("{line}");
        } else {
            eprint!("\r{line:<70}{}", if self.done == self.all { "\n" } else { "" });
            let _ = std::io::stderr().flush();
        }
    }
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
