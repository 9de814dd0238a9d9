//! Routes, and routes whose installation is prepared down to the system call.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Dev, Netlink, encode, wire};
use crate::{Prefix, Result};

const HEADER: usize = 12;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;

/// A unicast route: where packets for a prefix go.
///
/// ```no_run
/// # fn f(nl: &godwit_net::Netlink) -> godwit_net::Result<()> {
/// use godwit_net::Route;
/// let service = "10.99.0.1".parse().unwrap();
/// nl.replace_route(&Route::host(service).via("10.1.0.2".parse().unwrap()).dev("edge1"))?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    dst: Prefix,
    via: Option<IpAddr>,
    dev: Option<Dev>,
    onlink: bool,
    src: Option<IpAddr>,
    table: u32,
    metric: Option<u32>,
}

impl Route {
    /// A route to a prefix, in the main table, so far without a next hop.
    pub fn to(dst: Prefix) -> Self {
        Self { dst, via: None, dev: None, onlink: false, src: None, table: Self::MAIN, metric: None }
    }

    /// The number of the main table.
    pub const MAIN: u32 = 254;

    /// A route to one address.
    pub fn host(ip: IpAddr) -> Self {
        Self::to(Prefix::host(ip))
    }

    /// By way of this gateway.
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.via = Some(gateway);
        self
    }

    /// Out of this device.
    pub fn dev(mut self, dev: impl Into<Dev>) -> Self {
        self.dev = Some(dev.into());
        self
    }

    /// The gateway is on the device's link even if no prefix says so.
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    /// The source address that local packets take.
    pub fn src(mut self, src: IpAddr) -> Self {
        self.src = Some(src);
        self
    }

    /// In this table instead of main.
    pub fn table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }

    /// With this metric (the lower goes first).
    pub fn metric(mut self, metric: u32) -> Self {
        self.metric = Some(metric);
        self
    }

    /// What the route leads to.
    pub fn dst(&self) -> Prefix {
        self.dst
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(dev) = &self.dev {
            write!(f, " dev {dev}")?;
        }
        if self.table != Self::MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// A route to install, encoded: what is left is one system call.
#[derive(Clone, Debug)]
pub struct PreparedRoute {
    bytes: Vec<u8>,
    text: String,
}

/// Where the kernel would send a packet ([`Netlink::lookup_route`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundRoute {
    /// Index of the device that it leaves by.
    pub dev: u32,
    /// The gateway, if it goes by one.
    pub via: Option<IpAddr>,
    /// The table that the route was found in.
    pub table: u32,
}

impl Netlink {
    /// Installs a route; one to the same prefix in the same table with the same metric is replaced in one step.
    pub fn replace_route(&self, route: &Route) -> Result<()> {
        self.install(&self.prepare_route(route)?)
    }

    /// Resolves and encodes a route, to be [`install`](Self::install)ed later. Stays good as long as the device does.
    pub fn prepare_route(&self, route: &Route) -> Result<PreparedRoute> {
        let message = self.route_message(route)?;
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        Ok(PreparedRoute { bytes: encode(Message::NewRoute(message), flags), text: route.to_string() })
    }

    /// Installs a prepared route.
    pub fn install(&self, route: &PreparedRoute) -> Result<()> {
        self.talk(&route.bytes, || format!("set route {}", route.text), |_, _| ())
    }

    /// Removes a route; what is left unset in `route` matches anything.
    pub fn del_route(&self, route: &Route) -> Result<()> {
        let mut message = self.route_message(route)?;
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        self.request(Message::DelRoute(message), 0, || format!("delete route {route}"))
    }

    /// Asks where a packet to `dst` would go.
    pub fn lookup_route(&self, dst: IpAddr) -> Result<FoundRoute> {
        let mut message = RouteMessage::default();
        message.header = header(Prefix::host(dst));
        message.attributes.push(RouteAttribute::Destination(dst.into()));
        let action = || format!("look up the route to {dst}");
        let found = self.get(Message::GetRoute(message), false, action, parse_route)?;
        found.into_iter().next().ok_or_else(|| crate::NetError::Netlink {
            ns: self.ns.clone(),
            action: action(),
            kernel: None,
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    fn route_message(&self, route: &Route) -> Result<RouteMessage> {
        let mut message = RouteMessage::default();
        message.header = header(route.dst);
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope =
            if route.via.is_none() && route.dst.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        if route.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(route.table));
        if route.dst.len() > 0 {
            attributes.push(RouteAttribute::Destination(route.dst.addr().into()));
        }
        if let Some(via) = route.via {
            attributes.push(RouteAttribute::Gateway(RouteAddress::from(via)));
        }
        if let Some(dev) = &route.dev {
            attributes.push(RouteAttribute::Oif(self.index(dev)?));
        }
        if let Some(src) = route.src {
            attributes.push(RouteAttribute::PrefSource(src.into()));
        }
        if let Some(metric) = route.metric {
            attributes.push(RouteAttribute::Priority(metric));
        }
        Ok(message)
    }
}

fn header(dst: Prefix) -> RouteHeader {
    RouteHeader {
        address_family: if dst.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        destination_prefix_length: dst.len(),
        ..RouteHeader::default()
    }
}

fn parse_route(_kind: u16, payload: &[u8]) -> Option<FoundRoute> {
    let mut found = FoundRoute { dev: 0, via: None, table: u32::from(*payload.get(4)?) };
    for (kind, value) in wire::attributes(payload.get(HEADER..)?) {
        match kind {
            RTA_OIF => found.dev = wire::number(value),
            RTA_TABLE => found.table = wire::number(value),
            RTA_GATEWAY => found.via = address(value),
            _ => {}
        }
    }
    Some(found)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}
