//! Datagrams to a service address are held and replayed in order, as many as there may be.

mod support;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use godwit_net::{Netns, PacketHold, SockDiag};
use nix::sys::socket::{setsockopt, sockopt};
use support::star::{SERVICES, ip, towards, world};
use support::{PATIENCE, can_run, until};

const MANY: u32 = 6000;

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
    let world = world(SERVICES.map(ip));
    world.know_neighbours();
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

/// Of a size that a socket's own buffer takes a small part of.
const TOO_MANY: u32 = 3000;

fn replay_to_a_small_socket(paced: bool) -> u32 {
    let world = world(SERVICES.map(ip));
    world.know_neighbours();
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    let service = ip(SERVICES[0]);
    let server = world.nodes[1].enter(|| UdpSocket::bind((service, 9000)).unwrap()).unwrap();
    let client = udp(&world.user, ip("0.0.0.0"), 0);
    hold.capture(service).unwrap();
    for id in 0..TOO_MANY {
        client.send_to(&id.to_be_bytes(), (service, 9000)).unwrap();
    }
    until("all are kept", || hold.stats(service).unwrap().packets == u64::from(TOO_MANY));
    let diag = SockDiag::open(&world.nodes[1]).unwrap();
    let unread = || diag.unread_datagrams().unwrap();
    let mut pace = || until("there is room", || unread() < 64 << 10);
    let prepared = hold.prepare(service, &towards(2, service)).unwrap();
    let read_all = || {
        server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut buffer = [0; 4];
        std::iter::from_fn(|| server.recv(&mut buffer).ok()).count() as u32
    };
    if !paced {
        hold.release_prepared(&prepared).unwrap();
        return read_all();
    }
    std::thread::scope(|scope| {
        let reader = scope.spawn(read_all);
        hold.release_paced(&prepared, &mut pace).unwrap();
        reader.join().unwrap()
    })
}

#[test]
fn datagrams_are_replayed_no_faster_than_they_are_read() {
    if !can_run() {
        return;
    }
    assert_eq!(replay_to_a_small_socket(true), TOO_MANY);
    // Otherwise the above would show nothing.
    assert!(replay_to_a_small_socket(false) < TOO_MANY);
}
