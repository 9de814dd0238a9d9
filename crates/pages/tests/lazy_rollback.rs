//! Before the commit point a lazy move can be given up at any step, whatever has become of CRIU or the handler; the service
//! runs on with its connection and its memory.

#[path = "world/lazy.rs"]
mod lazy;
#[path = "world/memory.rs"]
mod memory;
#[path = "../../criu/tests/world/mod.rs"]
mod world;

use std::time::Duration;

use godwit_criu::{HeldDump, Limit, Runc, Status};
use godwit_pages::{Error, PAGE};
use lazy::{Mode, assert_unharmed, running_world};
use memory::CHECK;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::{World, limit};

fn roll_back(world: &World, held: HeldDump) {
    let released = held.rollback().unwrap();
    world.a.block(false);
    released.thaw().unwrap();
}

#[test]
fn a_rolled_back_container_runs_on_with_its_connection_and_memory() {
    for mode in [Mode::Lazy, Mode::ByCriu] {
        let (world, client) = running_world(&image_or_skip!());
        let frozen = lazy::freeze_as(&world, &world.a, &world.b, "i", &[], mode, 2);
        let held = frozen.dump.dump(&limit()).unwrap();
        frozen.restore.cancel().unwrap();
        roll_back(&world, held);
        assert_unharmed(&world, client);
    }
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
    for mode in [Mode::Lazy, Mode::ByCriu] {
        let (world, client) = running_world(&image_or_skip!());
        let frozen = lazy::freeze_as(&world, &world.a, &world.b, "i", &[], mode, 2);
        let held = frozen.dump.dump(&limit()).unwrap();
        drop(frozen.restore);
        kill(Pid::from_raw(held.criu_pid()), Signal::SIGKILL).unwrap();
        roll_back(&world, held);
        assert_unharmed(&world, client);
    }
}

#[test]
fn a_commit_sends_nothing_to_the_client() {
    for mode in [Mode::Lazy, Mode::ByCriu] {
        let (world, client) = running_world(&image_or_skip!());
        let (held, restored, handler) =
            lazy::freeze_as(&world, &world.a, &world.b, "i", &[], mode, 2).copy_and_restore();
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
    let largest = frozen.store.ranges(member.pid).into_iter().max_by_key(|r| r.end - r.start).unwrap();
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
