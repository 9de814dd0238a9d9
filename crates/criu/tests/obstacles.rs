//! What cannot be dumped is named before anything is frozen, and a dump that fails all the same harms nothing.

mod world;

use godwit_criu::{DumpOptions, Error, PreparedDump, Runc, Streams, check, preflight};
use world::{BUNDLE, World, limit};

#[test]
fn an_ordinary_server_has_no_obstacles() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 1, &[]);
    let client = world.client();
    assert_eq!(preflight(&world.a.env, "app", &limit()).unwrap(), []);
    client.stop().unwrap();
}

/// What preflight says is what a dump then runs into, and a dump that fails harms nothing.
#[test]
fn what_preflight_names_cannot_be_dumped_and_the_service_runs_on() {
    let world = World::new(&image_or_skip!());
    for (kept, named) in [
        ("mptcp", "an MPTCP socket, which CRIU cannot dump"),
        ("vsock", "a vsock socket, which CRIU cannot dump"),
        ("io_uring", "an io_uring, which CRIU cannot dump"),
        ("userfaultfd", "a userfaultfd, which CRIU cannot dump"),
        ("secret", "secret memory (memfd_secret), which nobody else can read"),
        ("shm", "shared memory of System V in the node's ipc namespace: it needs one of its own"),
    ] {
        if kept == "secret" && !has_secret_memory() {
            println!("SKIPPED: secret memory: this kernel has none (memfd_secret)");
            continue;
        }
        world.a.run_counter("app", 1, &[kept]);
        let client = world.client();
        let found = preflight(&world.a.env, "app", &limit()).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].process, "counter");
        assert!(found[0].what.starts_with(named), "{}", found[0]);

        let images = world.images(kept);
        let dump = PreparedDump::new(&world.a.env, "app", images, DumpOptions::default(), &limit()).unwrap();
        world.a.block(true);
        let failed = dump.freeze(&limit()).unwrap().dump(&limit()).unwrap_err();
        assert!(failed.error.to_string().starts_with("criu dump failed: "), "{}", failed.error);
        world.a.block(false);
        failed.back.thaw().unwrap();
        client.wait_for(20);
        client.stop().unwrap();
        Runc::new(&world.a.env).delete("app", true, &limit()).unwrap();
    }
}

#[allow(unsafe_code)]
fn has_secret_memory() -> bool {
    // SAFETY: an integer.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    // SAFETY: the descriptor was made here.
    fd >= 0 && unsafe { libc::close(fd as i32) } == 0
}

#[test]
fn a_child_in_namespaces_of_its_own_is_named() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 1, &["child"]);
    let client = world.client();
    let found = preflight(&world.a.env, "app", &limit()).unwrap();
    let named: Vec<String> = found.iter().map(ToString::to_string).collect();
    let wanted = "(sleep) has a user namespace of its own inside the container, which CRIU cannot dump";
    assert!(named.len() == 1 && named[0].ends_with(wanted), "{named:?}");
    client.stop().unwrap();
}

#[test]
fn a_terminal_of_somebody_else_is_named() {
    let world = World::new(&image_or_skip!());
    let pty = nix::pty::openpty(None, None).unwrap();
    world.a.write_bundle("app", 1, &[]);
    let streams = Streams { stdin: Some(pty.slave), ..Streams::default() };
    Runc::new(&world.a.env).run("app", BUNDLE.as_ref(), streams, &limit()).unwrap();
    let client = world.client();
    let found = preflight(&world.a.env, "app", &limit()).unwrap();
    let named = "a terminal, which belongs to a session outside the container (descriptor 0, /dev/pts/";
    assert!(found.len() == 1 && found[0].what.starts_with(named), "{found:?}");
    client.stop().unwrap();
}

#[test]
fn raw_and_ping_sockets_move() {
    let world = World::new(&image_or_skip!());
    for node in [&world.a, &world.b] {
        let allow = node.env.in_netns(&node.netns).command("sysctl").arg("net.ipv4.ping_group_range=0 0");
        allow.run(&limit()).unwrap();
    }
    for kept in ["raw", "ping"] {
        world.route_to("a");
        world.a.run_counter("app", 1, &[kept]);
        let client = world.client();
        assert_eq!(preflight(&world.a.env, "app", &limit()).unwrap(), []);
        world.move_between(&world.a, &world.b, "b", "app", kept);
        client.wait_for(20);
        client.stop().unwrap();
        let runc = Runc::new(&world.b.env);
        let raw = runc.exec("app", &["wc", "-l", "/proc/net/raw"], &limit()).unwrap().stdout;
        let lines = if kept == "raw" { "2" } else { "1" };
        assert!(raw.starts_with(lines), "{raw}");
        runc.delete("app", true, &limit()).unwrap();
    }
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
