//! Who is joined to whom, and what moves a service address.
//!
//! ```text
//!   user car ──veth── gateway ═══delay link═══ node edge1 ──veth── service video (edge1)
//!                        ║═════delay link═════ node edge2 ──veth── service video (edge2)
//!                        └ backhaul (bridge) ─ node edge1, edge2 …  (state of migrations; no delay)
//! ```
//! All routed, no ARP: neighbours are written down beforehand, so that the first packet after a switch waits for nobody.
//! All of it twice, by IPv4 and by IPv6 (where the kernel has it): the IPv6 address of anything is its IPv4 address behind
//! `fd67:6f64:7769:7400::`. The nodes' backhaul has IPv4 only.
//! A delay link has a delay of its own for each user, so the RTT of every pair of user and node is set freely. Every node
//! has a namespace for every workload with the service address already in it; the gateway's route says who gets the
//! packets. A user's packets to the service address are held by pointing that route at a [`PacketHold`].

mod family;
mod service;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use godwit_model::{NodeName, Rtt, UserName, WorkloadName};
use godwit_net::{
    Backend, End, Link, LinkConfig, Mac, NetError, Netlink, Netns, OrphanPath, PacketHold, Prefix, Route, RouteTo,
};

use crate::name::{MAX_OF_A_KIND, TestbedName};

pub(crate) use family::{any_address, has_v6};
use family::{both, default_route, v4};
pub(crate) use service::ServiceNet;

/// The default gateway as a service sees it, the same on every node.
const SERVICE_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const SERVICE_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// MAC addresses of a service's own end and of the node's end, the same on every node.
const SERVICE_MAC: Mac = Mac::local(0x5e_0000);
const SERVICE_GATEWAY_MAC: Mac = Mac::local(0x5e_0001);
type Result<T> = std::result::Result<T, NetError>;

/// A node's place in the network.
#[derive(Debug)]
pub(crate) struct NodeNet {
    pub(crate) netns: Netns,
    pub(crate) netlink: Netlink,
    pub(crate) hold: PacketHold,
    uplink: Link,
    backhaul: Ipv4Addr,
    uplink_dev: String,
}

/// A user's place in the network.
#[derive(Debug)]
struct UserNet {
    netns: Netns,
    address: Ipv4Addr,
}

/// All namespaces and links of a testbed; gone when dropped.
#[derive(Debug)]
pub struct Network {
    name: TestbedName,
    /// Of workloads that have moved; they end before the namespaces do.
    orphans: Mutex<Vec<OrphanPath>>,
    services: BTreeMap<WorkloadName, ServiceNet>,
    service_netns: BTreeMap<(NodeName, WorkloadName), Netns>,
    nodes: BTreeMap<NodeName, NodeNet>,
    users: BTreeMap<UserName, UserNet>,
    pub(crate) hold: PacketHold,
    pub(crate) netlink: Netlink,
    gateway: Netns,
}

/// A namespace in which nobody speaks but users and services: no link-local addresses, hence no solicitations. For its
/// devices to come.
fn new_netns(name: &str) -> Result<Netns> {
    let netns = Netns::create(name)?;
    if has_v6() {
        netns.set_sysctl("net.ipv6.conf.default.addr_gen_mode", "1")?;
    }
    Ok(netns)
}

/// Buckets of the table of TCP sockets of a service's namespace. Without one of its own the namespace shares the host's, of
/// some hundred thousand, and whoever lists its sockets (CRIU too) goes through all of these: milliseconds within the freeze.
const SOCKET_BUCKETS: &str = "4096";

/// Namespaces that are made from within this one get tables of their own, where the kernel has that (Linux 6.1).
fn give_tables(netns: &Netns) {
    if let Err(error) = netns.set_sysctl("net.ipv4.tcp_child_ehash_entries", SOCKET_BUCKETS) {
        tracing::debug!(%error, "services share the host's table of sockets");
    }
}

/// Forwards, and does not mind that packets come and go by different ways.
fn make_router(netns: &Netns) -> Result<()> {
    netns.set_sysctl("net.ipv4.ip_forward", "1")?;
    for scope in ["all", "default"] {
        netns.set_sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
        netns.set_sysctl(&format!("net.ipv4.conf.{scope}.send_redirects"), "0")?;
    }
    if has_v6() {
        netns.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    }
    Ok(())
}

impl Network {
    /// Makes the gateway, and what hangs on it.
    pub(crate) fn create(
        name: &TestbedName,
        nodes: &[NodeName],
        users: &[UserName],
        workloads: &[WorkloadName],
        links: Backend,
    ) -> Result<Self> {
        let gateway = new_netns(&name.gateway_netns())?;
        make_router(&gateway)?;
        give_tables(&gateway);
        let netlink = Netlink::open(&gateway)?;
        for ip in both(name.gateway_address()) {
            netlink.add_addr("lo", Prefix::host(ip))?;
        }
        netlink.add_bridge("backhaul", Mac::local(0xb0_0000))?;
        netlink.set_up("backhaul")?;
        let hold = PacketHold::open(&gateway, "hold")?;
        let mut network = Self {
            name: name.clone(),
            orphans: Mutex::default(),
            services: BTreeMap::new(),
            service_netns: BTreeMap::new(),
            nodes: BTreeMap::new(),
            users: BTreeMap::new(),
            hold,
            netlink,
            gateway,
        };
        for (index, user) in users.iter().enumerate() {
            network.add_user(index, user)?;
        }
        for (index, node) in nodes.iter().enumerate() {
            network.add_node(index, node, links)?;
        }
        for (index, workload) in workloads.iter().enumerate() {
            network.add_service(index, workload)?;
        }
        Ok(network)
    }

    fn add_user(&mut self, index: usize, user: &UserName) -> Result<()> {
        let netns = new_netns(&self.name.user_netns(user))?;
        let address = self.name.user_address(index);
        let dev = format!("user{index}");
        let (mac, gateway_mac) = (Mac::local(0x20_0000 + index as u64), Mac::local(0x21_0000 + index as u64));
        self.netlink.add_veth(&dev, "eth0", &netns)?;
        self.netlink.set_mac(dev.as_str(), gateway_mac)?;
        self.netlink.set_up(dev.as_str())?;
        let inside = Netlink::open(&netns)?;
        inside.set_mac("eth0", mac)?;
        inside.set_up("eth0")?;
        for (ip, gateway) in both(address).zip(both(self.name.gateway_address())) {
            inside.add_addr("eth0", Prefix::host(ip))?;
            inside.replace_neigh("eth0", gateway, gateway_mac)?;
            inside.replace_route(&default_route(ip).via(gateway).dev("eth0").onlink())?;
            self.netlink.replace_neigh(dev.as_str(), ip, mac)?;
            self.netlink.replace_route(&Route::host(ip).dev(dev.as_str()))?;
        }
        self.users.insert(user.clone(), UserNet { netns, address });
        Ok(())
    }

    fn add_node(&mut self, index: usize, node: &NodeName, links: Backend) -> Result<()> {
        let netns = new_netns(&self.name.node_netns(node))?;
        make_router(&netns)?;
        let (address, backhaul) = (self.name.node_address(index), self.name.backhaul_address(index));
        let uplink_dev = format!("node{index}");
        let end = both(address).fold(End::new(&netns, "uplink"), |end, ip| end.addr(Prefix::host(ip)));
        let uplink = Link::spawn(LinkConfig::new(End::new(&self.gateway, &uplink_dev), end), links)?;
        let netlink = Netlink::open(&netns)?;
        for ip in both(address) {
            self.netlink.replace_route(&Route::host(ip).dev(uplink_dev.as_str()))?;
            netlink.replace_route(&default_route(ip).dev("uplink").src(ip))?;
        }

        let port = format!("back{index}");
        self.netlink.add_veth(&port, "backhaul", &netns)?;
        self.netlink.set_master(port.as_str(), "backhaul")?;
        self.netlink.set_up(port.as_str())?;
        netlink.add_addr("backhaul", Prefix::new(v4(backhaul), 24)?)?;
        netlink.set_up("backhaul")?;

        let hold = PacketHold::open(&netns, "hold")?;
        let place = NodeNet { netns, netlink, hold, uplink, backhaul, uplink_dev };
        self.nodes.insert(node.clone(), place);
        Ok(())
    }

    fn add_service(&mut self, index: usize, workload: &WorkloadName) -> Result<()> {
        let service = ServiceNet { address: self.name.service_address(index), dev: format!("svc{index}") };
        for node in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let netns = self.service_place(&service, workload, &node)?;
            self.service_netns.insert((node, workload.clone()), netns);
        }
        self.services.insert(workload.clone(), service);
        Ok(())
    }

    /// The namespace of a service on a node, joined to it.
    fn service_place(&self, service: &ServiceNet, workload: &WorkloadName, node: &NodeName) -> Result<Netns> {
        let place = self.node(node);
        // From within the gateway's, see SOCKET_BUCKETS.
        let netns = self.gateway.enter(|| new_netns(&self.name.service_netns(node, workload)))??;
        place.netlink.add_veth(&service.dev, "eth0", &netns)?;
        place.netlink.set_mac(service.dev.as_str(), SERVICE_GATEWAY_MAC)?;
        place.netlink.set_up(service.dev.as_str())?;
        let inside = Netlink::open(&netns)?;
        inside.set_mac("eth0", SERVICE_MAC)?;
        inside.set_up("eth0")?;
        for ip in service.ips() {
            let gateway: IpAddr = if ip.is_ipv4() { SERVICE_GATEWAY.into() } else { SERVICE_GATEWAY_V6.into() };
            inside.add_addr("eth0", Prefix::host(ip))?;
            inside.replace_neigh("eth0", gateway, SERVICE_GATEWAY_MAC)?;
            inside.replace_route(&default_route(ip).via(gateway).dev("eth0").onlink())?;
            place.netlink.replace_neigh(service.dev.as_str(), ip, SERVICE_MAC)?;
        }
        Ok(netns)
    }

    /// A namespace with an address of its own on one node, for a copy of a workload; `slot` is no other copy's. It can
    /// also bind to `old`, the address that it had. Packets are led there by who has started it.
    pub(crate) fn add_copy(
        &self,
        slot: usize,
        copy: &WorkloadName,
        node: &NodeName,
        old: Option<IpAddr>,
    ) -> Result<(ServiceNet, Netns)> {
        let index = self.services.len() + slot;
        let service = ServiceNet { address: self.name.service_address(index), dev: format!("svc{index}") };
        let netns = self.service_place(&service, copy, node)?;
        if let Some(IpAddr::V4(old)) = old.filter(|old| *old != service.ip()) {
            let inside = Netlink::open(&netns)?;
            both(old).try_for_each(|old| inside.add_addr("lo", Prefix::host(old)))?;
        }
        Ok((service, netns))
    }

    /// How many copies have room beside the workloads.
    pub(crate) fn slots(&self) -> usize {
        MAX_OF_A_KIND - self.services.len()
    }

    /// Nobody leads packets to a copy any more; its devices go with its namespace.
    pub(crate) fn forget_copy(&self, service: &ServiceNet) {
        for ip in service.ips() {
            let _ = self.netlink.del_route(&Route::host(ip));
        }
    }

    /// Sets how far a user is from a node: half of it either way.
    pub(crate) fn set_rtt(&self, user: &UserName, node: &NodeName, rtt: Rtt) -> Result<()> {
        match (self.users.get(user), self.nodes.get(node)) {
            (Some(user), Some(node)) => {
                both(user.address).try_for_each(|ip| node.uplink.set_peer_delay(ip, rtt.as_duration() / 2))
            }
            _ => Ok(()),
        }
    }

    /// Points a service address at a node, without a hold: when its workload starts there.
    pub(crate) fn place(&self, workload: &WorkloadName, node: &NodeName) -> Result<()> {
        let service = self.service(workload);
        let place = self.node(node);
        service.lead(&place.netlink, &service.local())?;
        service.lead(&self.netlink, &self.towards(node))
    }

    /// Where the gateway sends what is for a workload on `node`.
    pub(crate) fn towards(&self, node: &NodeName) -> RouteTo {
        RouteTo::dev(self.node(node).uplink_dev.as_str())
    }

    /// The gateway's namespace.
    pub(crate) fn gateway(&self) -> &Netns {
        &self.gateway
    }

    /// A workload's address; it must be one of this testbed's.
    pub(crate) fn service(&self, workload: &WorkloadName) -> &ServiceNet {
        &self.services[workload]
    }

    /// A node's place; it must be one of this testbed's.
    pub(crate) fn node(&self, node: &NodeName) -> &NodeNet {
        &self.nodes[node]
    }

    /// The namespace of a workload on a node.
    pub(crate) fn service_netns(&self, node: &NodeName, workload: &WorkloadName) -> &Netns {
        &self.service_netns[&(node.clone(), workload.clone())]
    }

    /// The same of a workload or a copy, by its name.
    pub(crate) fn open_service_netns(&self, node: &NodeName, workload: &WorkloadName) -> Result<Netns> {
        Netns::open(&self.name.service_netns(node, workload))
    }

    /// Looks after connections that a workload has closed and left, until they are over.
    pub(crate) fn keep_orphans(&self, path: OrphanPath) {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.retain(|path| !path.is_over());
        orphans.push(path);
    }

    /// A user's namespace.
    pub(crate) fn user_netns(&self, user: &UserName) -> &Netns {
        &self.users[user].netns
    }

    /// A user's address.
    pub(crate) fn user_address(&self, user: &UserName) -> Ipv4Addr {
        self.users[user].address
    }

    /// How many packets left a link more than half a millisecond late, of how many, and the worst by how much: what a busy
    /// machine adds to the distances.
    pub(crate) fn lateness(&self) -> Lateness {
        let mut sum = Lateness::default();
        for stats in self.nodes.values().filter_map(|node| node.uplink.stats().ok()) {
            for way in [stats.a_to_b, stats.b_to_a] {
                sum.packets += way.packets;
                sum.late += way.late;
                sum.worst = sum.worst.max(way.worst_late);
            }
        }
        sum
    }
}

/// See [`Network::lateness`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lateness {
    pub(crate) packets: u64,
    pub(crate) late: u64,
    pub(crate) worst: Duration,
}

impl NodeNet {
    /// Where the node sends what is for a workload that has left it.
    pub(crate) fn back_to_gateway(&self) -> RouteTo {
        RouteTo::dev("uplink")
    }

    /// Its address towards other nodes.
    pub(crate) fn backhaul(&self) -> Ipv4Addr {
        self.backhaul
    }
}

/// Removes the namespaces that a killed testbed of this name left behind; returns how many there were.
pub(crate) fn remove_leftovers(name: &TestbedName) -> Result<usize> {
    let left = Netns::list(&name.netns_prefix())?;
    for netns in &left {
        Netns::remove(netns)?;
    }
    Ok(left.len())
}
