//! A service address, of both families, and who gets its packets.

use std::net::{IpAddr, Ipv4Addr};

use godwit_net::{Netlink, PacketHold, RouteTo};

use super::Result;
use super::family::both;

/// A workload's address and the device that leads to it on each node.
#[derive(Debug, Clone)]
pub(crate) struct ServiceNet {
    pub(crate) address: Ipv4Addr,
    pub(crate) dev: String,
}

impl ServiceNet {
    /// Its address, of IPv4.
    pub(crate) fn ip(&self) -> IpAddr {
        self.address.into()
    }

    /// The same of IPv6, if the kernel has it.
    pub(crate) fn ip_v6(&self) -> Option<IpAddr> {
        self.ips().find(IpAddr::is_ipv6)
    }

    /// Its addresses, one of each family.
    pub(crate) fn ips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        both(self.address)
    }

    /// Leads its packets there, without a hold.
    pub(crate) fn lead(&self, netlink: &Netlink, to: &RouteTo) -> Result<()> {
        self.ips().try_for_each(|ip| netlink.replace_route(&to.route(ip)))
    }

    /// Holds its packets.
    pub(crate) fn capture(&self, hold: &PacketHold) -> Result<()> {
        self.ips().try_for_each(|ip| hold.capture(ip))
    }

    /// Holds those that ask for a new connection; all others go there.
    pub(crate) fn capture_connects(&self, hold: &PacketHold, to: &RouteTo) -> Result<()> {
        self.ips().try_for_each(|ip| hold.capture_connects(ip, to))
    }

    /// Lets its packets flow there, those that were held first.
    pub(crate) fn release(&self, hold: &PacketHold, to: &RouteTo) -> Result<()> {
        self.ips().try_for_each(|ip| hold.release(ip, to).map(drop))
    }

    /// What `early` has held goes before what `late` has.
    pub(crate) fn put_before(&self, early: &PacketHold, late: &PacketHold) -> Result<()> {
        self.ips().try_for_each(|ip| late.prepend(ip, early.take(ip)?))
    }

    /// Where a node sends what is for its own copy.
    pub(crate) fn local(&self) -> RouteTo {
        RouteTo::dev(self.dev.as_str())
    }
}
