//! Datagrams to a service address are held and replayed in order, as many as there may be.

mod support;

use std::net::{IpAddr, UdpSocket};

use godwit_net::{Netlink, Netns, PacketHold, Prefix, RouteTo};
use nix::sys::socket::{setsockopt, sockopt};
use support::{PATIENCE, can_run, default_via, forward, join, netns, until};

const MANY: u32 = 6000;

struct World {
    user: Netns,
    gw: Netns,
    nodes: [Netns; 2],
}

const SERVICES: [&str; 2] = ["10.99.0.1", "fd99::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn towards(node: usize, service: IpAddr) -> RouteTo {
    let via = if service.is_ipv4() { format!("10.{node}.0.2") } else { format!("fd0{node}::2") };
    RouteTo::dev(format!("node{node}")).via(ip(&via))
}

fn world() -> World {
    let (user, gw, nodes) = (netns("user"), netns("gw"), [netns("node1"), netns("node2")]);
    forward(&gw);
    let nl = Netlink::open(&gw).unwrap();
    for (n, (ns, dev)) in [(&user, "user"), (&nodes[0], "node1"), (&nodes[1], "node2")].into_iter().enumerate() {
        join(&gw, dev, &format!("10.{n}.0.1/24"), ns, "eth0", &format!("10.{n}.0.2/24"));
        nl.add_addr(dev, support::prefix(&format!("fd0{n}::1/64"))).unwrap();
        let inside = Netlink::open(ns).unwrap();
        inside.add_addr("eth0", support::prefix(&format!("fd0{n}::2/64"))).unwrap();
        let mac = inside.link("eth0").unwrap().mac.unwrap();
        for addr in [format!("10.{n}.0.2"), format!("fd0{n}::2")] {
            nl.replace_neigh(dev, ip(&addr), mac).unwrap();
        }
        default_via(ns, &format!("10.{n}.0.1"));
        default_via(ns, &format!("fd0{n}::1"));
        if n > 0 {
            SERVICES.iter().for_each(|service| inside.add_addr("lo", Prefix::host(ip(service))).unwrap());
        }
    }
    for service in SERVICES.map(ip) {
        nl.replace_route(&towards(1, service).route(service)).unwrap();
    }
    World { user, gw, nodes }
}

/// A socket whose own buffer is not what is tested.
fn udp(ns: &Netns, addr: IpAddr, port: u16) -> UdpSocket {
    let socket = ns.enter(|| UdpSocket::bind((addr, port)).unwrap()).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn thousands_of_datagrams_are_replayed_in_order() {
    if !can_run() {
        return;
    }
    let world = world();
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    for service in SERVICES.map(ip) {
        let servers = [0, 1].map(|n| udp(&world.nodes[n], service, 9000));
        let client = udp(&world.user, ip(if service.is_ipv4() { "0.0.0.0" } else { "::" }), 0);
        hold.capture(service).unwrap();
        for id in 0..MANY {
            client.send_to(&id.to_be_bytes(), (service, 9000)).unwrap();
        }
        until("all are kept", || hold.stats(service).unwrap().packets == u64::from(MANY));
        let stats = hold.release(service, &towards(2, service)).unwrap();
        assert_eq!((stats.packets, stats.dropped, stats.refused), (u64::from(MANY), 0, 0), "{stats:?}");
        let mut buffer = [0; 4];
        for id in 0..MANY {
            servers[1].recv(&mut buffer).unwrap();
            assert_eq!(u32::from_be_bytes(buffer), id);
        }
        servers[0].set_nonblocking(true).unwrap();
        assert!(servers[0].recv(&mut buffer).is_err(), "the old place got something");
    }
}
