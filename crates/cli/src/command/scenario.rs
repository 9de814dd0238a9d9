//! `godwit scenario check`.

use std::process::ExitCode;

use crate::args::Scenario;
use crate::failure::{BAD_INPUT, Result};

pub fn run(command: Scenario) -> Result {
    let Scenario::Check { files } = command;
    let mut code = ExitCode::SUCCESS;
    for file in files {
        match super::read_scenario(&file) {
            Ok(scenario) => println!(
                "{}: ok: {}, {:.0} s, {} node(s), {} user(s), {} workload(s), policy {}",
                file.display(),
                scenario.name,
                scenario.duration.as_secs_f64(),
                scenario.nodes.len(),
                scenario.users.len(),
                scenario.workloads.len(),
                scenario.policy.name,
            ),
            Err(failure) => {
                failure.print();
                code = ExitCode::from(BAD_INPUT);
            }
        }
    }
    Ok(code)
}
