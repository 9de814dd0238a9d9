//! The process that moves a container is killed, and another one puts things in order.

mod world;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use godwit_criu::{
    DumpOptions, ImagesDir, PreparedDump, PreparedRestore, RestoreOptions, Runc, Status, clear_target, end_source,
    recover_source,
};
use world::{BUNDLE, Node, World, limit};

/// Not a test: the process that is killed. It moves the container up to a step, says so and waits.
#[test]
#[ignore = "run by the other tests in a process of its own"]
fn mover() {
    let Ok(step) = std::env::var("GWT_STEP") else { return };
    let env = |name| Node::env_of(&std::env::var(name).unwrap());
    let images = || ImagesDir::create(std::env::var("GWT_IMAGES").unwrap()).unwrap();
    let wait = || -> ! {
        eprintln!("reached");
        loop {
            std::thread::park();
        }
    };
    let dump = PreparedDump::new(&env("GWT_A"), "app", images(), DumpOptions::default(), &limit()).unwrap();
    let options = RestoreOptions::new(BUNDLE);
    let restore = PreparedRestore::new(&env("GWT_B"), "app", images(), dump.plan(), options, &limit()).unwrap();
    let frozen = dump.freeze(&limit()).unwrap();
    if step == "frozen" {
        wait();
    }
    let _held = frozen.dump(&limit()).unwrap();
    if step == "held" {
        wait();
    }
    let restored = restore.restore(&limit()).unwrap();
    if step == "restored" {
        wait();
    }
    let _running = restored.resume(&limit()).unwrap();
    wait();
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
    assert!(said.any(|line| line == "reached"), "the mover failed before {step}");
    mover.kill().unwrap();
    mover.wait().unwrap();
}

#[test]
fn a_mover_killed_before_the_commit_point_leaves_a_source_that_can_be_recovered() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    for step in ["frozen", "held", "restored"] {
        kill_mover_at(&world, step);
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

#[test]
fn a_mover_killed_after_the_commit_point_leaves_a_source_that_ends_in_silence() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    kill_mover_at(&world, "running");
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
