//! An address moves from one port of a bridge to another.

mod support;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use godwit_net::{Mac, NetError, Netlink, Netns, announce};
use support::{PATIENCE, can_run, netns, until};

/// A namespace with a port of the bridge, and addresses there.
fn host(bridge: &Netns, what: &str, addresses: &[&str]) -> Netns {
    let ns = netns(what);
    let (switch, inside) = (Netlink::open(bridge).unwrap(), Netlink::open(&ns).unwrap());
    switch.add_veth(what, "eth0", &ns).unwrap();
    switch.set_master(what, "br0").unwrap();
    switch.set_up(what).unwrap();
    inside.set_up("eth0").unwrap();
    addresses.iter().for_each(|address| inside.add_addr("eth0", support::prefix(address)).unwrap());
    ns
}

fn udp(ns: &Netns, address: &str) -> UdpSocket {
    let socket = ns.enter(|| UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 9000)).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

#[test]
fn neighbours_send_to_the_new_place() {
    if !can_run() {
        return;
    }
    let bridge = netns("bridge");
    Netlink::open(&bridge).unwrap().add_bridge("br0", Mac::local(0x77)).unwrap();
    Netlink::open(&bridge).unwrap().set_up("br0").unwrap();
    let user = host(&bridge, "user", &["10.50.0.1/24", "fd50::1/64"]);
    let old = host(&bridge, "old", &["10.50.0.9/24", "fd50::9/64"]);
    let new = host(&bridge, "new", &[]);
    for (mine, service, prefix) in [("10.50.0.1", "10.50.0.9", "/24"), ("fd50::1", "fd50::9", "/64")] {
        let client = udp(&user, mine);
        let to = (service.parse::<IpAddr>().unwrap(), 9000);
        let reaches = |server: &UdpSocket| {
            client.send_to(b"?", to).unwrap();
            server.recv(&mut [0]).is_ok()
        };
        let was = udp(&old, service);
        until("the old place is found", || reaches(&was));
        Netlink::open(&new).unwrap().add_addr("eth0", support::prefix(&format!("{service}{prefix}"))).unwrap();
        let is = udp(&new, service);
        assert!(!reaches(&is), "nobody has told the client, and the new place gets its packets");
        announce(&new, "eth0", to.0).unwrap();
        until("the new place is found", || reaches(&is));
        // What was sent before may still lie there.
        while was.recv(&mut [0]).is_ok() {}
        is.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(reaches(&is));
        assert!(was.recv(&mut [0]).is_err(), "the old place still gets packets");
    }
}

#[test]
fn a_device_that_is_not_there_is_told() {
    if !can_run() {
        return;
    }
    let told = announce(&netns("alone"), "eth0", [10, 0, 0, 1].into());
    assert!(matches!(told, Err(NetError::NoDevice { .. })), "{told:?}");
}
