//! The binary `godwit`: reads what was typed, hands it to a world, and says what came of it.
//!
//! ```text
//!   args ──► command::* ──► sim | testbed ──► report
//!               │                │
//!               └── failure ◄────┴──► view (live in a terminal, plain lines elsewhere)
//! ```
//! Standard output carries results only; progress, warnings and errors go to standard error. An error is printed once,
//! with its whole chain of causes and, where there is one, the next step.

#![allow(unreachable_pub, reason = "a binary has no outside; pub says what its modules use of each other")]

#[macro_use]
mod speak;

mod args;
mod command;
mod failure;
mod interrupt;
mod view;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    match run(cli.command) {
        Ok(code) if code == ExitCode::SUCCESS && !speak::all_was_written() => ExitCode::from(failure::NOT_WELL),
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: Command) -> failure::Result {
    match command {
        Command::Demo(args) => command::demo::run(args),
        Command::Run(args) => command::run::run(args),
        Command::Testbed { command } => command::testbed::run(command),
        Command::Migrate(args) => command::migrate::run(args),
        Command::Checkpoint(args) => command::checkpoint::run(args),
        Command::Restore(args) => command::restore::run(args),
        Command::Status(args) => command::status::run(&args),
        Command::Journal(args) => command::journal::run(&args),
        Command::Scenario { command } => command::scenario::run(command),
        Command::Policy { command } => command::policy::run(command),
        Command::Bench { command } => command::bench::run(command),
        Command::Doctor(args) => command::doctor::run(&args),
        Command::Completions { shell } => command::reference::completions(shell),
        Command::Man { dir } => command::reference::man(&dir),
        Command::NodeInit { config } => command::inside::node_init(&config),
        Command::Agent { config } => command::inside::agent(&config),
        Command::PageHandler => Ok(godwit_agent::page_handler()),
        Command::Service(args) => command::inside::service(&args),
    }
}

fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}
