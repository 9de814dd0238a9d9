//! Before the commit point a lazy move can be given up at any step, whatever has become of CRIU, the handler or the
//! process that moves; the service runs on with its connection and its memory.

#[path = "world/lazy.rs"]
mod lazy;
#[path = "world/memory.rs"]
mod memory;
#[path = "../../criu/tests/world/mod.rs"]
mod world;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use godwit_criu::{
    DumpOptions, HeldDump, ImagesDir, Limit, MemoryMode, PreparedDump, Runc, Status, clear_target, end_source,
    recover_source,
};
use godwit_pages::{Error, PAGE};
use memory::CHECK;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::{Client, Node, World, limit};

fn running_world(image: &Path) -> (World, Client) {
    let world = World::new(image);
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    client.wait_for(10);
    (world, client)
}

fn roll_back(world: &World, held: HeldDump) {
    let released = held.rollback().unwrap();
    world.a.block(false);
    released.thaw().unwrap();
}

/// The service runs on the source with its connection and memory, and it can be moved.
fn assert_unharmed(world: &World, client: Client) {
    world.b.block(false);
    client.wait_for(50);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty(), "the target has kept something");
    lazy::move_between(world, &world.a, &world.b, "b", "again", &[]);
    client.wait_for(20);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

#[test]
fn a_rolled_back_container_runs_on_with_its_connection_and_memory() {
    let (world, client) = running_world(&image_or_skip!());
    let frozen = lazy::freeze(&world, &world.a, &world.b, "i", &[]);
    let held = frozen.dump.dump(&limit()).unwrap();
    frozen.restore.cancel().unwrap();
    roll_back(&world, held);
    assert_unharmed(&world, client);
}

#[test]
fn dropping_everything_at_the_hold_is_a_roll_back() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restored, handler) = lazy::freeze(&world, &world.a, &world.b, "i", &[]).copy_and_restore();
    drop((restored, handler));
    drop(held);
    world.a.block(false);
    assert_unharmed(&world, client);
}

#[test]
fn killing_criu_while_it_holds_leaves_a_container_that_can_be_rolled_back() {
    let (world, client) = running_world(&image_or_skip!());
    let frozen = lazy::freeze(&world, &world.a, &world.b, "i", &[]);
    let held = frozen.dump.dump(&limit()).unwrap();
    drop(frozen.restore);
    kill(Pid::from_raw(held.criu_pid()), Signal::SIGKILL).unwrap();
    roll_back(&world, held);
    assert_unharmed(&world, client);
}

#[test]
fn a_commit_sends_nothing_to_the_client() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restored, handler) = lazy::freeze(&world, &world.a, &world.b, "i", &[]).copy_and_restore();
    handler.check().unwrap();
    // Open: a FIN or RST of the source's would reach the client, whose own packets go to the blocked target.
    world.route_to("b");
    world.a.block(false);
    held.commit(&limit()).unwrap();
    assert_eq!(Runc::new(&world.a.env).state("app", &limit()).unwrap().status, Status::Stopped);
    let running = restored.resume(&limit()).unwrap();
    world.b.block(false);
    client.wait_for(50);
    handler.wait_filled(lazy::FILLING).unwrap();
    running.finish(&limit()).unwrap();
    client.stop().unwrap();
}

#[test]
fn an_aborted_restore_sends_nothing_and_leaves_nothing_even_when_it_was_filled() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restored, handler) = lazy::freeze(&world, &world.a, &world.b, "i", &[]).copy_and_restore();
    handler.start_filling();
    handler.wait_ready(lazy::FILLING).unwrap();
    world.b.block(false);
    restored.abort().unwrap();
    world.b.block(true);
    assert!(matches!(handler.wait_filled(lazy::FILLING), Err(Error::Aborted)));
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
    roll_back(&world, held);
    assert_unharmed(&world, client);
}

#[test]
fn a_page_that_is_missing_is_named_before_the_commit_and_the_restore_can_be_given_up() {
    let (world, client) = running_world(&image_or_skip!());
    let frozen = lazy::freeze(&world, &world.a, &world.b, "i", &[]);
    frozen.copy();
    let member = frozen.dump.members().unwrap()[0];
    let largest = memory::mappings(member.host_pid).into_iter().max_by_key(|r| r.end - r.start).unwrap();
    // A mapping may be large and empty.
    let there = memory::present(member.host_pid, largest.clone());
    let largest = there.first().cloned().unwrap_or_else(|| frozen.store.ranges(member.pid)[0].clone());
    let middle = largest.start + (largest.end - largest.start) / 2 / PAGE * PAGE;
    frozen.store.forget(member.pid, middle..middle + PAGE).unwrap();
    let (held, restored, handler) = frozen.restore();
    let handler = handler.unwrap();
    match handler.check() {
        Err(Error::Missing { pid, ranges }) => {
            assert!(pid == member.pid && ranges.as_slice() == std::slice::from_ref(&(middle..middle + PAGE)))
        }
        other => panic!("{other:?}"),
    }
    restored.abort().unwrap();
    drop(handler);
    roll_back(&world, held);
    assert_unharmed(&world, client);
}

#[test]
fn without_a_handler_the_restore_fails_and_leaves_nothing() {
    let (world, client) = running_world(&image_or_skip!());
    let frozen = lazy::freeze(&world, &world.a, &world.b, "i", &[]);
    drop(frozen.handler);
    let held = frozen.dump.dump(&limit()).unwrap();
    let err = frozen.restore.restore(&limit()).unwrap_err();
    assert!(err.to_string().contains("lazy-pages.socket"), "{err}");
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
    roll_back(&world, held);
    assert_unharmed(&world, client);
}

/// What the processes lack is zero then, so they must not get to run. (A handler can only be gone through a bug of the
/// caller's: it lives in the process that moves.)
#[test]
fn a_handler_that_is_gone_before_the_processes_run_makes_the_resumption_fail() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restored, handler) = lazy::freeze(&world, &world.a, &world.b, "i", &[]).copy_and_restore();
    drop(handler);
    let err = restored.resume(&Limit::within(Duration::from_secs(2))).unwrap_err();
    eprintln!("{err}");
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
    roll_back(&world, held);
    client.wait_for(50);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

/// Not a test: the process that is killed. It moves the container up to a step, says so and waits.
#[test]
#[ignore = "run by the other tests in a process of its own"]
fn mover() {
    let Ok(step) = std::env::var("GWT_STEP") else { return };
    let env = |name| Node::env_of(&std::env::var(name).unwrap());
    let images = || ImagesDir::create(std::env::var("GWT_IMAGES").unwrap()).unwrap();
    let reached = |name: &str| {
        if step == name {
            eprintln!("reached");
            loop {
                std::thread::park();
            }
        }
    };
    let options = DumpOptions { memory: MemoryMode::Lazy, ..DumpOptions::default() };
    let dump = PreparedDump::new(&env("GWT_A"), "app", images(), options, &limit()).unwrap();
    let prepared = lazy::prepare(&env("GWT_B"), images(), dump.plan());
    let dump = dump.freeze(&limit()).unwrap();
    let frozen = lazy::Frozen { dump, restore: prepared.0, handler: Some(prepared.1), store: prepared.2 };
    frozen.copy();
    let held = frozen.dump.dump(&limit()).unwrap();
    reached("held");
    let restored = frozen.restore.restore(&limit()).unwrap();
    reached("restored");
    let handler = frozen.handler.unwrap();
    let pids: Vec<i32> = restored.members().unwrap().iter().map(|m| m.host_pid).collect();
    handler.guard(&pids).unwrap();
    reached("guarded");
    let running = restored.resume(&limit()).unwrap();
    if step == "filling" {
        // Whatever the machine's speed, some of it is missing.
        kill(Pid::from_raw(std::process::id() as i32), Signal::SIGKILL).unwrap();
    }
    handler.wait_filled(lazy::FILLING).unwrap();
    reached("filled");
    drop((held, running));
}

/// Runs [`mover`] up to a step and kills it there.
fn kill_mover_at(world: &World, step: &str) {
    world.b.write_bundle("app", 16, &[]);
    world.a.block(true);
    world.b.block(true);
    let mut mover = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "mover", "--nocapture"])
        .env("GWT_STEP", step)
        .env("GWT_A", world.a.description())
        .env("GWT_B", world.b.description())
        .env("GWT_IMAGES", world.images("i").path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(mover.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = said.inspect(|line| eprintln!("mover: {line}"));
    if step == "filling" {
        // It kills itself.
        said.for_each(drop);
    } else {
        assert!(said.any(|line| line == "reached"), "the mover failed before {step}");
        mover.kill().unwrap();
    }
    mover.wait().unwrap();
}

#[test]
fn a_mover_killed_before_the_commit_point_leaves_a_source_that_can_be_recovered() {
    let (world, client) = running_world(&image_or_skip!());
    for step in ["held", "restored", "guarded"] {
        kill_mover_at(&world, step);
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

#[test]
fn a_mover_killed_after_the_filling_leaves_a_source_that_ends_in_silence() {
    let (world, client) = running_world(&image_or_skip!());
    kill_mover_at(&world, "filled");
    assert_eq!(Runc::new(&world.b.env).state("app", &limit()).unwrap().status, Status::Running);
    world.route_to("b");
    world.a.block(false);
    end_source(&world.a.env, "app", &limit()).unwrap();
    world.b.block(false);
    client.wait_for(20);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

#[test]
fn a_mover_killed_while_it_fills_ends_the_target_before_it_sees_a_wrong_page() {
    let (world, client) = running_world(&image_or_skip!());
    kill_mover_at(&world, "filling");
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
