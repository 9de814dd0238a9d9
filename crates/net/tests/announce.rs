//! An address moves from one port of a bridge to another.

mod support;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use godwit_net::{Mac, NetError, Netlink, Netns, PacketHold, Prefix, Route, RouteTo, announce};
use nix::sys::socket::{setsockopt, sockopt};
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

/// Where nodes share a link with their gateway, the address moves by an announcement, and its packets are held meanwhile.
#[test]
fn what_a_gateway_has_held_goes_to_where_the_address_was_announced() {
    const MANY: u32 = 500;
    if !can_run() {
        return;
    }
    let gateway = netns("gateway");
    support::forward(&gateway);
    let nl = Netlink::open(&gateway).unwrap();
    nl.add_bridge("br0", Mac::local(0x78)).unwrap();
    nl.set_up("br0").unwrap();
    let user = netns("user");
    support::join(&gateway, "user", "10.51.0.1/24", &user, "eth0", "10.51.0.2/24");
    for (ns, dev, address) in
        [(&gateway, "br0", "10.50.0.1/24"), (&gateway, "br0", "fd50::1/64"), (&gateway, "user", "fd51::1/64")]
    {
        Netlink::open(ns).unwrap().add_addr(dev, support::prefix(address)).unwrap();
    }
    Netlink::open(&user).unwrap().add_addr("eth0", support::prefix("fd51::2/64")).unwrap();
    let nodes = [
        host(&gateway, "old", &["10.50.0.2/24", "fd50::2/64", "10.50.0.9/32", "fd50::9/128"]),
        host(&gateway, "new", &["10.50.0.3/24", "fd50::3/64"]),
    ];
    ["10.51.0.1", "fd51::1"].iter().for_each(|via| support::default_via(&user, via));
    for via in ["10.50.0.1", "fd50::1"] {
        nodes.iter().for_each(|node| support::default_via(node, via));
    }
    let hold = PacketHold::open(&gateway, "hold0").unwrap();
    let lead = RouteTo::dev("br0");
    for (any, service) in [("0.0.0.0", "10.50.0.9"), ("::", "fd50::9")] {
        let address: IpAddr = service.parse().unwrap();
        nl.replace_route(&Route::host(address).dev("br0")).unwrap();
        let was = udp(&nodes[0], service);
        let client = udp(&user, any);
        let numbered = |id: u32| client.send_to(&id.to_be_bytes(), (address, 9000)).unwrap();
        until("the old place is found", || numbered(0) == 4 && was.recv(&mut [0; 4]).is_ok());
        hold.capture(address).unwrap();
        for id in 0..MANY {
            numbered(id);
        }
        until("all are kept", || hold.stats(address).unwrap().packets == u64::from(MANY));

        let [old, new] = [0, 1].map(|n| Netlink::open(&nodes[n]).unwrap());
        old.del_addr("eth0", Prefix::host(address)).unwrap();
        new.add_addr("eth0", Prefix::host(address)).unwrap();
        let is = udp(&nodes[1], service);
        is.set_read_timeout(Some(PATIENCE)).unwrap();
        // Its own buffer is not what is tested.
        setsockopt(&is, sockopt::RcvBufForce, &(64 << 20)).unwrap();
        announce(&nodes[1], "eth0", address).unwrap();
        let mac = new.link("eth0").unwrap().mac.unwrap().to_string();
        until("the gateway has heard of it", || {
            neighbours(&gateway).any(|line| line.contains(service) && line.contains(&mac))
        });
        hold.release(address, &lead).unwrap();
        let mut buffer = [0; 4];
        for id in 0..MANY {
            is.recv(&mut buffer).unwrap();
            assert_eq!(u32::from_be_bytes(buffer), id);
        }
    }
}

/// As iproute2 lists them.
fn neighbours(ns: &Netns) -> impl Iterator<Item = String> {
    let run = || std::process::Command::new("ip").args(["neigh", "show"]).output().expect("iproute2 is there");
    let listed = String::from_utf8(ns.enter(run).unwrap().stdout).unwrap();
    listed.lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

#[test]
fn a_device_that_is_not_there_is_told() {
    if !can_run() {
        return;
    }
    let told = announce(&netns("alone"), "eth0", [10, 0, 0, 1].into());
    assert!(matches!(told, Err(NetError::NoDevice { .. })), "{told:?}");
}
