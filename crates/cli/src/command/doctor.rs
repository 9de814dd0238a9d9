//! `godwit doctor`: what this host has and lacks, and what follows.

use std::process::ExitCode;

use godwit_testbed::{Finding, Has, examine};

use crate::args::Doctor;
use crate::failure::{LACKING, Result};

pub fn run(args: &Doctor) -> Result {
    let findings = examine(&args.node_image.path());
    let lacking = findings.iter().any(|f| f.has == Has::No);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for Finding { what, has, detail, follows } in &findings {
            let mark = match has {
                Has::Yes => "ok  ",
                Has::Partly => "note",
                Has::No => "MISS",
            };
            println!("{mark}  {what:<18}  {detail}");
            if let Some(follows) = follows {
                println!("{:<26}-> {follows}", "");
            }
        }
        println!();
        println!(
            "{}",
            if lacking { "The testbed cannot run here; --world sim can." } else { "The testbed can run here." }
        );
    }
    Ok(if lacking { ExitCode::from(LACKING) } else { ExitCode::SUCCESS })
}
