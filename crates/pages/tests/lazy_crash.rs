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
    DumpOptions, ImagesDir, MemoryMode, PreparedDump, Runc, Status, clear_target, end_source, finish_target,
    recover_source, survives_whole,
};
use lazy::{assert_unharmed, running_world};
use memory::{CHECK, STIR};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runner::{kill_mover_at, reached};
use world::{Node, World, limit};

/// Steps at which the mover kills itself, and before that its handler, the handler's guard, both, or both but not itself.
const KILLS_ITSELF: &str = "filling";
const AND_ITS_HANDLER: &str = "handler";
const AND_THE_GUARD: &str = "guard";
const AND_BOTH: &str = "both";
/// It kills itself, and says which process its handler is.
const NAMES_ITS_HANDLER: &str = "names";

fn main() -> ExitCode {
    let tests = tests![
        a_mover_killed_before_the_commit_point_leaves_a_source_that_can_be_recovered,
        a_mover_killed_after_the_filling_leaves_a_source_that_ends_in_silence,
        a_mover_killed_while_memory_is_put_in_place_does_not_harm_the_target,
        a_handler_killed_while_it_fills_is_replaced_by_its_guard,
        a_guard_that_is_killed_does_not_harm_the_target,
        a_guard_knows_what_the_processes_have_done_to_their_mappings,
        a_handler_killed_with_its_guard_ends_the_target_before_it_sees_a_wrong_page,
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
    if [KILLS_ITSELF, AND_ITS_HANDLER, AND_THE_GUARD, AND_BOTH, NAMES_ITS_HANDLER].contains(&step) {
        let filler = child_of(Pid::this(), "godwit-pages");
        let guard = child_of(filler, "godwit-guard");
        let killed: &[Pid] = match step {
            AND_ITS_HANDLER => &[filler],
            AND_THE_GUARD => &[guard],
            AND_BOTH => &[filler, guard],
            _ => &[],
        };
        if step == NAMES_ITS_HANDLER {
            std::fs::write(images().path().join(NAMES_ITS_HANDLER), filler.to_string()).unwrap();
        }
        if step == AND_BOTH {
            // So that neither has time to notice.
            killed.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
        }
        killed.iter().for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
        assert_eq!(handler.stats().fill, Duration::ZERO, "all is filled already");
        if step == AND_BOTH {
            let error = handler.wait_filled(lazy::FILLING).unwrap_err().to_string();
            assert!(error.contains("was killed, and its guard too"), "{error}");
            // As whoever is told of that does. The handler is dropped after it.
            pids.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap());
            return;
        }
        kill(Pid::this(), Signal::SIGKILL).unwrap();
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

/// A child by its name, which it has a moment after it was forked.
fn child_of(parent: Pid, name: &str) -> Pid {
    let start = std::time::Instant::now();
    loop {
        let child = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let is_it = field("Name:") == Some(name) && field("PPid:")?.parse() == Ok(parent.as_raw());
            is_it.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
        });
        if let Some(pid) = child {
            return Pid::from_raw(pid);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{parent} has no child {name}");
        std::thread::yield_now();
    }
}

/// A move of as much memory as cannot have been filled when the mover ends.
fn kill_while_it_fills(image: &std::path::Path, step: &str) -> (World, world::Client) {
    let world = World::new(image);
    world.a.run_counter("app", 1024, &[]);
    let client = world.client();
    kill_mover_at(&world, step, step);
    (world, client)
}

fn assert_goes_on(image: &std::path::Path, step: &str) {
    let (world, client) = kill_while_it_fills(image, step);
    world.route_to("b");
    world.b.block(false);
    assert!(survives_whole(&world.b.env, "app", &limit()).unwrap(), "the target was ended");
    finish_target(&world.b.env, "app").unwrap();
    end_source(&world.a.env, "app", &limit()).unwrap();
    world.a.block(false);
    client.wait_for(20);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

fn a_mover_killed_while_memory_is_put_in_place_does_not_harm_the_target() {
    assert_goes_on(&image_or_skip!(), KILLS_ITSELF);
}

fn a_handler_killed_while_it_fills_is_replaced_by_its_guard() {
    assert_goes_on(&image_or_skip!(), AND_ITS_HANDLER);
}

fn a_guard_that_is_killed_does_not_harm_the_target() {
    assert_goes_on(&image_or_skip!(), AND_THE_GUARD);
}

fn a_guard_knows_what_the_processes_have_done_to_their_mappings() {
    let (world, client) = kill_while_it_fills(&image_or_skip!(), NAMES_ITS_HANDLER);
    let handler = std::fs::read_to_string(world.images("i").path().join(NAMES_ITS_HANDLER)).unwrap();
    world.route_to("b");
    world.b.block(false);
    let members = || godwit_criu::members(&world.b.env, "app").unwrap().len();
    std::thread::scope(|scope| {
        let stirred = scope.spawn(|| world.ask_once(0, STIR));
        // It has moved, dropped and unmapped parts of its memory when it forks.
        while members() < 2 && !stirred.is_finished() {
            std::thread::yield_now();
        }
        // It may be through already.
        let _ = kill(Pid::from_raw(handler.parse().unwrap()), Signal::SIGKILL);
        assert_eq!(stirred.join().unwrap(), 0, "wrong pages");
    });
    assert!(survives_whole(&world.b.env, "app", &limit()).unwrap(), "the target was ended");
    finish_target(&world.b.env, "app").unwrap();
    end_source(&world.a.env, "app", &limit()).unwrap();
    world.a.block(false);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

fn a_handler_killed_with_its_guard_ends_the_target_before_it_sees_a_wrong_page() {
    let (world, client) = kill_while_it_fills(&image_or_skip!(), AND_BOTH);
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
