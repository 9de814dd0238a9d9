//! `godwit checkpoint`: a running workload of a testbed into a file.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use godwit_checkpoint::Format;
use godwit_model::Bytes;
use godwit_testbed::{Ask, Reply, TakeCheckpoint, Taken, TestbedName, ask};

use crate::args::{Checkpoint, CheckpointCommand, CheckpointFormat};
use crate::failure::{BAD_INPUT, Fail, Failure, NOT_WELL, Result};

pub fn run(args: Checkpoint) -> Result {
    if let Some(CheckpointCommand::Inspect { path, json }) = args.command {
        return super::inspect::run(&path, json);
    }
    // Without a subcommand both are required.
    let (Some(workload), Some(path)) = (args.workload, args.path) else {
        return Err(Failure::new(BAD_INPUT, "name a workload and a file: godwit checkpoint WORKLOAD PATH"));
    };
    let what = TakeCheckpoint {
        workload,
        path: absolute(&path)?,
        format: match args.format {
            CheckpointFormat::Godwit => Format::Godwit,
            CheckpointFormat::Oci => Format::Oci,
        },
        stop: args.stop,
        force: args.force,
    };
    match ask_with_progress(&args.which.name, &Ask::Checkpoint(what), "writing")? {
        Reply::Taken { taken } => {
            if args.json {
                println!("{}", serde_json::to_string_pretty(&taken)?);
            } else {
                print!("{}", sentence(&taken, &path));
            }
            Ok(ExitCode::SUCCESS)
        }
        other => Err(not_done(other, "checkpoint")),
    }
}

fn sentence(taken: &Taken, path: &Path) -> String {
    let gap = taken.gap_ms.map_or(String::new(), |gap| format!(", its client saw a gap of {gap:.0} ms"));
    let state = if taken.stopped {
        format!("it was ended with it; its clients wait for: godwit restore {} --node NODE", path.display())
    } else {
        format!("it stood still for {:.0} ms{gap}, and runs on", taken.frozen_ms)
    };
    format!(
        "{} on {} is in {}: {} of memory in {}; {state}\n",
        taken.workload,
        taken.node,
        path.display(),
        Bytes(taken.memory_bytes),
        Bytes(taken.file_bytes),
    )
}

/// The testbed is another process with another working directory.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).bad_input_in(format!("{} is no path", path.display()))
}

/// Asks, and shows in a terminal how far it is. ^C ends this program, and with it the testbed gives the work up.
pub fn ask_with_progress(name: &TestbedName, what: &Ask, doing: &str) -> Result<Reply> {
    let progress = std::io::stderr().is_terminal();
    let reply = ask(name, what, |reply| {
        if let (Reply::Bytes { done, total }, true) = (reply, progress) {
            let total = if *total > 0 { format!(" of {}", Bytes(*total)) } else { String::new() };
            eprint!("\r\x1b[K{doing} {}{total} …", Bytes(*done));
            let _ = std::io::stderr().flush();
        }
    });
    if progress {
        eprint!("\r\x1b[K");
    }
    reply.bad_input()
}

/// What a reply that is not the one hoped for means.
pub fn not_done(reply: Reply, what: &str) -> Failure {
    match reply {
        Reply::Refused { why } => Failure::new(BAD_INPUT, why),
        Reply::Failed { why } => Failure::new(NOT_WELL, format!("the {what} did not come about: {why}")),
        _ => Failure::new(NOT_WELL, format!("the testbed ended before the {what} was there")),
    }
}
