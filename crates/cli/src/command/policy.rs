//! `godwit policy list | schema | decide`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use godwit_model::Snapshot;
use serde_json::json;

use crate::args::Policy;
use crate::failure::{BAD_INPUT, Fail, Failure, Result};

pub fn run(command: Policy) -> Result {
    match command {
        Policy::List { json } => list(json),
        Policy::Schema { policy } => {
            println!("{:#}", godwit_policy::schema(&policy).bad_input()?);
            Ok(ExitCode::SUCCESS)
        }
        Policy::Decide { policy, set, file } => decide(&policy, &super::parameters(&set), &file),
    }
}

fn list(json: bool) -> Result {
    let policies = godwit_policy::list();
    if json {
        let rows: Vec<_> = policies.iter().map(|p| json!({"name": p.name, "description": p.description})).collect();
        println!("{:#}", json!(rows));
    } else {
        for policy in policies {
            println!("{:<12} {}", policy.name, policy.description);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn decide(policy: &str, parameters: &serde_json::Value, file: &Path) -> Result {
    let policy = godwit_policy::build(policy, parameters).bad_input()?;
    let (name, input): (_, Box<dyn BufRead>) = if file == Path::new("-") {
        ("<stdin>".to_owned(), Box::new(io::stdin().lock()))
    } else {
        let name = file.display().to_string();
        let opened = File::open(file).bad_input_in(format!("{name} cannot be read"))?;
        (name, Box::new(BufReader::new(opened)))
    };
    let mut out = io::stdout().lock();
    for (number, line) in input.lines().enumerate() {
        let line = line.bad_input_in(format!("{name} cannot be read"))?;
        if line.trim().is_empty() {
            continue;
        }
        let snapshot: Snapshot = serde_json::from_str(&line).map_err(|error| {
            // serde_json counts lines within the line.
            let (column, what) = (error.column(), error.to_string());
            let what = what.split_once(" at line ").map_or(what.as_str(), |(what, _)| what);
            Failure::new(BAD_INPUT, format!("{name}:{}:{column}: this is no snapshot: {what}", number + 1))
        })?;
        let decisions = policy.decide(&snapshot);
        let answer = match decisions.as_slice() {
            [one] => serde_json::to_string(one),
            many => serde_json::to_string(&json!({ "decisions": many })),
        };
        let answer = answer.expect("a decision has only string keys");
        if let Err(error) = writeln!(out, "{answer}").and_then(|()| out.flush()) {
            // Whoever read the decisions has read enough (`| head`).
            return if error.kind() == io::ErrorKind::BrokenPipe { Ok(ExitCode::SUCCESS) } else { Err(error.into()) };
        }
    }
    Ok(ExitCode::SUCCESS)
}
