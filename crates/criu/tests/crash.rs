//! The process that moves a container is killed, and another one puts things in order.

#[path = "world/runner.rs"]
mod runner;
mod world;

use std::process::ExitCode;

use godwit_criu::{
    DumpOptions, ImagesDir, PreparedDump, PreparedRestore, RestoreOptions, Runc, Status, clear_target, end_source,
    recover_source,
};
use runner::{kill_mover_at, reached};
use world::{BUNDLE, Node, World, limit};

fn main() -> ExitCode {
    let tests = tests![
        a_mover_killed_before_the_commit_point_leaves_a_source_that_can_be_recovered,
        a_mover_killed_after_the_commit_point_leaves_a_source_that_ends_in_silence,
    ];
    runner::run(mover, tests)
}

/// The process that is killed.
fn mover(step: &str) {
    let env = |name| Node::env_of(&std::env::var(name).unwrap());
    let images = || ImagesDir::create(std::env::var("GWT_IMAGES").unwrap()).unwrap();
    let dump = PreparedDump::new(&env("GWT_A"), "app", images(), DumpOptions::default(), &limit()).unwrap();
    let options = RestoreOptions::new(BUNDLE);
    let restore = PreparedRestore::new(&env("GWT_B"), "app", images(), dump.plan(), options, &limit()).unwrap();
    let frozen = dump.freeze(&limit()).unwrap();
    reached(step, "frozen");
    let _held = frozen.dump(&limit()).unwrap();
    reached(step, "held");
    let restored = restore.restore(&limit()).unwrap();
    reached(step, "restored");
    let _running = restored.resume(&limit()).unwrap();
    reached(step, "running");
}

fn a_mover_killed_before_the_commit_point_leaves_a_source_that_can_be_recovered() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    for step in ["frozen", "held", "restored"] {
        kill_mover_at(&world, step, "");
        clear_target(&world.b.env, "app", &limit()).unwrap();
        assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
        let released = recover_source(&world.a.env, "app", &limit()).unwrap();
        world.a.block(false);
        released.thaw().unwrap();
        world.b.block(false);
        client.wait_for(20);
    }
    // Nothing to do, twice: nothing is done.
    clear_target(&world.b.env, "app", &limit()).unwrap();
    world.move_between(&world.a, &world.b, "b", "app", "again");
    client.wait_for(20);
    client.stop().unwrap();
}

fn a_mover_killed_after_the_commit_point_leaves_a_source_that_ends_in_silence() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    kill_mover_at(&world, "running", "");
    assert_eq!(Runc::new(&world.b.env).state("app", &limit()).unwrap().status, Status::Running);
    // The source's CRIU has rolled back: its sockets are live. Open, so a FIN or RST would reach the client.
    world.route_to("b");
    world.a.block(false);
    end_source(&world.a.env, "app", &limit()).unwrap();
    end_source(&world.a.env, "app", &limit()).unwrap();
    assert!(Runc::new(&world.a.env).list(&limit()).unwrap().is_empty());
    world.b.block(false);
    client.wait_for(20);
    client.stop().unwrap();
}
