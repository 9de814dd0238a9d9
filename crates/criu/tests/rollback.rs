//! After a dump the source can be brought back, whatever has become of CRIU or the target.

mod world;

use std::time::Duration;

use godwit_criu::{
    DumpOptions, Error, PreparedDump, PreparedRestore, RestoreOptions, RestorePlan, Runc, Status, Version,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::{BUNDLE, Client, World, limit};

fn running_world(image: &std::path::Path) -> (World, Client) {
    let world = World::new(image);
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    client.wait_for(10);
    (world, client)
}

/// The service runs on the source, its connection is alive, and it can be moved.
fn assert_unharmed(world: &World, client: Client) {
    world.b.block(false);
    client.wait_for(50);
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty(), "the target has kept something");
    world.move_between(&world.a, &world.b, "b", "app", "again");
    client.wait_for(20);
    client.stop().unwrap();
}

#[test]
fn a_rolled_back_container_runs_on_with_its_connection() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    restore.cancel().unwrap();
    let released = held.rollback().unwrap();
    world.a.block(false);
    released.thaw().unwrap();
    assert_unharmed(&world, client);
}

#[test]
fn dropping_a_held_dump_is_a_rollback() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    drop(restore);
    drop(held);
    world.a.block(false);
    assert_unharmed(&world, client);
}

#[test]
fn a_frozen_container_that_is_not_dumped_runs_on() {
    let (world, client) = running_world(&image_or_skip!());
    let dump = PreparedDump::new(&world.a.env, "app", world.images("i"), DumpOptions::default(), &limit()).unwrap();
    drop(dump.freeze(&limit()).unwrap());
    client.wait_for(20);
    assert_eq!(Runc::new(&world.a.env).state("app", &limit()).unwrap().status, Status::Running);
    client.stop().unwrap();
}

#[test]
fn killing_criu_while_it_holds_leaves_a_container_that_can_be_rolled_back() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    drop(restore);
    kill(Pid::from_raw(held.criu_pid()), Signal::SIGKILL).unwrap();
    let released = held.rollback().unwrap();
    world.a.block(false);
    released.thaw().unwrap();
    assert_unharmed(&world, client);
}

#[test]
fn killing_criu_while_it_holds_does_not_prevent_a_commit() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    kill(Pid::from_raw(held.criu_pid()), Signal::SIGKILL).unwrap();
    let restored = restore.restore(&limit()).unwrap();
    // Open: a FIN or RST of the source's would reach the client, whose own packets go to the blocked target.
    world.route_to("b");
    world.a.block(false);
    held.commit(&limit()).unwrap();
    assert_eq!(Runc::new(&world.a.env).state("app", &limit()).unwrap().status, Status::Stopped);
    let running = restored.resume(&limit()).unwrap();
    world.b.block(false);
    running.finish(&limit()).unwrap();
    client.wait_for(50);
    client.stop().unwrap();
}

#[test]
fn a_commit_sends_nothing_to_the_client() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    let restored = restore.restore(&limit()).unwrap();
    world.route_to("b");
    world.a.block(false);
    held.commit(&limit()).unwrap();
    let running = restored.resume(&limit()).unwrap();
    world.b.block(false);
    running.finish(&limit()).unwrap();
    client.wait_for(50);
    client.stop().unwrap();
}

#[test]
fn an_aborted_restore_sends_nothing_and_leaves_nothing() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    let restored = restore.restore(&limit()).unwrap();
    // Open: a FIN or RST would reach the client. Its own packets go to the source, which is blocked: here they would
    // find no socket after the abort.
    world.b.block(false);
    restored.abort().unwrap();
    world.b.block(true);
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
    let released = held.rollback().unwrap();
    world.a.block(false);
    released.thaw().unwrap();
    assert_unharmed(&world, client);
}

#[test]
fn dropping_a_held_restore_is_an_abort() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    drop(restore.restore(&limit()).unwrap());
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
    let released = held.rollback().unwrap();
    world.a.block(false);
    released.thaw().unwrap();
    assert_unharmed(&world, client);
}

#[test]
fn killing_criu_while_it_holds_a_restore_leaves_nothing() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    let restored = restore.restore(&limit()).unwrap();
    kill(Pid::from_raw(restored.criu_pid()), Signal::SIGKILL).unwrap();
    let err = restored.resume(&limit()).unwrap_err();
    assert!(err.to_string().contains("criu was killed by signal 9"), "{err}");
    let released = held.rollback().unwrap();
    world.a.block(false);
    released.thaw().unwrap();
    assert_unharmed(&world, client);
}

/// Kills CRIU at moments spread over the whole dump. Which moment is hit varies. The connection may not survive (see
/// the crate's documentation), but nothing hangs and nobody is told that all is well when it is not.
#[test]
fn killing_criu_at_any_moment_of_a_dump_leaves_a_container_that_runs_or_is_known_to_have_ended() {
    let world = World::new(&image_or_skip!());
    let runc = Runc::new(&world.a.env);
    for moment in (0..16_000).step_by(1000) {
        world.a.run_counter("app", 16, &[]);
        let client = world.client();
        let images = world.images(&format!("moment{moment}"));
        let dump = PreparedDump::new(&world.a.env, "app", images, DumpOptions::default(), &limit()).unwrap();
        world.a.block(true);
        let frozen = dump.freeze(&limit()).unwrap();
        let criu = Pid::from_raw(frozen.criu_pid());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(moment));
            kill(criu, Signal::SIGKILL)
        });
        let back = match frozen.dump(&limit()) {
            Ok(held) => held.rollback().unwrap(),
            Err(failed) => failed.back,
        };
        let _ = killer.join().unwrap();
        world.a.block(false);
        back.thaw().unwrap();
        let _ = client.stop();
        if runc.state("app", &limit()).unwrap().status == Status::Running {
            world.client().stop().unwrap();
        }
        runc.delete("app", true, &limit()).unwrap();
    }
}

#[test]
fn killing_criu_at_any_moment_of_a_restore_leaves_nothing_on_the_target() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    drop(restore);
    for moment in (0..20_000).step_by(1000) {
        let restore = world.prepare_target("app", held.plan());
        let criu = Pid::from_raw(restore.criu_pid());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(moment));
            kill(criu, Signal::SIGKILL)
        });
        match restore.restore(&limit()) {
            Ok(restored) => restored.abort().unwrap(),
            Err(e) => assert!(!e.to_string().contains("and then"), "{e}"),
        }
        let _ = killer.join().unwrap();
        assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
    }
    let released = held.rollback().unwrap();
    world.a.block(false);
    released.thaw().unwrap();
    assert_unharmed(&world, client);
}

#[test]
fn images_of_a_later_criu_are_refused_before_the_freeze_and_nothing_is_left() {
    let (world, client) = running_world(&image_or_skip!());
    world.b.write_bundle("app", 16, &[]);
    let dump = PreparedDump::new(&world.a.env, "app", world.images("i"), DumpOptions::default(), &limit()).unwrap();
    let mut plan = dump.plan().clone();
    let own = plan.criu.expect("the source says it");
    plan.criu = Some(Version { major: own.major, minor: own.minor + 1, patch: 0 });
    let prepare = |plan: &RestorePlan| {
        PreparedRestore::new(&world.b.env, "app", world.images("i"), plan, RestoreOptions::new(BUNDLE), &limit())
    };
    let refused = prepare(&plan).expect_err("it is not tried");
    assert!(matches!(refused, Error::CriuOlderThanImages { .. }), "{refused}");
    // Nothing is in the way of another one.
    plan.criu = Some(own);
    prepare(&plan).expect("its own images it understands").cancel().expect("cancelled");
    drop(dump);
    world.b.block(true);
    assert_unharmed(&world, client);
}

#[test]
fn images_that_are_missing_make_a_restore_fail_with_criu_s_words() {
    let (world, client) = running_world(&image_or_skip!());
    let (held, restore) = world.hold_source("app");
    let pages = held.images().files().unwrap().into_iter().find(|(name, _)| name.starts_with("pages")).unwrap();
    std::fs::remove_file(held.images().path().join(pages.0)).unwrap();
    let err = restore.restore(&limit()).unwrap_err();
    assert!(err.to_string().starts_with("criu restore failed: "), "{err}");
    eprintln!("{err}");
    let released = held.rollback().unwrap();
    world.a.block(false);
    released.thaw().unwrap();
    assert_unharmed(&world, client);
}
