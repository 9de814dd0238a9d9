//! Links, routes, neighbours and rules, checked by asking the kernel and by traffic.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, UdpSocket};

use godwit_net::{Mac, NetError, Netlink, Prefix, Route, Rule};
use support::{PATIENCE, can_run, forward, join, netns, prefix};

#[test]
fn veth_pair_across_namespaces_with_names_macs_and_mtu() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let (nl_a, nl_b) = (Netlink::open(&a).unwrap(), Netlink::open(&b).unwrap());
    nl_a.add_veth("left", "right", &b).unwrap();
    assert!(nl_a.add_veth("left", "right2", &b).unwrap_err().is_exists());
    let mac = Mac::local(7);
    nl_b.set_mac("right", mac).unwrap();
    nl_b.set_mtu("right", 1400).unwrap();
    nl_b.rename("right", "eth0").unwrap();
    nl_b.set_up("eth0").unwrap();
    let link = nl_b.link("eth0").unwrap();
    assert_eq!((link.mac, link.mtu, link.up), (Some(mac), 1400, true));
    nl_b.set_down(link.index).unwrap();
    assert!(!nl_b.link("eth0").unwrap().up);
    nl_a.del_link("left").unwrap();
    assert_eq!(nl_b.list_links().unwrap().len(), 1, "the peer goes with it");
    assert!(matches!(nl_a.del_link("left"), Err(NetError::NoDevice { .. })));
    let e = nl_a.set_up("left").unwrap_err();
    assert!(e.to_string().contains("left") && e.to_string().contains(a.name()), "{e}");
}

#[test]
fn a_bridge_keeps_its_mac() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    let nl = Netlink::open(&a).unwrap();
    nl.add_bridge("br0", Mac::local(9)).unwrap();
    nl.add_veth("port", "eth0", &b).unwrap();
    nl.set_mac("port", Mac([0x02, 0, 0, 0, 0, 0])).unwrap();
    nl.set_master("port", "br0").unwrap();
    assert_eq!(nl.link("br0").unwrap().mac, Some(Mac::local(9)));
    assert_eq!(nl.link("port").unwrap().master, Some(nl.link_index("br0").unwrap()));
}

#[test]
fn routes_are_replaced_in_one_step_and_looked_up() {
    if !can_run() {
        return;
    }
    let (gw, one, two) = (netns("gw"), netns("one"), netns("two"));
    join(&gw, "one", "10.1.0.1/24", &one, "eth0", "10.1.0.2/24");
    join(&gw, "two", "10.2.0.1/24", &two, "eth0", "10.2.0.2/24");
    let nl = Netlink::open(&gw).unwrap();
    nl.add_addr("one", prefix("fd01::1/64")).unwrap();
    nl.add_addr("two", prefix("fd02::1/64")).unwrap();
    for (service, via_one, via_two) in [("10.99.0.1", "10.1.0.2", "10.2.0.2"), ("fd99::1", "fd01::2", "fd02::2")] {
        let (service, via_one, via_two): (IpAddr, IpAddr, IpAddr) =
            (service.parse().unwrap(), via_one.parse().unwrap(), via_two.parse().unwrap());
        nl.replace_route(&Route::host(service).via(via_one).dev("one")).unwrap();
        let found = nl.lookup_route(service).unwrap();
        assert_eq!((found.dev, found.via), (nl.link_index("one").unwrap(), Some(via_one)));
        let prepared = nl.prepare_route(&Route::host(service).via(via_two)).unwrap();
        nl.install(&prepared).unwrap();
        let found = nl.lookup_route(service).unwrap();
        assert_eq!((found.dev, found.via), (nl.link_index("two").unwrap(), Some(via_two)));
        nl.del_route(&Route::host(service)).unwrap();
        assert!(nl.del_route(&Route::host(service)).unwrap_err().is_not_found());
    }
    let far = "10.50.0.1".parse().unwrap();
    let e = nl.replace_route(&Route::host(far).via("10.60.0.1".parse().unwrap())).unwrap_err();
    assert!(e.to_string().contains("10.50.0.1/32 via 10.60.0.1"), "{e}");
    nl.replace_route(&Route::host(far).via("10.60.0.1".parse().unwrap()).dev("one").onlink()).unwrap();
    nl.replace_route(&Route::to(Prefix::default_v4()).via("10.2.0.2".parse().unwrap()).metric(5)).unwrap();
    assert_eq!(nl.lookup_route("1.1.1.1".parse().unwrap()).unwrap().dev, nl.link_index("two").unwrap());
}

#[test]
fn permanent_neighbours_need_no_arp() {
    if !can_run() {
        return;
    }
    let (a, b) = (netns("a"), netns("b"));
    join(&a, "eth0", "10.1.0.1/24", &b, "eth0", "10.1.0.2/24");
    let (nl_a, nl_b) = (Netlink::open(&a).unwrap(), Netlink::open(&b).unwrap());
    let mac_b = nl_b.link("eth0").unwrap().mac.unwrap();
    // Nobody answers on b's side of the wire, so only the entry can tell.
    nl_b.set_noarp("eth0").unwrap();
    nl_a.replace_neigh("eth0", "10.1.0.2".parse().unwrap(), Mac::local(1)).unwrap();
    nl_a.replace_neigh("eth0", "10.1.0.2".parse().unwrap(), mac_b).unwrap();
    let server = b.enter(|| UdpSocket::bind("10.1.0.2:9000").unwrap()).unwrap();
    let client = a.enter(|| UdpSocket::bind("10.1.0.1:0").unwrap()).unwrap();
    client.send_to(b"x", "10.1.0.2:9000").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(server.recv(&mut [0; 4]).unwrap(), 1);
    nl_a.del_neigh("eth0", "10.1.0.2".parse().unwrap()).unwrap();
}

#[test]
fn a_rule_sends_what_comes_in_by_a_device_to_another_table() {
    if !can_run() {
        return;
    }
    let (gw, user, one, two) = (netns("gw"), netns("user"), netns("one"), netns("two"));
    forward(&gw);
    join(&gw, "user", "10.0.0.1/24", &user, "eth0", "10.0.0.2/24");
    join(&gw, "one", "10.1.0.1/24", &one, "eth0", "10.1.0.2/24");
    join(&gw, "two", "10.2.0.1/24", &two, "eth0", "10.2.0.2/24");
    support::default_via(&user, "10.0.0.1");
    let service: IpAddr = "10.99.0.1".parse().unwrap();
    let nl = Netlink::open(&gw).unwrap();
    for node in [&one, &two] {
        Netlink::open(node).unwrap().add_addr("lo", Prefix::host(service)).unwrap();
        node.set_sysctl("net.ipv4.conf.all.rp_filter", "0").unwrap();
    }
    nl.replace_route(&Route::host(service).via("10.1.0.2".parse().unwrap())).unwrap();
    nl.replace_route(&Route::host(service).via("10.2.0.2".parse().unwrap()).table(77)).unwrap();
    let rule = Rule::v4(50, 77).iif("user");
    nl.add_rule(&rule).unwrap();
    assert!(nl.add_rule(&rule).unwrap_err().is_exists());
    let servers = [&one, &two].map(|n| n.enter(|| UdpSocket::bind("10.99.0.1:9000").unwrap()).unwrap());
    let client = user.enter(|| UdpSocket::bind("10.0.0.2:0").unwrap()).unwrap();
    for (server, last) in [(&servers[1], false), (&servers[0], true)] {
        if last {
            nl.del_rule(&rule).unwrap();
        }
        client.send_to(b"x", "10.99.0.1:9000").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(server.recv(&mut [0; 4]).unwrap(), 1);
    }
}

#[test]
fn netem_is_there_or_said_to_be_missing() {
    if !can_run() {
        return;
    }
    if let Err(e) = godwit_net::netem_supported() {
        assert!(e.is_not_found() || e.errno() == Some(95), "an unexpected reason: {e}");
        eprintln!("no netem in this kernel: {e}");
    }
}

#[test]
fn a_silenced_loopback_loses_no_connection() {
    if !can_run() {
        return;
    }
    let ns = netns("silence");
    let netlink = Netlink::open(&ns).unwrap();
    let (mut one, mut other) = ns
        .enter(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let one = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (one, listener.accept().unwrap().0)
        })
        .unwrap();
    // Nothing to take away, and twice the same.
    netlink.unsilence("lo").unwrap();
    netlink.silence("lo").unwrap();
    netlink.silence("lo").unwrap();
    one.write_all(b"held").unwrap();
    other.set_nonblocking(true).unwrap();
    // Loopback delivers at once or never.
    let mut room = [0; 4];
    assert_eq!(other.read(&mut room).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    netlink.unsilence("lo").unwrap();
    other.set_nonblocking(false).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.read_exact(&mut room).unwrap();
    assert_eq!(&room, b"held");
}
