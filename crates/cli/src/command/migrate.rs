//! `godwit migrate`: a workload of a running testbed to a node.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use godwit_model::{MigrationRecord, Outcome};
use godwit_testbed::{Ask, Reply, ask};

use crate::args::Migrate;
use crate::failure::{BAD_INPUT, Fail, Failure, NOT_WELL, Result};

pub fn run(args: Migrate) -> Result {
    let what = Ask::Migrate { workload: args.workload, to: args.node, strategy: args.strategy };
    let progress = std::io::stderr().is_terminal();
    let reply = ask(&args.which.name, &what, |reply| {
        if let (Reply::Phase { phase }, true) = (reply, progress) {
            eprint!("\r\x1b[K{phase} …");
            let _ = std::io::stderr().flush();
        }
    });
    if progress {
        eprint!("\r\x1b[K");
    }
    match reply.bad_input()? {
        Reply::Ended { record } => {
            if args.json {
                println!("{}", serde_json::to_string_pretty(&record)?);
            } else {
                print!("{}", sentence(&record));
            }
            Ok(if record.outcome == Outcome::Done { ExitCode::SUCCESS } else { ExitCode::from(NOT_WELL) })
        }
        Reply::Refused { why } => Err(Failure::new(BAD_INPUT, why)),
        _ => Err(Failure::new(NOT_WELL, "the testbed ended before the migration did")),
    }
}

fn sentence(record: &MigrationRecord) -> String {
    let gap = record.gap_ms.map_or(String::new(), |gap| format!(", its client saw a gap of {gap:.0} ms"));
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
        "; it stood still for {:.0} ms{gap}.\n  phases in ms: {}; {} sent\n",
        record.freeze_ms,
        phases.join(", "),
        record.bytes
    ));
    if let Some(error) = &record.error {
        text.push_str(&format!("  because: {error}\n"));
    }
    text
}
