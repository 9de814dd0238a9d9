//! What runs tests whose binary is also the process that is killed in them: cargo's own harness would have to be told
//! about that process as if it were a test.

#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;

use libtest_mimic::{Arguments, Trial};

use crate::world::World;

/// Says in the environment up to where a mover goes.
const STEP: &str = "GWT_STEP";

/// A test by its name.
pub type Test = (&'static str, fn());

/// The list, by the functions' names.
#[macro_export]
macro_rules! tests {
    ($($test:ident),* $(,)?) => { &[$((stringify!($test), $test as fn())),*] };
}

/// The whole of `main`: runs `mover` where [`kill_mover_at`] has started us, else the tests, as the arguments say.
pub fn run(mover: fn(&str), tests: &[Test]) -> ExitCode {
    if let Ok(step) = std::env::var(STEP) {
        mover(&step);
        return ExitCode::SUCCESS;
    }
    let trial = |(name, test): &Test| {
        let test = *test;
        Trial::test(*name, move || {
            test();
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), tests.iter().map(trial).collect()).exit_code()
}

/// In the mover: says that it has come to `name`, and waits there to be killed if that is the step.
pub fn reached(step: &str, name: &str) {
    if step == name {
        eprintln!("reached");
        loop {
            std::thread::park();
        }
    }
}

/// Runs a mover, from node a to node b, up to a step, and kills it there; at `kills_itself` it does so.
pub fn kill_mover_at(world: &World, step: &str, kills_itself: &str) {
    world.b.write_bundle("app", 16, &[]);
    world.a.block(true);
    world.b.block(true);
    let mut mover = Command::new(std::env::current_exe().unwrap())
        .env(STEP, step)
        .env("GWT_A", world.a.description())
        .env("GWT_B", world.b.description())
        .env("GWT_IMAGES", world.images("i").path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (said, heard) = mpsc::channel();
    let lines = BufReader::new(mover.stderr.take().unwrap()).lines().map_while(Result::ok);
    // A thread, for whoever inherits its end of the pipe may keep it open.
    std::thread::spawn(move || {
        for line in lines {
            eprintln!("mover: {line}");
            let _ = said.send(line);
        }
    });
    let there = step == kills_itself || heard.iter().any(|line| line == "reached");
    if step != kills_itself {
        mover.kill().unwrap();
    }
    mover.wait().unwrap();
    assert!(there, "the mover failed before {step}");
}
