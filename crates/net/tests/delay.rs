//! A link with delay: never early, by peer, in order, whole streams; and gone when dropped.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use godwit_net::{DelayLink, End, LinkConfig, Netlink, Netns};
use support::{PATIENCE, can_run, netns, prefix};

const MS: Duration = Duration::from_millis(1);

fn link<'a>(a: &'a Netns, b: &'a Netns) -> LinkConfig<'a> {
    LinkConfig::new(
        End::new(a, "to-b").addr(prefix("10.1.0.1/24")).addr(prefix("fd01::1/64")),
        End::new(b, "to-a").addr(prefix("10.1.0.2/24")).addr(prefix("fd01::2/64")),
    )
}

fn socket(ns: &Netns, addr: &str) -> UdpSocket {
    let socket = ns.enter(|| UdpSocket::bind(addr).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends one packet there and back through sockets of both sides.
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
fn never_early_and_settable_while_it_runs() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let link = DelayLink::spawn(link(&a, &b).delay(10 * MS)).unwrap();
    for (here, there) in [("10.1.0.1:0", "10.1.0.2:9000"), ("[fd01::1]:0", "[fd01::2]:9000")] {
        let (client, server) = (socket(&a, here), socket(&b, there));
        for one_way in [10 * MS, 3 * MS, Duration::ZERO, 25 * MS] {
            link.set_delay(one_way);
            let rtt = round_trip(&client, &server);
            assert!(rtt >= 2 * one_way, "{rtt:?} is less than twice {one_way:?}");
            assert!(rtt < 2 * one_way + Duration::from_secs(2), "{rtt:?} for {one_way:?}");
        }
    }
    let stats = link.stats();
    assert_eq!((stats.a_to_b.packets, stats.b_to_a.packets), (8, 8), "nothing else is on the link: {stats:?}");
    assert!(link.is_alive());
}

#[test]
fn each_peer_has_its_own_delay() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let link = DelayLink::spawn(link(&a, &b).delay(5 * MS)).unwrap();
    let nl = Netlink::open(&a).unwrap();
    nl.add_addr("to-b", prefix("10.1.0.7/24")).unwrap();
    let (near, far): (IpAddr, IpAddr) = ("10.1.0.1".parse().unwrap(), "10.1.0.7".parse().unwrap());
    link.set_peer_delay(far, 40 * MS);
    assert_eq!((link.delay(Some(far)), link.delay(Some(near)), link.delay(None)), (40 * MS, 5 * MS, 5 * MS));
    let server = socket(&b, "10.1.0.2:9000");
    let (near, far_client) = (socket(&a, "10.1.0.1:0"), socket(&a, "10.1.0.7:0"));
    assert!(round_trip(&near, &server) >= 10 * MS);
    assert!(round_trip(&far_client, &server) >= 80 * MS);
    // Of two packets sent at once the near one arrives first: the far one's delay holds up nobody else.
    far_client.send_to(b"far", "10.1.0.2:9000").unwrap();
    near.send_to(b"near", "10.1.0.2:9000").unwrap();
    let mut buffer = [0; 8];
    assert_eq!(server.recv(&mut buffer).unwrap(), 4);
    assert_eq!(server.recv(&mut buffer).unwrap(), 3);
    link.clear_peer_delay(far);
    assert_eq!(link.delay(Some(far)), 5 * MS);
    assert!(round_trip(&far_client, &server) >= 10 * MS);
}

#[test]
fn a_shrinking_delay_and_jitter_do_not_reorder() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let mut config = link(&a, &b).delay(50 * MS);
    config.jitter = 20 * MS;
    let link = DelayLink::spawn(config).unwrap();
    let (client, server) = (socket(&a, "10.1.0.1:0"), socket(&b, "10.1.0.2:9000"));
    for id in 0..100u32 {
        link.set_delay((50 - id / 2) * MS);
        client.send_to(&id.to_be_bytes(), "10.1.0.2:9000").unwrap();
    }
    let mut buffer = [0; 4];
    for id in 0..100u32 {
        server.recv(&mut buffer).unwrap();
        assert_eq!(u32::from_be_bytes(buffer), id);
    }
}

#[test]
fn a_tcp_stream_arrives_whole() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let link = DelayLink::spawn(link(&a, &b).delay(2 * MS)).unwrap();
    let listener = b.enter(|| TcpListener::bind("10.1.0.2:9000").unwrap()).unwrap();
    let mut client =
        a.enter(|| TcpStream::connect_timeout(&"10.1.0.2:9000".parse().unwrap(), PATIENCE).unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let sent: Vec<u8> = (0..4_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = sent.clone();
    let writer = std::thread::spawn(move || client.write_all(&sent));
    let mut got = Vec::new();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.read_to_end(&mut got).unwrap();
    writer.join().unwrap().unwrap();
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    assert_eq!(link.stats().a_to_b.overflowed, 0);
}

#[test]
fn loss_is_counted_and_seeded() {
    if !can_run() {
        return;
    }
    let run = |seed| {
        let (a, b) = (netns("a"), netns("b"));
        let mut config = link(&a, &b);
        (config.loss, config.seed) = (0.3, seed);
        let link = DelayLink::spawn(config).unwrap();
        let (client, server) = (socket(&a, "10.1.0.1:0"), socket(&b, "10.1.0.2:9000"));
        for id in 0..200u8 {
            client.send_to(&[id], "10.1.0.2:9000").unwrap();
        }
        support::until("all packets are through", || {
            let s = link.stats().a_to_b;
            s.packets + s.lost == 200
        });
        server.set_nonblocking(true).unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 4];
        while server.recv(&mut buffer).is_ok() {
            got.push(buffer[0]);
        }
        assert_eq!(got.len() as u64, link.stats().a_to_b.packets);
        got
    };
    let (one, again, other) = (run(1), run(1), run(2));
    assert!((100..180).contains(&one.len()), "{} of 200 came through at 30 % loss", one.len());
    assert_eq!(one, again);
    assert_ne!(one, other);
}

#[test]
fn a_rate_limit_with_a_short_queue_drops_and_counts() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let mut config = link(&a, &b);
    (config.rate_limit, config.queue_bytes) = (Some(1_000_000), 5_000);
    let link = DelayLink::spawn(config).unwrap();
    let (client, server) = (socket(&a, "10.1.0.1:0"), socket(&b, "10.1.0.2:9000"));
    let begun = Instant::now();
    for _ in 0..20 {
        client.send_to(&[0; 972], "10.1.0.2:9000").unwrap(); // 1000 bytes with its headers: 8 ms each
    }
    support::until("each packet is through or dropped", || {
        let s = link.stats().a_to_b;
        s.packets + s.overflowed == 20
    });
    let stats = link.stats().a_to_b;
    assert!(stats.overflowed > 0 && stats.packets >= 5, "{stats:?}");
    for _ in 0..stats.packets {
        server.recv(&mut [0; 1500]).unwrap();
    }
    assert!(begun.elapsed() >= u32::try_from(stats.packets).unwrap() * 8 * MS, "faster than the limit");
}

#[test]
fn a_dropped_link_leaves_no_device() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let link = DelayLink::spawn(link(&a, &b)).unwrap();
    assert_eq!(Netlink::open(&a).unwrap().list_links().unwrap().len(), 2);
    drop(link);
    for ns in [&a, &b] {
        assert_eq!(Netlink::open(ns).unwrap().list_links().unwrap().len(), 1);
    }
}

#[test]
fn a_link_whose_device_is_deleted_says_so() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let link = DelayLink::spawn(link(&a, &b)).unwrap();
    Netlink::open(&b).unwrap().del_link("to-a").unwrap();
    support::until("the link has noticed", || !link.is_alive());
}

#[test]
fn nonsense_is_refused_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let mut config = link(&a, &b);
    config.loss = 1.5;
    assert!(DelayLink::spawn(config).unwrap_err().to_string().contains("between 0 and 1"));
    let mut config = link(&a, &b);
    config.b.ifname = "much-too-long-a-name".into();
    assert!(DelayLink::spawn(config).is_err());
    let mut config = link(&a, &b);
    config.b.ifname = "lo".into();
    assert!(DelayLink::spawn(config).is_err());
    assert_eq!(Netlink::open(&a).unwrap().list_links().unwrap().len(), 1);
}
