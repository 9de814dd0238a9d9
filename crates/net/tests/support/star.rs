//! A user, a gateway and two nodes between which a service's address moves, in both families.

use std::net::IpAddr;

use godwit_net::{Netlink, Netns, Prefix, RouteTo};

use super::{default_via, forward, join, netns, prefix};

/// A service address of each family.
pub const SERVICES: [&str; 2] = ["10.99.0.1", "fd99::1"];

/// A user and two nodes, each at the gateway; the services' addresses are on both nodes, and lead to the first.
pub struct World {
    pub user: Netns,
    pub gw: Netns,
    pub nodes: [Netns; 2],
}

impl World {
    /// Nobody has to be asked for an address any more: packets that wait for the answer may be dropped.
    pub fn know_neighbours(&self) {
        let gw = Netlink::open(&self.gw).unwrap();
        for (n, (ns, dev)) in self.legs().into_iter().enumerate() {
            let mac = Netlink::open(ns).unwrap().link("eth0").unwrap().mac.unwrap();
            for addr in [format!("10.{n}.0.2"), format!("fd0{n}::2")] {
                gw.replace_neigh(dev, ip(&addr), mac).unwrap();
            }
        }
    }

    fn legs(&self) -> [(&Netns, &str); 3] {
        [(&self.user, "user"), (&self.nodes[0], "node1"), (&self.nodes[1], "node2")]
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The way from the gateway to a service on a node, 1 or 2.
pub fn towards(node: usize, service: IpAddr) -> RouteTo {
    let via = if service.is_ipv4() { format!("10.{node}.0.2") } else { format!("fd0{node}::2") };
    RouteTo::dev(format!("node{node}")).via(ip(&via))
}

pub fn world(services: [IpAddr; 2]) -> World {
    let world = World { user: netns("user"), gw: netns("gw"), nodes: [netns("node1"), netns("node2")] };
    forward(&world.gw);
    let nl = Netlink::open(&world.gw).unwrap();
    for (n, (ns, dev)) in world.legs().into_iter().enumerate() {
        join(&world.gw, dev, &format!("10.{n}.0.1/24"), ns, "eth0", &format!("10.{n}.0.2/24"));
        nl.add_addr(dev, prefix(&format!("fd0{n}::1/64"))).unwrap();
        let inside = Netlink::open(ns).unwrap();
        inside.add_addr("eth0", prefix(&format!("fd0{n}::2/64"))).unwrap();
        default_via(ns, &format!("10.{n}.0.1"));
        default_via(ns, &format!("fd0{n}::1"));
        if n > 0 {
            services.iter().for_each(|service| inside.add_addr("lo", Prefix::host(*service)).unwrap());
        }
    }
    for service in services {
        nl.replace_route(&towards(1, service).route(service)).unwrap();
    }
    world
}
