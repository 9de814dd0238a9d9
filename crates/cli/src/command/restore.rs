//! `godwit restore`: a checkpoint back into a running testbed.

use std::process::ExitCode;

use godwit_testbed::{Ask, Reply, RestoreCheckpoint, Restored, TcpChoice};

use super::checkpoint::{absolute, ask_with_progress, not_done};
use crate::args::{Restore, Tcp};
use crate::failure::Result;

pub fn run(args: Restore) -> Result {
    let what = RestoreCheckpoint {
        path: absolute(&args.path)?,
        node: args.node,
        copy: args.copy,
        tcp: match args.tcp {
            Tcp::Auto => TcpChoice::Auto,
            Tcp::Close => TcpChoice::Close,
            Tcp::Keep => TcpChoice::Keep,
        },
    };
    match ask_with_progress(&args.which.name, &Ask::Restore(what), "reading")? {
        Reply::Restored { restored } => {
            if args.json {
                println!("{}", serde_json::to_string_pretty(&restored)?);
            } else {
                print!("{}", sentence(&restored));
            }
            Ok(ExitCode::SUCCESS)
        }
        other => Err(not_done(other, "restore")),
    }
}

fn sentence(restored: &Restored) -> String {
    let when = if restored.created.is_empty() { String::new() } else { format!(" as of {}", restored.created) };
    let connections = if restored.connections_kept { "went on" } else { "were closed, if there were any" };
    let mut text = format!(
        "{} runs on {} at {}{when}; its TCP connections {connections}\n",
        restored.workload, restored.node, restored.service
    );
    for note in &restored.notes {
        text.push_str(&format!("  {note}\n"));
    }
    text
}
