//! A container moves from one node to another, its client connected.

mod world;

use std::path::Path;

use godwit_criu::{Runc, Status};
use world::{BUNDLE, World, limit};

#[test]
fn a_connection_survives_a_move_and_the_container_stays_a_normal_one() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    client.wait_for(10);

    let (held, restore) = world.hold_source("app");
    let restored = restore.restore(&limit()).unwrap();
    world.route_to("b");
    let running = restored.resume(&limit()).unwrap();
    world.b.block(false);
    held.commit(&limit()).unwrap();
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
    client.stop().unwrap();
    new.delete("app", true, &limit()).unwrap();
    assert!(new.list(&limit()).unwrap().is_empty());
}

#[test]
fn a_container_can_move_there_and_back_again() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    for round in 0..4 {
        let (from, to, side) = if round % 2 == 0 { (&world.a, &world.b, "b") } else { (&world.b, &world.a, "a") };
        world.move_between(from, to, side, "app", &format!("round{round}"));
        client.wait_for(20);
    }
    client.stop().unwrap();
    let list = Runc::new(&world.a.env).list(&limit()).unwrap();
    assert_eq!(list.iter().map(|c| c.status).collect::<Vec<_>>(), [Status::Running]);
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
}
