//! A container runs on the target while its memory is still on the source.

#[path = "world/backhaul.rs"]
mod backhaul;
#[path = "world/lazy.rs"]
mod lazy;
#[path = "world/memory.rs"]
mod memory;
#[path = "../../criu/tests/world/mod.rs"]
mod world;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backhaul::Backhaul;
use godwit_criu::{
    DumpOptions, HeldDump, MemoryMode, PreparedDump, PreparedRestore, RestoreOptions, RestoredContainer, Runc,
    clear_target,
};
use godwit_pages::remote::{PageServer, Patience, ProcessMemory, ReadPages, RemotePages, Served};
use godwit_pages::{Error, FillOptions, LazyHandler, PAGE, PageStore};
use memory::{CHECK, STIR};
use world::{BUNDLE, Node, World, limit};

const CHILD: [&str; 1] = ["child"];

/// Impatient, for a test.
const PATIENCE: Patience = Patience {
    unreachable: Duration::from_secs(60),
    refused: Duration::from_millis(500),
    silence: Duration::from_millis(500),
};

/// The source's memory, which stops being served after so many bytes.
struct Gated {
    memory: ProcessMemory,
    left: AtomicU64,
    reached: AtomicBool,
    open: AtomicBool,
    /// What happens at the gate when it opens.
    breaks: bool,
}

impl ReadPages for Gated {
    fn read(&self, pid: i32, addr: u64, room: &mut [u8]) -> io::Result<()> {
        let len = room.len() as u64;
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(len)).is_err() {
            self.reached.store(true, Ordering::SeqCst);
            wait(|| self.open.load(Ordering::SeqCst));
            if self.breaks {
                return Err(io::Error::other("process 1 has ended on the source"));
            }
        }
        self.memory.read(pid, addr, room)
    }
}

fn wait(until: impl Fn() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < lazy::FILLING, "it does not come to that");
        std::thread::yield_now();
    }
}

/// A container that runs on the target, with its memory elsewhere.
struct Moving {
    held: HeldDump,
    running: RestoredContainer,
    handler: LazyHandler,
    pages: Arc<RemotePages>,
    gate: Arc<Gated>,
    stop: Arc<AtomicBool>,
    serving: JoinHandle<Vec<Served>>,
    link: Backhaul,
}

/// Moves up to the resumption. `first` bytes are served, the others when the gate opens; `ahead` is copied before.
fn start(world: &World, from: &Node, to: &Node, side: &str, images: &str, plan: &Plan) -> Moving {
    let options = DumpOptions { memory: MemoryMode::Lazy, ..DumpOptions::default() };
    let dump = PreparedDump::new(&from.env, "app", world.images(images), options, &limit()).expect("prepared");
    to.write_bundle("app", 16, plan.extra);
    let options = RestoreOptions { memory: MemoryMode::Lazy, ..RestoreOptions::new(BUNDLE) };
    let restore = PreparedRestore::new(&to.env, "app", world.images(images), dump.plan(), options, &limit());
    let restore = restore.expect("prepared");
    let (store, pages, link) = (Arc::new(PageStore::new()), RemotePages::new(), Backhaul::new());
    let options = FillOptions { remote: Some(pages.clone()), ..FillOptions::default() };
    let handler = LazyHandler::listen(restore.images().path(), store.clone(), options).expect("a handler");
    from.block(true);
    to.block(true);
    let frozen = dump.freeze(&limit()).expect("frozen");
    let members = frozen.members().expect("members");
    if plan.ahead {
        for member in &members {
            memory::store_all(&store, member.pid, member.host_pid);
            for range in store.ranges(member.pid) {
                // As if it had been written since: every other MiB.
                let pieces = (range.start..range.end).step_by(1 << 20).step_by(2);
                pieces.for_each(|at| store.forget(member.pid, at..(at + (1 << 20)).min(range.end)).expect("forgotten"));
            }
        }
    }
    let held = frozen.dump(&limit()).expect("dumped");
    let gate = Arc::new(Gated {
        memory: ProcessMemory::open(members.iter().map(|m| (m.pid, m.host_pid))).expect("memory"),
        left: AtomicU64::new(plan.first),
        reached: AtomicBool::new(false),
        open: AtomicBool::new(false),
        breaks: plan.breaks,
    });
    let (listener, stop) = (link.listen(), Arc::new(AtomicBool::new(false)));
    let serving = std::thread::spawn({
        let (server, stop) = (PageServer::new(gate.clone(), Vec::new()), stop.clone());
        move || {
            let mut all = Vec::new();
            loop {
                let (stream, _) = listener.accept().expect("a connection");
                if stop.load(Ordering::SeqCst) {
                    return all;
                }
                let close = || drop(stream.shutdown(std::net::Shutdown::Both));
                all.push(server.serve(&stream, &stream, close).unwrap_or_else(|(served, _)| served));
                if all.last().is_some_and(|served| served.done) || stop.load(Ordering::SeqCst) {
                    return all;
                }
            }
        }
    });
    pages.begin(&handler.missing().expect("missing"), handler.arrivals(), PATIENCE, link.connector()).expect("begun");
    let restored = restore.restore(&limit()).expect("restored");
    handler.check_processes().expect("handed over");
    handler.start_filling();
    world.route_to(side);
    let running = restored.resume(&limit()).expect("running");
    to.block(false);
    Moving { held, running, handler, pages, gate, stop, serving, link }
}

struct Plan {
    extra: &'static [&'static str],
    ahead: bool,
    first: u64,
    breaks: bool,
}

const ALL: Plan = Plan { extra: &[], ahead: false, first: u64::MAX, breaks: false };

impl Moving {
    fn finish(self, from: &Node) -> (godwit_pages::Stats, Vec<Served>) {
        self.gate.open.store(true, Ordering::SeqCst);
        let stats = self.handler.wait_filled(lazy::FILLING).expect("filled");
        // What has been unmapped is not fetched any more.
        self.pages.stop();
        // Before the source ends: with its memory gone it would serve no word more, and wait for another connection.
        let served = self.serving.join().expect("no panic");
        self.held.commit(&limit()).expect("committed");
        self.running.finish(&limit()).expect("finished");
        Runc::new(&from.env).delete("app", false, &limit()).expect("deleted");
        from.block(false);
        eprintln!("{stats:?} {served:?}");
        (stats, served)
    }
}

#[test]
fn memory_and_connection_survive_and_it_can_be_moved_again() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 48, &CHILD);
    let client = world.client();
    for round in 0..2 {
        let (from, to, side) = if round == 0 { (&world.a, &world.b, "b") } else { (&world.b, &world.a, "a") };
        let plan = Plan { extra: &CHILD, ..ALL };
        let moving = start(&world, from, to, side, &format!("r{round}"), &plan);
        client.wait_for(20);
        let (stats, served) = moving.finish(from);
        assert_eq!(stats.processes, 2);
        // Over more than one connection where the machine was slow.
        let bytes: u64 = served.iter().map(|served| served.bytes).sum();
        assert!(served.last().is_some_and(|last| last.done) && bytes >= 96 << 20, "{served:?}");
        assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
        assert_eq!(world.ask_once(1, CHECK), 0, "wrong pages of the child");
    }
    client.stop().unwrap();
}

#[test]
fn what_is_waited_for_is_served_and_mappings_may_change_meanwhile() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 64, &[]);
    let client = world.client();
    let moving = start(&world, &world.a, &world.b, "b", "i", &ALL);
    assert_eq!(world.ask_once(0, STIR), 0, "wrong pages");
    let (stats, served) = moving.finish(&world.a);
    assert!(stats.fetched > 0 && served[0].wanted > 0, "{stats:?}");
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

#[test]
fn only_what_was_not_copied_before_is_fetched() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 64, &[]);
    let client = world.client();
    let moving = start(&world, &world.a, &world.b, "b", "i", &Plan { ahead: true, ..ALL });
    let (stats, served) = moving.finish(&world.a);
    let half = (28 << 20)..(44 << 20);
    assert!(half.contains(&served[0].bytes), "{served:?}");
    assert!(stats.filled > 64 << 20, "{stats:?}");
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

#[test]
fn a_link_that_was_cut_stalls_the_target_until_it_is_back() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 64, &[]);
    let client = world.client();
    let moving = start(&world, &world.a, &world.b, "b", "i", &Plan { first: 24 << 20, ..ALL });
    wait(|| moving.gate.reached.load(Ordering::SeqCst));
    moving.link.cut(true);
    moving.gate.open.store(true, Ordering::SeqCst);
    wait(|| moving.pages.reconnects() > 3);
    let missing = moving.pages.missing();
    assert!(missing > 8 << 20, "{missing} bytes are missing");
    assert!(matches!(moving.handler.wait_filled(Duration::ZERO), Err(Error::TimedOut { .. })));
    moving.link.cut(false);
    let (_, served) = moving.finish(&world.a);
    assert!(served.len() > 1, "{served:?}");
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

/// The target is lost then, and says why.
#[test]
fn a_source_that_dies_is_told() {
    for breaks in [true, false] {
        let world = World::new(&image_or_skip!());
        world.a.run_counter("app", 64, &[]);
        let moving = start(&world, &world.a, &world.b, "b", "i", &Plan { first: 24 << 20, breaks, ..ALL });
        wait(|| moving.gate.reached.load(Ordering::SeqCst));
        if breaks {
            moving.gate.open.store(true, Ordering::SeqCst);
        } else {
            // Nobody listens there any more.
            moving.stop.store(true, Ordering::SeqCst);
            moving.gate.open.store(true, Ordering::SeqCst);
            moving.link.cut(true);
            wait(|| moving.pages.reconnects() > 0);
            moving.link.cut(false);
        }
        let err = moving.handler.wait_filled(lazy::FILLING).unwrap_err().to_string();
        eprintln!("{err}");
        let expected = if breaks { "process 1 has ended on the source" } else { "the source is gone" };
        assert!(err.contains(expected), "{err}");
        assert!(moving.pages.missing() >= PAGE);
        drop(moving.running);
        clear_target(&world.b.env, "app", &limit()).unwrap();
        drop(moving.handler);
        assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
    }
}
