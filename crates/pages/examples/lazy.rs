//! Moves a container with its memory already on the target, and with its memory in the images, for several sizes, and
//! prints how long each part of the freeze took.
//!
//! `cargo run --release -p godwit-pages --example lazy -- [MOVES] [MIB,MIB,…] [CRIU_LOG_LEVEL]` as root, after
//! `scripts/setup-node-image.sh` and `cargo build --release -p godwit-pages --bins`. The memory is copied between the
//! freeze and the dump, which is not counted: a pre-copy does it while the service runs. With log level 4 the last
//! CRIU logs of each size are kept in the working directory.

#[path = "../tests/world/lazy.rs"]
mod lazy;
#[path = "../tests/world/memory.rs"]
mod memory;
#[path = "../../criu/tests/world/mod.rs"]
#[macro_use]
mod world;

use std::fs;
use std::time::{Duration, Instant};

use godwit_criu::{DumpTimes, Runc};
use godwit_pages::{PageStore, Stats};
use lazy::Mode;
use memory::CHECK;
use world::{World, limit};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let moves = args.get(1).map_or(10usize, |a| a.parse().expect("a number"));
    let sizes = args.get(2).map_or("16,256,1024", String::as_str);
    let log_level = args.get(3).map_or(2, |a| a.parse().expect("a number"));
    let image = image_or_skip!();
    put_speed();
    println!("{moves} moves each, milliseconds, best/median/worst");
    println!(
        "  MiB memory                 dump           restore            resume |     in the freeze |      filled after | faults, worst"
    );
    for mib in sizes.split(',').map(|s| s.parse::<usize>().expect("a number")) {
        for mode in [Mode::Lazy, Mode::FilledFirst, Mode::ByCriu, Mode::Copied] {
            let world = World::new(&image);
            world.a.run_counter("app", mib, &[]);
            let client = world.client();
            let moved: Vec<Moved> = (0..moves).map(|n| one(&world, mode, n, log_level, mib)).collect();
            client.stop().expect("an unbroken connection");
            let column = |of: fn(&Moved) -> Duration| {
                let mut all: Vec<Duration> = moved.iter().map(of).collect();
                all.sort();
                format!("{:.1}/{:.1}/{:.1}", ms(all[0]), ms(all[all.len() / 2]), ms(all[all.len() - 1]))
            };
            let faults = moved.iter().map(|m| m.stats.faults).max().unwrap_or(0);
            println!(
                "{mib:5} {:12}{:>18}{:>18}{:>18} | {:>17} | {:>17} | {faults:6}  {}",
                format!("{mode:?}"),
                column(|m| m.dump.dump),
                column(|m| m.restore),
                column(|m| m.resume),
                column(|m| m.frozen),
                column(|m| m.filled),
                column(|m| m.stats.worst_fault),
            );
        }
    }
}

/// How fast a gigabyte goes into the store, in pieces as a stream brings them: the first time, and over it.
fn put_speed() {
    let (store, piece) = (PageStore::new(), vec![7; 256 << 10]);
    let mut times = Vec::new();
    for _ in 0..2 {
        let start = Instant::now();
        for n in 0..4096 {
            store.put(1, n * piece.len() as u64, &piece).expect("stored");
        }
        times.push(ms(start.elapsed()));
    }
    println!("1 GiB into the store: {:.0} ms, again {:.0} ms", times[0], times[1]);
}

struct Moved {
    dump: DumpTimes,
    restore: Duration,
    resume: Duration,
    frozen: Duration,
    filled: Duration,
    stats: Stats,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn one(world: &World, mode: Mode, n: usize, log_level: u8, mib: usize) -> Moved {
    let (from, to, side) = if n.is_multiple_of(2) { (&world.a, &world.b, "b") } else { (&world.b, &world.a, "a") };
    let images = format!("images{n}");
    let frozen = lazy::freeze_as(world, from, to, &images, &[], mode, log_level);
    frozen.copy();
    let start = Instant::now();
    let freeze = frozen.dump.times().freeze;
    let (held, restored, handler) = frozen.restore();
    if let Some(handler) = &handler {
        handler.check().expect("complete");
        handler.start_filling();
        if mode == Mode::FilledFirst {
            handler.wait_ready(lazy::FILLING).expect("filled");
        }
    }
    let running = restored.resume(&limit()).expect("running");
    let resumed = Instant::now();
    let frozen = resumed - start + freeze;
    world.route_to(side);
    to.block(false);
    let stats = handler.map(|handler| handler.wait_filled(lazy::FILLING).expect("filled")).unwrap_or_default();
    let filled = resumed.elapsed();
    if log_level > 2 {
        for log in ["dump", "restore"] {
            let log_file = held.images().path().join(format!("{log}.log"));
            let _ = fs::copy(log_file, format!("{log}-{mib}-{mode:?}.log"));
        }
    }
    fs::remove_dir_all(held.images().path()).expect("removed");
    let dump = held.commit(&limit()).expect("committed");
    let times = running.finish(&limit()).expect("finished");
    Runc::new(&from.env).delete("app", false, &limit()).expect("deleted");
    from.block(false);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    Moved { dump, restore: times.restore, resume: times.resume, frozen, filled, stats }
}
