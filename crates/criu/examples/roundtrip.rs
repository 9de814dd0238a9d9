//! Moves a container between two nodes with a connected client, again and again, and prints how long each phase took;
//! then does the same with plain `runc checkpoint` and `runc restore`.
//!
//! `cargo run --release -p godwit-criu --example roundtrip -- [MIB] [MOVES] [CRIU_LOG_LEVEL]` as root, after
//! `scripts/setup-node-image.sh` and `cargo build --release -p godwit-criu --bins`. With log level 4 the last
//! move's CRIU logs are kept in the working directory.

#[path = "../tests/world/mod.rs"]
mod world;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use godwit_criu::{DumpOptions, ImagesDir, PreparedDump, PreparedRestore, RestoreOptions, Runc};
use world::{BUNDLE, Node, World, limit};

fn main() {
    let number = |n: usize, default: usize| std::env::args().nth(n).map_or(default, |a| a.parse().expect("a number"));
    let (mib, moves, log_level) = (number(1, 16), number(2, 10), number(3, 2) as u8);
    let image = match world::node_image() {
        Ok(image) => image,
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            return;
        }
    };
    let world = World::new(&image);
    world.a.run_counter("app", mib, &[]);
    let client = world.client();
    println!("{mib} MiB, {moves} moves, milliseconds");
    println!("godwit:  prepare  freeze    dump restore  resume | in the freeze | commit  finish     KiB");
    let mut frozen = Vec::new();
    for n in 0..moves {
        let (from, to, side) = sides(&world, n);
        frozen.push(godwit_move(&world, from, to, side, mib, n, log_level));
        client.wait_for(50);
    }
    report("godwit", &mut frozen);
    println!("runc: checkpoint restore | in the freeze");
    let mut frozen = Vec::new();
    for n in 0..moves {
        let (from, to, side) = sides(&world, moves + n);
        frozen.push(runc_move(&world, from, to, side, mib, n));
        client.wait_for(50);
    }
    report("runc", &mut frozen);
    println!("client: {:?}", client.stop().expect("an unbroken connection"));
}

fn sides(world: &World, n: usize) -> (&Node, &Node, &'static str) {
    if n.is_multiple_of(2) { (&world.a, &world.b, "b") } else { (&world.b, &world.a, "a") }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn report(who: &str, frozen: &mut [Duration]) {
    frozen.sort();
    let (median, worst) = (frozen[frozen.len() / 2], frozen[frozen.len() - 1]);
    println!("{who}: median {:.1}, worst {:.1}", ms(median), ms(worst));
}

fn godwit_move(world: &World, from: &Node, to: &Node, side: &str, mib: usize, n: usize, log_level: u8) -> Duration {
    let name = format!("images{n}");
    let options = DumpOptions { log_level, ..DumpOptions::default() };
    let dump = PreparedDump::new(&from.env, "app", world.images(&name), options, &limit()).expect("prepared dump");
    to.write_bundle("app", mib, &[]);
    let options = RestoreOptions { log_level, ..RestoreOptions::new(BUNDLE) };
    let restore = PreparedRestore::new(&to.env, "app", world.images(&name), dump.plan(), options, &limit());
    let restore = restore.expect("prepared restore");
    from.block(true);
    to.block(true);
    let start = Instant::now();
    let held = dump.freeze(&limit()).expect("frozen").dump(&limit()).expect("dumped");
    let restored = restore.restore(&limit()).expect("restored");
    let running = restored.resume(&limit()).expect("running");
    let frozen = start.elapsed();
    world.route_to(side);
    to.block(false);
    let kib: u64 = held.images().files().expect("files").iter().map(|f| f.1).sum::<u64>() / 1024;
    if log_level > 2 {
        for log in ["dump.log", "restore.log"] {
            let _ = fs::copy(held.images().path().join(log), log);
        }
    }
    fs::remove_dir_all(held.images().path()).expect("removed");
    let dumped = held.commit(&limit()).expect("committed");
    let finish = Instant::now();
    let times = running.finish(&limit()).expect("finished");
    println!(
        "        {:8.1}{:8.1}{:8.1}{:8.1}{:8.1} | {:13.1} | {:6.1}{:8.1}{kib:8}",
        ms(times.prepare),
        ms(dumped.freeze),
        ms(dumped.dump),
        ms(times.restore),
        ms(times.resume),
        ms(frozen),
        ms(dumped.decision),
        ms(finish.elapsed()),
    );
    Runc::new(&from.env).delete("app", false, &limit()).expect("deleted");
    from.block(false);
    frozen
}

fn runc_move(world: &World, from: &Node, to: &Node, side: &str, mib: usize, n: usize) -> Duration {
    let images = format!("/run/plain{n}");
    to.write_bundle("app", mib, &[]);
    from.block(true);
    to.block(true);
    let start = Instant::now();
    let args = ["checkpoint", "--tcp-established", "--image-path", &images, "app"];
    from.env.command("runc").args(args).run(&limit()).expect("runc checkpoint");
    let checkpoint = start.elapsed();
    // Not counted: a plain move would have to transfer them too.
    let (source, target) = (from.env.host_path(&images), to.env.host_path(&images));
    copy(&source, &target);
    let start = Instant::now();
    let args = ["restore", "--detach", "--tcp-established", "--image-path", &images, "--bundle", BUNDLE, "app"];
    to.env.command("runc").args(args).run(&limit()).expect("runc restore");
    let restore = start.elapsed();
    world.route_to(side);
    to.block(false);
    from.block(false);
    for dir in [source, target] {
        fs::remove_dir_all(dir).expect("removed");
    }
    println!("      {:10.1}{:8.1} | {:13.1}", ms(checkpoint), ms(restore), ms(checkpoint + restore));
    checkpoint + restore
}

fn copy(from: &Path, to: &Path) {
    let images = ImagesDir::create(to).expect("a directory");
    for entry in fs::read_dir(from).expect("images").flatten() {
        // The cgroup yard and other directories are not images.
        if entry.file_type().is_ok_and(|t| t.is_file()) {
            fs::copy(entry.path(), images.path().join(entry.file_name())).expect("copied");
        }
    }
}
