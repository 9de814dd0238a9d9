//! What moves with a container besides its connections.

mod world;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use godwit_criu::{DumpOptions, PreparedDump, PreparedRestore, RestoreOptions, Runc, Spec, Streams};
use world::{BUNDLE, World, limit};

/// Several processes, files in a tmpfs (one open, one deleted and open, one linked twice), a pipe between
/// processes, a bound directory, a host name, an IPC namespace, and output that goes on into the same pipe.
const SCRIPT: &str = r#"
    echo kept >/tmp/kept
    mkdir -m 1700 /tmp/dir && ln /tmp/kept /tmp/dir/linked
    exec 5>>/tmp/open 6>/tmp/deleted 7</data/file
    echo lost and found >&6
    rm /tmp/deleted
    sleep 100000 &
    sh -c 'while read line; do echo "got $line"; done' </tmp/fifo &
"#;

#[test]
fn files_processes_pipes_and_streams_move_with_the_container() {
    let world = World::new(&image_or_skip!());
    let (mut out, stdout) = pipe();
    let (mut new_out, new_stdout) = pipe();
    write_bundle(&world.a);
    let streams = Streams { stdout: Some(stdout), ..Streams::default() };
    let runc = Runc::new(&world.a.env);
    runc.run("app", Path::new(BUNDLE), streams, &limit()).unwrap();
    expect(&mut out, "ready\n");

    let images = world.images("i");
    let dump = PreparedDump::new(&world.a.env, "app", images, DumpOptions::default(), &limit()).unwrap();
    assert!(dump.plan().descriptors[1].starts_with("pipe:"), "{:?}", dump.plan());
    write_bundle(&world.b);
    let streams = Streams { stdout: Some(new_stdout), ..Streams::default() };
    let options = RestoreOptions { streams, ..RestoreOptions::new(BUNDLE) };
    let restore = PreparedRestore::new(&world.b.env, "app", world.images("i"), dump.plan(), options, &limit()).unwrap();
    let held = dump.freeze(&limit()).unwrap().dump(&limit()).unwrap();
    let running = restore.restore(&limit()).unwrap().resume(&limit()).unwrap();
    held.commit(&limit()).unwrap();
    running.finish(&limit()).unwrap();
    runc.delete("app", false, &limit()).unwrap();

    let runc = Runc::new(&world.b.env);
    let sh = |script: &str| runc.exec("app", &["sh", "-c", script], &limit()).unwrap().stdout;
    assert_eq!(sh("cat /tmp/kept"), "kept\n");
    assert_eq!(sh("stat -c '%a %h' /tmp/dir /tmp/dir/linked"), "1700 2\n644 2\n");
    assert_eq!(sh("cat /proc/1/fd/6"), "lost and found\n");
    assert_eq!(sh("cat /data/file"), "bound\n");
    assert_eq!(sh("cat /proc/sys/kernel/hostname"), "carried\n");
    assert_eq!(sh("ls -l /dev/null | cut -c1-10"), "crw-rw-rw-\n");
    assert_eq!(sh("grep -l sleep /proc/[0-9]*/comm | wc -l"), "1\n");
    // The first process reads its orders from a fifo, in its own tmpfs, and answers into the new pipe.
    sh("echo 'echo moved; cat /tmp/kept' >/tmp/orders");
    expect(&mut new_out, "moved\nkept\n");
    runc.delete("app", true, &limit()).unwrap();
}

fn write_bundle(node: &world::Node) {
    let script =
        format!("mkfifo /tmp/fifo /tmp/orders; exec 8<>/tmp/fifo 9<>/tmp/orders; {SCRIPT} echo ready; {ORDERS}");
    std::fs::create_dir_all(node.env.host_path("/srv/data")).unwrap();
    std::fs::write(node.env.host_path("/srv/data/file"), "bound\n").unwrap();
    Spec::new(["/bin/sh".to_owned(), "-c".into(), script], format!("{BUNDLE}/rootfs"))
        .netns(&node.netns)
        .cgroups_path(format!("{}/app", node.cgroup))
        .hostname("carried")
        .own_ipc()
        .memory_limit(256 << 20)
        .bind("/srv/data", "/data", &["ro"])
        .write(&node.env.host_path(BUNDLE))
        .unwrap();
}

const ORDERS: &str = r#"while read -r order <&9; do eval "$order"; done"#;

fn pipe() -> (File, OwnedFd) {
    let (read, write) = nix::unistd::pipe().unwrap();
    (read.into(), write)
}

fn expect(from: &mut File, text: &str) {
    let mut room = vec![0; text.len()];
    from.read_exact(&mut room).unwrap();
    assert_eq!(String::from_utf8_lossy(&room), text);
}
