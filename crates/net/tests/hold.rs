//! A service address changes place under traffic: nothing lost, nothing reordered, nothing reset.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use godwit_net::{
    DelayLink, End, HoldOptions, LinkConfig, NetError, Netlink, Netns, Packet, PacketHold, Prefix, Route, RouteTo,
};
use support::{PATIENCE, can_run, default_via, forward, join, netns, until};

/// A user, a gateway, and two nodes that both have the service addresses.
struct World {
    user: Netns,
    gw: Netns,
    nodes: [Netns; 2],
    nl: Netlink,
}

const V4: &str = "10.99.0.1";
const V6: &str = "fd99::1";

fn world() -> World {
    let (user, gw, nodes) = (netns("user"), netns("gw"), [netns("node1"), netns("node2")]);
    forward(&gw);
    for ns in [&gw, &nodes[0], &nodes[1]] {
        ns.set_sysctl("net.ipv4.conf.all.rp_filter", "0").unwrap();
    }
    join(&gw, "user", "10.0.0.1/24", &user, "eth0", "10.0.0.2/24");
    let nl = Netlink::open(&gw).unwrap();
    nl.add_addr("user", support::prefix("fd00::1/64")).unwrap();
    Netlink::open(&user).unwrap().add_addr("eth0", support::prefix("fd00::2/64")).unwrap();
    default_via(&user, "10.0.0.1");
    default_via(&user, "fd00::1");
    for (i, node) in nodes.iter().enumerate() {
        let (dev, n) = (format!("node{}", i + 1), i + 1);
        join(&gw, &dev, &format!("10.{n}.0.1/24"), node, "eth0", &format!("10.{n}.0.2/24"));
        nl.add_addr(dev.as_str(), support::prefix(&format!("fd0{n}::1/64"))).unwrap();
        let there = Netlink::open(node).unwrap();
        let mac = there.link("eth0").unwrap().mac.unwrap();
        for addr in [format!("10.{n}.0.2"), format!("fd0{n}::2")] {
            nl.replace_neigh(dev.as_str(), ip(&addr), mac).unwrap();
        }
        let nl = there;
        nl.add_addr("eth0", support::prefix(&format!("fd0{n}::2/64"))).unwrap();
        nl.add_addr("lo", Prefix::host(ip(V4))).unwrap();
        nl.add_addr("lo", Prefix::host(ip("10.99.0.2"))).unwrap();
        nl.add_addr("lo", Prefix::host(ip(V6))).unwrap();
        default_via(node, &format!("10.{n}.0.1"));
        default_via(node, &format!("fd0{n}::1"));
    }
    for service in [V4, "10.99.0.2", V6] {
        nl.replace_route(&to(1, ip(service)).route(ip(service))).unwrap();
    }
    World { user, gw, nodes, nl }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn to(node: u8, service: IpAddr) -> RouteTo {
    let via = if service.is_ipv4() { format!("10.{node}.0.2") } else { format!("fd0{node}::2") };
    RouteTo::dev(format!("node{node}")).via(ip(&via))
}

fn udp(ns: &Netns, addr: IpAddr, port: u16) -> UdpSocket {
    let socket = ns.enter(|| UdpSocket::bind((addr, port)).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn send(client: &UdpSocket, to: IpAddr, ids: std::ops::Range<u32>) {
    for id in ids {
        client.send_to(&id.to_be_bytes(), (to, 9000)).unwrap();
    }
}

fn expect(server: &UdpSocket, ids: std::ops::Range<u32>) {
    let mut buffer = [0; 4];
    for id in ids {
        server.recv(&mut buffer).unwrap();
        assert_eq!(u32::from_be_bytes(buffer), id);
    }
}

#[test]
fn held_packets_reach_the_new_place_in_order() {
    if !can_run() {
        return;
    }
    let world = world();
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    for (service, source) in [(V4, "10.0.0.2"), (V6, "fd00::2")] {
        let service = ip(service);
        let servers = [0, 1].map(|n| udp(&world.nodes[n], service, 9000));
        let client = udp(&world.user, ip(source), 0);
        send(&client, service, 0..10);
        expect(&servers[0], 0..10);
        hold.capture(service).unwrap();
        send(&client, service, 10..160);
        until("all are kept", || hold.stats(service).unwrap().packets == 150);
        let stats = hold.release(service, &to(2, service)).unwrap();
        send(&client, service, 160..170);
        expect(&servers[1], 10..170);
        assert_eq!((stats.packets, stats.dropped, stats.refused), (150, 0, 0), "{stats:?}");
        assert_eq!(world.nl.lookup_route(service).unwrap().dev, world.nl.link_index("node2").unwrap());
        servers[0].set_nonblocking(true).unwrap();
        assert!(servers[0].recv(&mut [0; 4]).is_err(), "the old place got something");
        // And back again by the same hold.
        hold.capture(service).unwrap();
        send(&client, service, 170..180);
        until("all are kept", || hold.stats(service).unwrap().packets == 10);
        hold.release(service, &to(1, service)).unwrap();
        servers[0].set_nonblocking(false).unwrap();
        expect(&servers[0], 170..180);
    }
}

#[test]
fn what_the_old_place_caught_goes_first() {
    if !can_run() {
        return;
    }
    let world = world();
    let service = ip(V4);
    let gateway = PacketHold::open(&world.gw, "hold0").unwrap();
    let server = udp(&world.nodes[1], service, 9000);
    let client = udp(&world.user, ip("10.0.0.2"), 0);
    gateway.capture(service).unwrap();
    send(&client, service, 0..5);
    until("the first are kept", || gateway.stats(service).unwrap().packets == 5);
    let early: Vec<Packet> =
        gateway.take(service).unwrap().into_iter().map(|p| Packet::from_bytes(p.into_bytes())).collect();
    assert_eq!((early.len(), early[0].dst(), early[0].src()), (5, Some(service), Some(ip("10.0.0.2"))));
    send(&client, service, 5..10);
    until("the others are kept", || gateway.stats(service).unwrap().packets == 5);
    gateway.prepend(service, early).unwrap();
    let stats = gateway.release(service, &to(2, service)).unwrap();
    expect(&server, 0..10);
    assert_eq!((stats.packets, stats.prepended), (10, 5));
}

#[test]
fn a_tcp_stream_survives_capture_and_release() {
    if !can_run() {
        return;
    }
    let world = world();
    // A second way to the first node: the route changes while the server's socket stays.
    join(&world.gw, "node1b", "10.3.0.1/24", &world.nodes[0], "eth1", "10.3.0.2/24");
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    for (service, other_way) in
        [(ip(V4), RouteTo::dev("node1b").via(ip("10.3.0.2"))), (ip(V6), RouteTo::dev("node1").via(ip("fd01::2")))]
    {
        let listener = world.nodes[0].enter(|| TcpListener::bind((service, 9000)).unwrap()).unwrap();
        let client =
            world.user.enter(|| TcpStream::connect_timeout(&(service, 9000).into(), PATIENCE).unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        // Veth leaves checksums unfinished and segments uncut, as always.
        pour(client, server, |round, write| {
            hold.capture(service).unwrap();
            write();
            until("something is kept", || hold.stats(service).unwrap().packets > 0);
            let way = if round % 2 == 0 { other_way.clone() } else { to(1, service) };
            let stats = hold.release(service, &way).unwrap();
            assert_eq!((stats.dropped, stats.refused), (0, 0));
        });
    }
}

/// Sends a stream in pieces, one of them in the midst of each move, while the one before may still be under way; checks
/// every byte.
fn pour(mut client: TcpStream, mut server: TcpStream, mut change: impl FnMut(usize, &dyn Fn())) {
    const ROUNDS: usize = 6;
    const PIECE: usize = 1_000_000;
    let sent: Vec<u8> = (0..(2 * ROUNDS * PIECE) as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        let (go, gone) = std::sync::mpsc::channel();
        let pieces = sent.chunks(PIECE);
        let writer = scope.spawn(move || {
            for piece in pieces {
                gone.recv().unwrap();
                client.write_all(piece).unwrap();
            }
        });
        let write = || go.send(()).unwrap();
        let mut got = vec![0; sent.len()];
        for round in 0..ROUNDS {
            let at = 2 * round * PIECE;
            write();
            server.read_exact(&mut got[at..at + PIECE / 10]).unwrap();
            change(round, &write);
            server.read_exact(&mut got[at + PIECE / 10..at + 2 * PIECE]).unwrap();
        }
        writer.join().unwrap();
        assert!(got == sent, "bytes were changed");
        assert_eq!(server.read(&mut got).unwrap(), 0, "bytes were added");
    });
}

/// Over delay links packets are 64 KiB segments with unfinished checksums until they reach the hold.
#[test]
fn a_tcp_stream_over_delay_links_survives_too() {
    if !can_run() {
        return;
    }
    let (user, gw, node) = (netns("user"), netns("gw"), netns("node"));
    forward(&gw);
    let link = |ns, net: u8, dev: &str| {
        let gateway = End::new(&gw, dev).addr(support::prefix(&format!("10.{net}.0.1/24")));
        let end = End::new(ns, &format!("up{net}")).addr(support::prefix(&format!("10.{net}.0.2/24")));
        DelayLink::spawn(LinkConfig::new(gateway, end).delay(Duration::from_millis(1))).unwrap()
    };
    let links = [link(&user, 0, "user"), link(&node, 1, "one"), link(&node, 2, "two-way")];
    default_via(&user, "10.0.0.1");
    default_via(&node, "10.1.0.1");
    let service = ip(V4);
    Netlink::open(&node).unwrap().add_addr("lo", Prefix::host(service)).unwrap();
    node.set_sysctl("net.ipv4.conf.all.rp_filter", "0").unwrap();
    let ways = [RouteTo::dev("one"), RouteTo::dev("two-way")];
    Netlink::open(&gw).unwrap().replace_route(&ways[0].route(service)).unwrap();
    let hold = PacketHold::open(&gw, "hold0").unwrap();

    let listener = node.enter(|| TcpListener::bind((service, 9000)).unwrap()).unwrap();
    let client = user.enter(|| TcpStream::connect_timeout(&(service, 9000).into(), PATIENCE).unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    pour(client, server, |round, write| {
        hold.capture(service).unwrap();
        write();
        until("something is kept", || hold.stats(service).unwrap().packets > 0);
        let stats = hold.release(service, &ways[(round + 1) % 2]).unwrap();
        assert_eq!((stats.dropped, stats.refused), (0, 0));
    });
    drop(hold);
    drop(links);
}

#[test]
fn a_connection_attempt_waits_instead_of_being_refused() {
    if !can_run() {
        return;
    }
    let world = world();
    let service = ip(V4);
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    hold.capture(service).unwrap();
    let listener = world.nodes[1].enter(|| TcpListener::bind((service, 9000)).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let user = &world.user;
        let client =
            scope.spawn(move || user.enter(|| TcpStream::connect_timeout(&(service, 9000).into(), PATIENCE)).unwrap());
        until("its SYN is kept", || hold.stats(service).unwrap().packets > 0);
        hold.release(service, &to(2, service)).unwrap();
        client.join().unwrap().unwrap();
        listener.accept().unwrap();
    });
}

#[test]
fn kept_packets_are_what_a_wire_carries() {
    if !can_run() {
        return;
    }
    let world = world();
    let service = ip(V4);
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    let listener = world.nodes[0].enter(|| TcpListener::bind((service, 9000)).unwrap()).unwrap();
    let mut client =
        world.user.enter(|| TcpStream::connect_timeout(&(service, 9000).into(), PATIENCE).unwrap()).unwrap();
    let (_server, _) = listener.accept().unwrap();
    hold.capture(service).unwrap();
    client.write_all(&[7; 6000]).unwrap();
    until("the segments are kept", || hold.stats(service).unwrap().bytes > 6000);
    let kept = hold.take(service).unwrap();
    for packet in &kept {
        let bytes = packet.bytes();
        assert!(bytes.len() <= 1500, "uncut: {packet:?}");
        let header = usize::from(bytes[0] & 15) * 4;
        assert_eq!(sum(&bytes[..header], 0), 0xffff, "IP checksum of {packet:?}");
        let pseudo = sum(&bytes[12..20], 6 + (bytes.len() - header) as u32);
        assert_eq!(sum(&bytes[header..], pseudo), 0xffff, "TCP checksum of {packet:?}");
    }
    hold.prepend(service, kept).unwrap();
    hold.release(service, &to(1, service)).unwrap();
}

/// The Internet checksum's sum (RFC 1071); 0xffff over data that includes a right checksum.
fn sum(bytes: &[u8], start: u32) -> u32 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[test]
fn several_services_at_once_and_a_full_hold() {
    if !can_run() {
        return;
    }
    let world = world();
    let options = HoldOptions { max_bytes: 3200, ..HoldOptions::default() };
    let hold = PacketHold::open_with(&world.gw, "hold0", &options).unwrap();
    let services = [ip(V4), ip("10.99.0.2")];
    let servers = services.map(|s| udp(&world.nodes[1], s, 9000));
    let client = udp(&world.user, ip("10.0.0.2"), 0);
    for (i, service) in services.iter().enumerate() {
        hold.capture(*service).unwrap();
        let base = 100 * i as u32;
        send(&client, *service, base..base + 60); // 32 bytes each: 100 fit
    }
    until("each packet is kept or dropped", || {
        services.iter().map(|s| hold.stats(*s).unwrap()).map(|s| s.packets + s.dropped).sum::<u64>() == 120
    });
    let second = hold.release(services[1], &to(2, services[1])).unwrap();
    assert_eq!((second.packets, second.dropped), (40, 20));
    expect(&servers[1], 100..140);
    let first = hold.release(services[0], &to(2, services[0])).unwrap();
    assert_eq!((first.packets, first.dropped), (60, 0));
    expect(&servers[0], 0..60);
}

#[test]
fn withdrawn_gives_the_packets_back_and_clears_the_route() {
    if !can_run() {
        return;
    }
    let world = world();
    let service = ip(V4);
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    assert!(matches!(hold.take(service), Err(NetError::NotCaptured { .. })));
    hold.capture(service).unwrap();
    send(&udp(&world.user, ip("10.0.0.2"), 0), service, 0..3);
    until("all are kept", || hold.stats(service).unwrap().packets == 3);
    assert_eq!(hold.withdraw(service).unwrap().len(), 3);
    assert!(world.nl.lookup_route(service).is_err(), "no broader route here");
    assert!(matches!(hold.release(service, &to(2, service)), Err(NetError::NotCaptured { .. })));
}

#[test]
fn strict_reverse_path_checks_do_not_drop_the_replay() {
    if !can_run() {
        return;
    }
    let world = world();
    world.gw.set_sysctl("net.ipv4.conf.all.rp_filter", "1").unwrap();
    let service = ip(V4);
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    let server = udp(&world.nodes[1], service, 9000);
    let client = udp(&world.user, ip("10.0.0.2"), 0);
    // Also from the gateway itself: a local source comes in by a device.
    let own = udp(&world.gw, ip("10.2.0.1"), 0);
    hold.capture(service).unwrap();
    send(&client, service, 0..3);
    send(&own, service, 3..6);
    until("all are kept", || hold.stats(service).unwrap().packets == 6);
    hold.release(service, &to(2, service)).unwrap();
    expect(&server, 0..6);
}

#[test]
fn a_closed_hold_leaves_no_device_rule_or_route() {
    if !can_run() {
        return;
    }
    let world = world();
    let service = ip(V4);
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    let table = {
        hold.capture(service).unwrap();
        hold.release(service, &to(2, service)).unwrap();
        godwit_net::HoldOptions::default().table.unwrap_or(7_000_000 + world.nl.link_index("hold0").unwrap())
    };
    drop(hold);
    assert!(matches!(world.nl.link("hold0"), Err(NetError::NoDevice { .. })));
    let left = world.nl.del_route(&Route::host(service).table(table));
    assert!(left.unwrap_err().is_not_found(), "a route is left in the hold's table");
    for rule in [godwit_net::Rule::v4(100, 0), godwit_net::Rule::v6(100, 0)] {
        assert!(world.nl.del_rule(&rule).is_err(), "a rule is left: {rule}");
    }
    // What was released stays where it is.
    assert_eq!(world.nl.lookup_route(service).unwrap().dev, world.nl.link_index("node2").unwrap());
}
