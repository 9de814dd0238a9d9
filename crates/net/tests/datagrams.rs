//! Datagrams to a service address are held and replayed in order, as many as there may be.

mod support;

use std::net::{IpAddr, UdpSocket};

use godwit_net::{Netns, PacketHold};
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
