//! A container moves without memory in the images: its pages are on the target before it is.

#[path = "world/lazy.rs"]
mod lazy;
#[path = "world/memory.rs"]
mod memory;
#[path = "../../criu/tests/world/mod.rs"]
mod world;

use godwit_criu::{Runc, Status};
use godwit_pages::{PAGE, Pagemap};
use lazy::Mode;
use memory::{CHECK, STIR};
use world::{World, limit};

const CHILD: [&str; 1] = ["child"];

#[test]
fn memory_and_connection_survive_a_move_and_a_second_one() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 24, &CHILD);
    let client = world.client();
    client.wait_for(10);
    for round in 0..4 {
        let (from, to, side) = if round % 2 == 0 { (&world.a, &world.b, "b") } else { (&world.b, &world.a, "a") };
        // By turns with and without the library in CRIU.
        let mode = if round < 2 { Mode::Lazy } else { Mode::ByCriu };
        let stats = lazy::move_as(&world, from, to, side, &format!("round{round}"), &CHILD, mode);
        eprintln!("{stats:?}");
        assert_eq!(stats.processes, 2);
        client.wait_for(20);
        assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
        assert_eq!(world.ask_once(1, CHECK), 0, "wrong pages of the child");
    }
    client.stop().unwrap();
    let list = Runc::new(&world.a.env).list(&limit()).unwrap();
    assert_eq!(list.iter().map(|c| c.status).collect::<Vec<_>>(), [Status::Running]);
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty());
}

#[test]
fn what_a_process_does_to_its_mappings_while_they_are_filled_is_followed() {
    let world = World::new(&image_or_skip!());
    for round in 0..3 {
        world.a.run_counter("app", 64, &[]);
        let client = world.client();
        let (held, restored, handler) =
            lazy::freeze(&world, &world.a, &world.b, &format!("s{round}"), &[]).copy_and_restore();
        handler.check().unwrap();
        world.route_to("b");
        let running = restored.resume(&limit()).unwrap();
        world.b.block(false);
        assert_eq!(world.ask_once(0, STIR), 0, "wrong pages");
        eprintln!("{:?}", handler.wait_filled(lazy::FILLING).unwrap());
        assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
        held.commit(&limit()).unwrap();
        running.finish(&limit()).unwrap();
        client.stop().unwrap();
        for node in [&world.a, &world.b] {
            Runc::new(&node.env).delete("app", true, &limit()).unwrap();
        }
        world.a.block(false);
        world.route_to("a");
    }
}

#[test]
fn nothing_of_userfaultfd_is_left_and_all_memory_is_there_even_when_filled_before_it_runs() {
    let world = World::new(&image_or_skip!());
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    let frozen = lazy::freeze(&world, &world.a, &world.b, "i", &[]);
    let source = frozen.dump.members().unwrap()[0];
    let before = memory::snapshot(source.host_pid);
    let (held, restored, handler) = frozen.copy_and_restore();
    // The dump has left the memory as it was, and it can be read as long as the dump is held. It has run its own code in
    // the threads, though, and so the kernel has told them on which CPU they were (rseq(2), 32 bytes a thread); it does so
    // again on the target.
    let mut changed = differences(&before, &memory::snapshot(source.host_pid));
    changed.retain(|(_, bytes)| bytes[0] / 32 != bytes[bytes.len() - 1] / 32);
    assert!(changed.is_empty(), "changed by the dump: {changed:x?}");
    let pagemaps = Pagemap::read_all(held.images().path()).unwrap();
    assert_eq!(pagemaps.iter().map(|p| p.pid).collect::<Vec<_>>(), [source.pid]);
    let lazy: u64 = pagemaps[0].lazy.iter().map(|r| r.end - r.start).sum();
    assert!(lazy >= 16 << 20, "only {lazy} bytes are lazy");
    handler.check().unwrap();
    handler.start_filling();
    world.route_to("b");
    let running = restored.resume(&limit()).unwrap();
    handler.wait_filled(lazy::FILLING).unwrap();
    let registered = || {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", running.host_pid())).unwrap();
        smaps.lines().filter(|l| l.starts_with("VmFlags:") && l.contains(" um")).map(str::to_owned).collect::<Vec<_>>()
    };
    // Another test's child has the descriptors too, between fork and exec.
    let start = std::time::Instant::now();
    while !registered().is_empty() && start.elapsed() < lazy::FILLING {
        std::thread::yield_now();
    }
    let left = registered();
    assert!(left.is_empty(), "{left:?}");
    world.b.block(false);
    client.wait_for(20);
    held.commit(&limit()).unwrap();
    running.finish(&limit()).unwrap();
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

fn differences(
    a: &std::collections::BTreeMap<u64, Vec<u8>>,
    b: &std::collections::BTreeMap<u64, Vec<u8>>,
) -> Vec<(u64, Vec<u64>)> {
    let mut addrs: Vec<u64> = a.keys().chain(b.keys()).copied().collect();
    addrs.sort_unstable();
    addrs.dedup();
    let zero = vec![0; PAGE as usize];
    let mut differences = Vec::new();
    for addr in addrs {
        let (a, b) = (a.get(&addr).unwrap_or(&zero), b.get(&addr).unwrap_or(&zero));
        let bytes: Vec<u64> = (0..PAGE).filter(|n| a[*n as usize] != b[*n as usize]).collect();
        if !bytes.is_empty() {
            differences.push((addr, bytes));
        }
    }
    differences
}
