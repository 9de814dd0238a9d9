//! What cannot be dumped is named before anything is frozen, and a dump that fails all the same harms nothing.

mod world;

use godwit_criu::{DumpOptions, Error, PreparedDump, check, preflight};
use world::{World, limit};

#[test]
fn an_ordinary_server_has_no_obstacles() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 1, &[]);
    let client = world.client();
    assert_eq!(preflight(&world.a.env, "app", &limit()).unwrap(), []);
    client.stop().unwrap();
}

#[test]
fn a_raw_icmp_socket_is_found_before_the_freeze() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 1, &["raw"]);
    let client = world.client();
    let found = preflight(&world.a.env, "app", &limit()).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].process, "counter");
    assert!(found[0].what.contains("raw socket of IP protocol 1"), "{}", found[0]);
    client.stop().unwrap();
}

#[test]
fn an_unknown_container_is_refused_in_runc_s_words() {
    let world = World::new(&image_or_skip!());
    let err = preflight(&world.a.env, "nobody", &limit()).unwrap_err();
    assert_eq!(err.to_string(), "runc state nobody: container does not exist");
}

#[test]
fn a_dump_into_a_full_tmpfs_fails_with_the_reason_and_the_service_runs_on() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    let images = world.small_images(4 << 20);
    let dump = PreparedDump::new(&world.a.env, "app", images, DumpOptions::default(), &limit()).unwrap();
    world.a.block(true);
    let failed = dump.freeze(&limit()).unwrap().dump(&limit()).unwrap_err();
    eprintln!("{}", failed.error);
    assert!(matches!(failed.error, Error::Criu { .. }), "{}", failed.error);
    world.a.block(false);
    failed.back.thaw().unwrap();
    client.wait_for(50);
    client.stop().unwrap();
}

#[test]
fn a_dump_that_takes_too_long_is_ended_and_the_service_runs_on() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    let dump = PreparedDump::new(&world.a.env, "app", world.images("i"), DumpOptions::default(), &limit()).unwrap();
    world.a.block(true);
    let nothing = godwit_criu::Limit::within(std::time::Duration::ZERO);
    let failed = dump.freeze(&limit()).unwrap().dump(&nothing).unwrap_err();
    assert!(matches!(failed.error, Error::TimedOut { .. }), "{}", failed.error);
    world.a.block(false);
    failed.back.thaw().unwrap();
    client.wait_for(50);
    client.stop().unwrap();
}

#[test]
fn criu_s_features_are_known() {
    let world = World::new(&image_or_skip!());
    let found = check(&world.a.env, &limit()).unwrap();
    assert!(found.version >= godwit_criu::check::OLDEST);
    assert!(found.complaints.is_empty(), "{:?}", found.complaints);
    assert!(world.a.env.host_path("/run/criu.kdat").exists(), "the cache is warm");
}
