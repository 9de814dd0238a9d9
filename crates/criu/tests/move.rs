//! A container moves from one node to another, its client connected.

mod world;

use std::path::Path;

use godwit_criu::{DumpOptions, PreparedDump, PreparedRestore, RestoreOptions, Runc, Status};
use world::{BUNDLE, World, limit, node_image};

macro_rules! image_or_skip {
    () => {
        match node_image() {
            Ok(image) => image,
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return;
            }
        }
    };
}

#[test]
fn a_connection_survives_a_move_and_the_container_stays_a_normal_one() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    client.wait_for(10);

    let dump = PreparedDump::new(&world.a.env, "app", world.images("i"), DumpOptions::default(), &limit()).unwrap();
    world.b.write_bundle("app", 16, &[]);
    let restore = PreparedRestore::new(
        &world.b.env,
        "app",
        world.images("i"),
        dump.plan(),
        RestoreOptions::new(BUNDLE),
        &limit(),
    )
    .unwrap();
    world.a.block(true);
    world.b.block(true);
    let held = dump.freeze(&limit()).unwrap().dump(&limit()).unwrap();
    eprintln!("{:?}", held.times());
    let restored = restore.restore(&limit()).unwrap();
    eprintln!("{:?}", restored.times());
    world.route_to("b");
    let running = restored.resume(&limit()).unwrap();
    world.b.block(false);
    eprintln!("{:?}", running.times());
    eprintln!("{:?}", held.commit(&limit()).unwrap());
    running.finish(&limit()).unwrap();
    client.wait_for(100);

    let (old, new) = (Runc::new(&world.a.env), Runc::new(&world.b.env));
    let list = new.list(&limit()).unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].id.as_str(), list[0].status), ("app", Status::Running));
    assert_eq!(list[0].bundle, Path::new(BUNDLE));
    let said = new.exec("app", &["cat", "/proc/1/comm"], &limit()).unwrap();
    assert_eq!(said.stdout, "counter\n");
    assert_eq!(old.state("app", &limit()).unwrap().status, Status::Stopped);
    old.delete("app", true, &limit()).unwrap();
    assert!(old.list(&limit()).unwrap().is_empty());
    let seen = client.stop().unwrap();
    eprintln!("{seen:?}");
    new.delete("app", true, &limit()).unwrap();
    assert!(new.list(&limit()).unwrap().is_empty());
}
