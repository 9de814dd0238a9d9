//! Neighbour entries: which MAC address an IP address has, without asking.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Dev, Mac, Netlink};
use crate::Result;

impl Netlink {
    /// Sets a permanent neighbour entry: after a switch nobody waits for ARP or neighbour discovery.
    pub fn replace_neigh(&self, dev: impl Into<Dev>, ip: IpAddr, mac: Mac) -> Result<()> {
        let dev = dev.into();
        let mut message = self.neighbour(&dev, ip)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.request(Message::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("set neighbour {ip} on {dev} to {mac}")
        })
    }

    /// Removes a neighbour entry.
    pub fn del_neigh(&self, dev: impl Into<Dev>, ip: IpAddr) -> Result<()> {
        let dev = dev.into();
        let message = self.neighbour(&dev, ip)?;
        self.request(Message::DelNeighbour(message), 0, || format!("delete neighbour {ip} on {dev}"))
    }

    fn neighbour(&self, dev: &Dev, ip: IpAddr) -> Result<NeighbourMessage> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = self.index(dev)?;
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(ip)));
        Ok(message)
    }
}
