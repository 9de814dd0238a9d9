//! `godwit migrate`: a workload of a running testbed to a node.

use std::io::IsTerminal;
use std::process::ExitCode;

use godwit_model::{MigrationRecord, Outcome};
use godwit_testbed::{Ask, Reply, ask};

use crate::args::Migrate;
use crate::failure::{BAD_INPUT, Fail, Failure, NOT_WELL, Result};
use crate::view::MoveView;

pub fn run(args: Migrate) -> Result {
    let (what, wanted) = match (args.cancel, args.workload, args.node) {
        (Some(workload), ..) => (Ask::Cancel { workload }, Outcome::RolledBack),
        (None, Some(workload), Some(to)) => {
            let (strategy, bandwidth) = (args.strategy, args.bandwidth);
            (Ask::Migrate { workload, to, strategy, bandwidth }, Outcome::Done)
        }
        (None, ..) => return Err(Failure::new(BAD_INPUT, "say what is to move and to where")),
    };
    let mut view = match std::io::stderr().is_terminal() {
        true => MoveView::bar(),
        false if args.json || args.events => MoveView::silent(),
        false => MoveView::lines(),
    };
    let reply = ask(&args.which.name, &what, |reply| {
        if args.events {
            println!("{}", serde_json::to_string(reply).unwrap_or_default());
        }
        view.reply(reply);
    });
    view.leave();
    match reply.bad_input()? {
        Reply::Ended { record } => {
            if args.json {
                println!("{}", serde_json::to_string_pretty(&record)?);
            } else if !args.events {
                print!("{}", sentence(&record));
            }
            Ok(if record.outcome == wanted { ExitCode::SUCCESS } else { ExitCode::from(NOT_WELL) })
        }
        Reply::Refused { why } => Err(Failure::new(BAD_INPUT, why)),
        _ => Err(Failure::new(NOT_WELL, "the testbed ended before the migration did")),
    }
}

fn sentence(record: &MigrationRecord) -> String {
    let gap = record.gap_ms.map_or(String::new(), |gap| format!(", its client saw a gap of {gap:.0} ms"));
    let wire = record.wire_bytes.map_or(String::new(), |wire| format!(" ({wire} on the wire)"));
    let phases: Vec<String> = record.phases.iter().map(|p| format!("{} {:.0}", p.phase, p.ms)).collect();
    let mut text = match record.outcome {
        Outcome::Done => format!("{} runs on {} now", record.workload, record.to),
        Outcome::RolledBack => {
            format!("{} could not move to {} and runs on at {}", record.workload, record.to, record.from)
        }
        Outcome::Lost => {
            format!("{} is lost: it runs neither on {} nor on {}", record.workload, record.from, record.to)
        }
    };
    text.push_str(&format!(
        "; it stood still for {:.0} ms{gap}.\n  phases in ms: {}; {} sent{wire}\n",
        record.freeze_ms,
        phases.join(", "),
        record.bytes
    ));
    if let Some(error) = &record.error {
        text.push_str(&format!("  because: {error}\n"));
    }
    text
}
