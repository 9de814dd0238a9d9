//! A controller is killed when it enters a phase, alone or together with both agents; another controller ends what the journal
//! has open. Afterwards exactly one copy runs, the client's connection is alive, no answer was lost, and memory is right.
//!
//! As root, with the node image; controller and agents are processes of this binary.

#![allow(unreachable_pub, reason = "a test binary has no outside; pub says what its modules use of each other")]

mod parties;
#[path = "../../../criu/tests/world/mod.rs"]
mod world;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use godwit_criu::{Runc, Status};
use godwit_model::{Outcome, Phase, Strategy};
use libtest_mimic::{Arguments, Trial};

use parties::{Cast, ROLE, Role};
use world::{World, limit};

fn main() -> ExitCode {
    // What an agent makes of its own program, whatever role that has.
    if std::env::args().nth(1).is_some_and(|arg| arg == "page-handler") {
        return godwit_agent::page_handler();
    }
    if let Ok(role) = std::env::var(ROLE) {
        serde_json::from_str::<Role>(&role).unwrap().play();
        return ExitCode::SUCCESS;
    }
    let tests: [(&str, fn()); 6] = [
        ("a_controller_killed_in_any_phase_of_stop_copy", || in_every_phase(Strategy::StopCopy, false)),
        ("a_controller_killed_in_any_phase_of_pre_copy", || in_every_phase(Strategy::PreCopy, false)),
        ("a_controller_killed_in_any_phase_of_post_copy", || in_every_phase(Strategy::PostCopy, false)),
        ("a_controller_and_both_agents_killed_in_any_phase_of_stop_copy", || in_every_phase(Strategy::StopCopy, true)),
        ("a_controller_and_both_agents_killed_in_any_phase_of_pre_copy", || in_every_phase(Strategy::PreCopy, true)),
        ("a_controller_and_both_agents_killed_in_any_phase_of_post_copy", || in_every_phase(Strategy::PostCopy, true)),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), tests.into_iter().map(trial).collect()).exit_code()
}

fn in_every_phase(strategy: Strategy, agents_too: bool) {
    if strategy != Strategy::StopCopy
        && let Err(why) = godwit_memory::supported()
    {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let world = World::new(&image_or_skip!());
    let mut cast = Cast::new(&world);
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    let mut at = 0;
    for phase in Phase::ALL {
        if phase == Phase::PreCopy && strategy == Strategy::StopCopy {
            continue;
        }
        let died = cast.controller(strategy, at, &phase.to_string());
        assert_eq!(died.signal(), Some(9), "it does not die in {phase}: {died}");
        if agents_too {
            cast.kill_agents();
        }
        let ended = cast.recover();
        // The one moment that harms: it runs, and whoever had the rest of its memory is killed. It is told, and nothing of it
        // runs on without that.
        if agents_too
            && phase == Phase::Drain
            && strategy == Strategy::PostCopy
            && ended.as_ref().is_some_and(|ended| ended.outcome == Outcome::Lost)
        {
            for node in [&world.a, &world.b] {
                assert!(Runc::new(&node.env).list(&limit()).unwrap().is_empty(), "lost, and not gone: {ended:?}");
            }
            assert_eq!((cast.open(), cast.images()), (Vec::new(), Vec::new()), "lost: {ended:?}");
            return;
        }
        // What the journal has is what counts, and whether the target has run.
        let expected = match phase {
            Phase::Switch if agents_too => Outcome::RolledBack,
            Phase::Switch | Phase::Drain => Outcome::Done,
            _ => Outcome::RolledBack,
        };
        assert_eq!(ended.as_ref().map(|ended| ended.outcome), Some(expected), "killed in {phase}: {ended:?}");
        if expected == Outcome::Done {
            at = 1 - at;
        }
        client.wait_for(20);
        for (side, node) in [&world.a, &world.b].into_iter().enumerate() {
            let known = Runc::new(&node.env).list(&limit()).unwrap();
            let running: Vec<_> = known.iter().map(|container| (container.id.as_str(), container.status)).collect();
            let wanted: &[(&str, Status)] = if side == at { &[("app", Status::Running)] } else { &[] };
            assert_eq!(running, wanted, "killed in {phase}, on node {side}: {ended:?}");
        }
        assert_eq!((cast.open(), cast.images()), (Vec::new(), Vec::new()), "killed in {phase}: {ended:?}");
    }
    // And it moves as ever.
    assert!(cast.controller(strategy, at, "none").success());
    assert!(cast.recover().is_none());
    client.wait_for(20);
    client.stop().unwrap();
}
