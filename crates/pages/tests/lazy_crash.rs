//! The process that moves a container lazily is killed, and another one puts things in order.

#[path = "world/lazy.rs"]
mod lazy;
#[path = "world/memory.rs"]
mod memory;
#[path = "../../criu/tests/world/runner.rs"]
mod runner;
#[path = "../../criu/tests/world/mod.rs"]
mod world;

use std::process::ExitCode;
use std::time::Duration;

use godwit_criu::{
    DumpOptions, ImagesDir, MemoryMode, PreparedDump, Runc, Status, clear_target, end_source, recover_source,
};
use lazy::{assert_unharmed, running_world};
use memory::CHECK;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runner::{kill_mover_at, reached};
use world::{Node, World, limit};

/// The step at which the mover kills itself.
const KILLS_ITSELF: &str = "filling";

fn main() -> ExitCode {
    let tests = tests![
        a_mover_killed_before_the_commit_point_leaves_a_source_that_can_be_recovered,
        a_mover_killed_after_the_filling_leaves_a_source_that_ends_in_silence,
        a_mover_killed_while_it_fills_ends_the_target_before_it_sees_a_wrong_page,
    ];
    runner::run(mover, tests)
}

/// The process that is killed.
fn mover(step: &str) {
    let env = |name| Node::env_of(&std::env::var(name).unwrap());
    let images = || ImagesDir::create(std::env::var("GWT_IMAGES").unwrap()).unwrap();
    let options = DumpOptions { memory: MemoryMode::Lazy, ..DumpOptions::default() };
    let dump = PreparedDump::new(&env("GWT_A"), "app", images(), options, &limit()).unwrap();
    let prepared = lazy::prepare(&env("GWT_B"), images(), dump.plan());
    let dump = dump.freeze(&limit()).unwrap();
    let frozen = lazy::Frozen { dump, restore: prepared.0, handler: Some(prepared.1), store: prepared.2 };
    frozen.copy();
    let held = frozen.dump.dump(&limit()).unwrap();
    reached(step, "held");
    let restored = frozen.restore.restore(&limit()).unwrap();
    reached(step, "restored");
    let handler = frozen.handler.unwrap();
    let pids: Vec<i32> = restored.members().unwrap().iter().map(|m| m.host_pid).collect();
    handler.guard(&pids).unwrap();
    reached(step, "guarded");
    let running = restored.resume(&limit()).unwrap();
    if step == KILLS_ITSELF {
        assert_eq!(handler.stats().fill, Duration::ZERO, "all is filled already");
        kill(Pid::from_raw(std::process::id() as i32), Signal::SIGKILL).unwrap();
    }
    handler.wait_filled(lazy::FILLING).unwrap();
    reached(step, "filled");
    drop((held, running));
}

fn a_mover_killed_before_the_commit_point_leaves_a_source_that_can_be_recovered() {
    let (world, client) = running_world(&image_or_skip!());
    for step in ["held", "restored", "guarded"] {
        kill_mover_at(&world, step, KILLS_ITSELF);
        clear_target(&world.b.env, "app", &limit()).unwrap();
        let released = recover_source(&world.a.env, "app", &limit()).unwrap();
        world.a.block(false);
        released.thaw().unwrap();
        world.b.block(false);
        client.wait_for(20);
        assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    }
    world.b.block(true);
    assert_unharmed(&world, client);
}

fn a_mover_killed_after_the_filling_leaves_a_source_that_ends_in_silence() {
    let (world, client) = running_world(&image_or_skip!());
    kill_mover_at(&world, "filled", KILLS_ITSELF);
    assert_eq!(Runc::new(&world.b.env).state("app", &limit()).unwrap().status, Status::Running);
    world.route_to("b");
    world.a.block(false);
    end_source(&world.a.env, "app", &limit()).unwrap();
    world.b.block(false);
    client.wait_for(20);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

fn a_mover_killed_while_it_fills_ends_the_target_before_it_sees_a_wrong_page() {
    let world = World::new(&image_or_skip!());
    // As much as cannot have been filled when the mover ends.
    world.a.run_counter("app", 1024, &[]);
    let client = world.client();
    kill_mover_at(&world, "filling", KILLS_ITSELF);
    let start = std::time::Instant::now();
    while Runc::new(&world.b.env).state("app", &limit()).unwrap().status == Status::Running {
        assert!(start.elapsed() < Duration::from_secs(10), "the target runs on");
    }
    clear_target(&world.b.env, "app", &limit()).unwrap();
    let released = recover_source(&world.a.env, "app", &limit()).unwrap();
    world.a.block(false);
    released.thaw().unwrap();
    client.wait_for(20);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}
