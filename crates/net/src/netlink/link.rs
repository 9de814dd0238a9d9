//! Devices: veth pairs, bridges, their state, names, MAC and IP addresses.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo as Info, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Dev, Netlink, wire};
use crate::{NetError, Netns, Prefix, Result};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_STATS64: u16 = 23;
const HEADER: usize = 16;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered unicast address made of 40 bits of `id`: the same `id`, the same address.
    pub const fn local(id: u64) -> Self {
        let b = id.to_be_bytes();
        Self([0x02, b[3], b[4], b[5], b[6], b[7]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = NetError;
    fn from_str(s: &str) -> Result<Self> {
        let bad = || NetError::BadName { name: s.into(), what: "MAC address", why: "expected e.g. 02:00:00:00:00:01" };
        let mut mac = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(mac)) }
    }
}

/// What [`Netlink::list_links`] tells of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkInfo {
    /// The device's name.
    pub name: String,
    /// Its number in its namespace.
    pub index: u32,
    /// Its MAC address; none for layer-3 devices.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// The bridge that it is a port of, by index.
    pub master: Option<u32>,
}

impl Netlink {
    /// Makes a veth pair, one end here, its peer in another (or the same) namespace. Both are down.
    pub fn add_veth(&self, name: &str, peer: &str, peer_ns: &Netns) -> Result<()> {
        check_ifname(name)?;
        check_ifname(peer)?;
        let mut other = named(peer);
        other.attributes.push(LinkAttribute::NetNsFd(peer_ns.as_fd().as_raw_fd()));
        let mut link = named(name);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            Info::Kind(InfoKind::Veth),
            Info::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        self.request(Message::NewLink(link), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("make the veth pair {name} - {peer} (in {})", peer_ns.name())
        })
    }

    /// Makes a bridge with a MAC address that stays (by itself a bridge takes the lowest of its ports', and
    /// changes when they come and go). It is down.
    pub fn add_bridge(&self, name: &str, mac: Mac) -> Result<()> {
        check_ifname(name)?;
        let mut link = named(name);
        link.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![Info::Kind(InfoKind::Bridge)]));
        self.request(Message::NewLink(link), NLM_F_CREATE | NLM_F_EXCL, || format!("make the bridge {name}"))
    }

    /// Makes a device a port of a bridge.
    pub fn set_master(&self, dev: impl Into<Dev>, bridge: impl Into<Dev>) -> Result<()> {
        let bridge = bridge.into();
        let index = self.index(&bridge)?;
        self.change(dev.into(), LinkAttribute::Controller(index), &|d| format!("make {d} a port of {bridge}"))
    }

    /// Sets a device up.
    pub fn set_up(&self, dev: impl Into<Dev>) -> Result<()> {
        self.set_flags(dev.into(), LinkFlags::Up, LinkFlags::Up, "up")
    }

    /// Sets a device down; the routes through it are lost.
    pub fn set_down(&self, dev: impl Into<Dev>) -> Result<()> {
        self.set_flags(dev.into(), LinkFlags::empty(), LinkFlags::Up, "down")
    }

    /// Switches address resolution off (`NOARP`): every packet goes to the device's own MAC address.
    pub fn set_noarp(&self, dev: impl Into<Dev>) -> Result<()> {
        self.set_flags(dev.into(), LinkFlags::Noarp, LinkFlags::Noarp, "noarp")
    }

    /// Sets the MAC address. Neighbour entries on the device are flushed by that.
    pub fn set_mac(&self, dev: impl Into<Dev>, mac: Mac) -> Result<()> {
        let attribute = LinkAttribute::Address(mac.0.to_vec());
        self.change(dev.into(), attribute, &|d| format!("set the MAC address of {d} to {mac}"))
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(&self, dev: impl Into<Dev>, mtu: u32) -> Result<()> {
        self.change(dev.into(), LinkAttribute::Mtu(mtu), &|d| format!("set the MTU of {d} to {mtu}"))
    }

    /// Sets how many packets the device queues (a TUN: how many wait to be read).
    pub fn set_txqueuelen(&self, dev: impl Into<Dev>, packets: u32) -> Result<()> {
        let attribute = LinkAttribute::TxQueueLen(packets);
        self.change(dev.into(), attribute, &|d| format!("set the queue length of {d} to {packets}"))
    }

    /// Renames a device, which may have to be down for it (before Linux 6.2).
    pub fn rename(&self, dev: impl Into<Dev>, to: &str) -> Result<()> {
        check_ifname(to)?;
        let dev = dev.into();
        let mut link = LinkMessage::default();
        link.header.index = self.index(&dev)?;
        link.attributes.push(LinkAttribute::IfName(to.into()));
        self.request(Message::SetLink(link), 0, || format!("rename {dev} to {to}"))
    }

    /// Moves a device to another namespace; it loses its addresses and is down there.
    pub fn move_to(&self, dev: impl Into<Dev>, ns: &Netns) -> Result<()> {
        let attribute = LinkAttribute::NetNsFd(ns.as_fd().as_raw_fd());
        self.change(dev.into(), attribute, &|d| format!("move {d} to namespace {}", ns.name()))
    }

    /// Deletes a device; of a veth pair, both ends.
    pub fn del_link(&self, dev: impl Into<Dev>) -> Result<()> {
        let dev = dev.into();
        self.request(Message::DelLink(target(&dev)), 0, || format!("delete {dev}")).map_err(|e| self.missing(e, &dev))
    }

    /// Gives a device an address; the prefix's route comes with it. IPv6 is usable at once (no duplicate
    /// address detection).
    pub fn add_addr(&self, dev: impl Into<Dev>, addr: Prefix) -> Result<()> {
        let dev = dev.into();
        let message = self.address(&dev, addr)?;
        self.request(Message::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add address {addr} to {dev}")
        })
    }

    /// Gives a device an IPv4 address that is never chosen as the source of a packet (scope host).
    pub(crate) fn add_host_addr(&self, dev: impl Into<Dev>, addr: Prefix) -> Result<()> {
        let dev = dev.into();
        let mut message = self.address(&dev, addr)?;
        message.header.scope = AddressScope::Host;
        self.request(Message::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add address {addr} to {dev}")
        })
    }

    /// Takes an address from a device.
    pub fn del_addr(&self, dev: impl Into<Dev>, addr: Prefix) -> Result<()> {
        let dev = dev.into();
        let message = self.address(&dev, addr)?;
        self.request(Message::DelAddress(message), 0, || format!("delete address {addr} from {dev}"))
    }

    /// The number of a device.
    pub fn link_index(&self, name: &str) -> Result<u32> {
        self.link(name).map(|l| l.index)
    }

    /// What there is to know of one device.
    pub fn link(&self, name: &str) -> Result<LinkInfo> {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let missing = || NetError::NoDevice { ns: self.ns.clone(), dev: name.into() };
        let found = self.get(Message::GetLink(message), false, || format!("look up {name}"), parse_link);
        let found = found.map_err(|e| if e.is_not_found() { missing() } else { e })?;
        found.into_iter().next().ok_or_else(missing)
    }

    /// Packets and bytes that a device has received.
    pub(crate) fn received(&self, name: &str) -> Result<(u64, u64)> {
        let found =
            self.get(Message::GetLink(named(name)), false, || format!("read the counters of {name}"), parse_received)?;
        found.into_iter().next().ok_or_else(|| NetError::NoDevice { ns: self.ns.clone(), dev: name.into() })
    }

    /// All devices of the namespace.
    pub fn list_links(&self) -> Result<Vec<LinkInfo>> {
        self.get(Message::GetLink(LinkMessage::default()), true, || "list devices".into(), parse_link)
    }

    fn address(&self, dev: &Dev, addr: Prefix) -> Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.index = self.index(dev)?;
        message.header.prefix_len = addr.len();
        message.header.scope = AddressScope::Universe;
        message.header.family = match addr.addr() {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => {
                message.header.flags = AddressHeaderFlags::Nodad;
                AddressFamily::Inet6
            }
        };
        message.attributes = vec![AddressAttribute::Local(addr.addr()), AddressAttribute::Address(addr.addr())];
        Ok(message)
    }

    fn set_flags(&self, dev: Dev, flags: LinkFlags, mask: LinkFlags, what: &str) -> Result<()> {
        let mut link = target(&dev);
        link.header.flags = flags;
        link.header.change_mask = mask;
        self.request(Message::SetLink(link), 0, || format!("set {dev} {what}")).map_err(|e| self.missing(e, &dev))
    }

    fn change(&self, dev: Dev, attribute: LinkAttribute, action: &dyn Fn(&Dev) -> String) -> Result<()> {
        let mut link = target(&dev);
        link.attributes.push(attribute);
        self.request(Message::SetLink(link), 0, || action(&dev)).map_err(|e| self.missing(e, &dev))
    }

    fn missing(&self, e: NetError, dev: &Dev) -> NetError {
        if e.errno() == Some(libc::ENODEV) {
            return NetError::NoDevice { ns: self.ns.clone(), dev: dev.to_string() };
        }
        e
    }
}

/// The kernel's rule for device names.
pub(crate) fn check_ifname(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > 15 {
        "it is longer than 15 bytes"
    } else if name == "." || name == ".." || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        "it must not contain '/', ':' or blanks"
    } else {
        return Ok(());
    };
    Err(NetError::BadName { name: name.into(), what: "network device", why })
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.into()));
    link
}

fn target(dev: &Dev) -> LinkMessage {
    match dev {
        Dev::Name(name) => named(name),
        Dev::Index(index) => {
            let mut link = LinkMessage::default();
            link.header.index = *index;
            link
        }
    }
}

/// `struct rtnl_link_stats64` begins: rx_packets, tx_packets, rx_bytes.
fn parse_received(_kind: u16, payload: &[u8]) -> Option<(u64, u64)> {
    let (_, stats) = wire::attributes(payload.get(HEADER..)?).find(|(kind, _)| *kind == IFLA_STATS64)?;
    let field = |at: usize| stats.get(at..at + 8).map(|b| u64::from_ne_bytes(b.try_into().unwrap_or_default()));
    Some((field(0)?, field(16)?))
}

/// By hand: the library's parser fails as a whole on any attribute that it does not know the form of.
fn parse_link(_kind: u16, payload: &[u8]) -> Option<LinkInfo> {
    let attributes = payload.get(HEADER..)?;
    let (index, flags) = (wire::u32_at(payload, 4), wire::u32_at(payload, 8));
    let up = flags & LinkFlags::Up.bits() != 0;
    let mut link = LinkInfo { name: String::new(), index, mac: None, mtu: 0, up, master: None };
    for (kind, value) in wire::attributes(attributes) {
        match kind {
            IFLA_IFNAME => link.name = wire::text(value),
            IFLA_MTU => link.mtu = wire::number(value),
            IFLA_MASTER => link.master = Some(wire::number(value)),
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_round_trips_and_refuses_rubbish() {
        let mac = Mac::local(0x0102_0304_0506);
        assert_eq!(mac.to_string(), "02:02:03:04:05:06");
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        for text in ["", "02:00", "02:00:00:00:00:0", "02:00:00:00:00:00:00", "zz:00:00:00:00:00"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn device_names_follow_the_kernels_rule() {
        assert!(check_ifname("gw-edge1").is_ok());
        for name in ["", "sixteen-bytes-ab", "a/b", "a b", "..", "a:1"] {
            assert!(check_ifname(name).is_err(), "{name}");
        }
    }
}
