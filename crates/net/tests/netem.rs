//! The kernel's own delay, where the kernel has it: the same promises as the userspace link's.
//!
//! The usual test host has no netem: these tests then say SKIPPED. `scripts/test-in-guest.sh` runs them in a guest
//! whose kernel has it.

mod support;

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use godwit_net::{Backend, End, Link, LinkConfig, Netlink, Netns, netem_supported};
use support::{PATIENCE, can_run, netns, prefix};

const MS: Duration = Duration::from_millis(1);

fn can_run_netem() -> bool {
    if !can_run() {
        return false;
    }
    if let Err(e) = netem_supported() {
        eprintln!("SKIPPED: {}: {e}", std::thread::current().name().unwrap_or("?"));
        return false;
    }
    true
}

fn link(a: &Netns, b: &Netns, f: impl FnOnce(&mut LinkConfig<'_>)) -> Link {
    let mut config = LinkConfig::new(
        End::new(a, "to-b").addr(prefix("10.1.0.1/24")).addr(prefix("fd01::1/64")),
        End::new(b, "to-a").addr(prefix("10.1.0.2/24")).addr(prefix("fd01::2/64")),
    );
    f(&mut config);
    Link::spawn(config, Backend::Netem).unwrap()
}

fn socket(ns: &Netns, addr: &str) -> UdpSocket {
    let socket = ns.enter(|| UdpSocket::bind(addr).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn round_trip(client: &UdpSocket, server: &UdpSocket) -> Duration {
    let mut buffer = [0; 64];
    let begun = Instant::now();
    client.send_to(b"ping", server.local_addr().unwrap()).unwrap();
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..len], from).unwrap();
    client.recv(&mut buffer).unwrap();
    begun.elapsed()
}

#[test]
fn never_early_and_settable_by_default_and_by_peer() {
    if !can_run_netem() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let link = link(&a, &b, |c| c.delay = 10 * MS);
    Netlink::open(&a).unwrap().add_addr("to-b", prefix("10.1.0.7/24")).unwrap();
    let far: IpAddr = "10.1.0.7".parse().unwrap();
    for (here, there) in [("10.1.0.1:0", "10.1.0.2:9000"), ("[fd01::1]:0", "[fd01::2]:9000")] {
        let (client, server) = (socket(&a, here), socket(&b, there));
        for one_way in [10 * MS, 3 * MS, 25 * MS] {
            link.set_delay(one_way).unwrap();
            let rtts: Vec<_> = (0..5).map(|_| round_trip(&client, &server)).collect();
            eprintln!("netem: asked {:?}, got {rtts:?}", 2 * one_way);
            assert!(rtts.iter().all(|rtt| *rtt >= 2 * one_way));
        }
    }
    let (near, far_client, server) = (socket(&a, "10.1.0.1:0"), socket(&a, "10.1.0.7:0"), socket(&b, "10.1.0.2:9000"));
    link.set_delay(MS).unwrap();
    for one_way in [40 * MS, 20 * MS] {
        link.set_peer_delay(far, one_way).unwrap();
        assert!(round_trip(&far_client, &server) >= 2 * one_way);
    }
    assert!(round_trip(&near, &server) >= 2 * MS);
    far_client.send_to(b"far", "10.1.0.2:9000").unwrap();
    near.send_to(b"near", "10.1.0.2:9000").unwrap();
    let mut buffer = [0; 8];
    assert_eq!(server.recv(&mut buffer).unwrap(), 4);
    assert_eq!(server.recv(&mut buffer).unwrap(), 3);
    link.clear_peer_delay(far).unwrap();
    assert!(round_trip(&far_client, &server) >= 2 * MS);
    let stats = link.stats().unwrap();
    assert!(stats.a_to_b.packets >= 36 && stats.b_to_a.packets >= 34, "{stats:?}");
}

#[test]
fn a_shrinking_delay_and_jitter_do_not_reorder() {
    if !can_run_netem() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let link = link(&a, &b, |c| (c.delay, c.jitter) = (50 * MS, 20 * MS));
    let (client, server) = (socket(&a, "10.1.0.1:0"), socket(&b, "10.1.0.2:9000"));
    for id in 0..100u32 {
        if id % 20 == 0 {
            link.set_delay((50 - id / 2) * MS).unwrap();
        }
        client.send_to(&id.to_be_bytes(), "10.1.0.2:9000").unwrap();
    }
    let mut buffer = [0; 4];
    for id in 0..100u32 {
        server.recv(&mut buffer).unwrap();
        assert_eq!(u32::from_be_bytes(buffer), id);
    }
}

#[test]
fn loss_and_rate_take_effect() {
    if !can_run_netem() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let link = link(&a, &b, |c| c.rate_limit = Some(1_000_000));
    let (client, server) = (socket(&a, "10.1.0.1:0"), socket(&b, "10.1.0.2:9000"));
    let begun = Instant::now();
    for _ in 0..25 {
        client.send_to(&[0; 972], "10.1.0.2:9000").unwrap();
    }
    for _ in 0..25 {
        server.recv(&mut [0; 1500]).unwrap();
    }
    assert!(begun.elapsed() >= 100 * MS, "25 times 8 ms, less a burst: {:?}", begun.elapsed());
    link.set_loss(1.0).unwrap();
    client.send_to(b"lost", "10.1.0.2:9000").unwrap();
    link.set_loss(0.0).unwrap();
    client.send_to(b"x", "10.1.0.2:9000").unwrap();
    assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1);
}

#[test]
fn a_dropped_link_leaves_no_device() {
    if !can_run_netem() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    drop(link(&a, &b, |_| ()));
    for ns in [&a, &b] {
        assert_eq!(Netlink::open(ns).unwrap().list_links().unwrap().len(), 1);
    }
}
