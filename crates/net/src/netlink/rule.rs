//! Policy rules: which packets look in which routing table, or go nowhere.

use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleHeader, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage as Message};

use super::Netlink;
use crate::{Prefix, Result};

/// What becomes of packets that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Lookup(u32),
    Drop,
}

/// Packets that match look in a table, e.g. "what came in by `hold0` looks in table 7000", or are dropped silently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    v6: bool,
    priority: u32,
    then: Then,
    iif: Option<String>,
    from: Option<Prefix>,
    to: Option<Prefix>,
    /// Source and destination port of TCP packets.
    tcp: Option<(u16, u16)>,
}

impl Rule {
    /// An IPv4 rule that looks in `table`; the lower `priority` is asked first (main is at 32766).
    pub const fn v4(priority: u32, table: u32) -> Self {
        Self::new(false, priority, Then::Lookup(table))
    }

    /// The same for IPv6.
    pub const fn v6(priority: u32, table: u32) -> Self {
        Self::new(true, priority, Then::Lookup(table))
    }

    /// An IPv4 rule that drops what matches, without an ICMP message (a "blackhole").
    pub const fn drop_v4(priority: u32) -> Self {
        Self::new(false, priority, Then::Drop)
    }

    /// The same for IPv6.
    pub const fn drop_v6(priority: u32) -> Self {
        Self::new(true, priority, Then::Drop)
    }

    const fn new(v6: bool, priority: u32, then: Then) -> Self {
        Self { v6, priority, then, iif: None, from: None, to: None, tcp: None }
    }

    /// Only packets that came in by this device.
    pub fn iif(mut self, dev: &str) -> Self {
        self.iif = Some(dev.to_owned());
        self
    }

    /// Only packets from here.
    pub fn from(mut self, from: Prefix) -> Self {
        self.from = Some(from);
        self
    }

    /// Only packets to there.
    pub fn to(mut self, to: Prefix) -> Self {
        self.to = Some(to);
        self
    }

    /// Only packets of one TCP connection, from one end to the other.
    pub fn tcp(mut self, from: SocketAddr, to: SocketAddr) -> Self {
        self.tcp = Some((from.port(), to.port()));
        self.from(Prefix::host(from.ip())).to(Prefix::host(to.ip()))
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.priority)?;
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if let Some((from, to)) = self.tcp {
            write!(f, " tcp sport {from} dport {to}")?;
        }
        match self.then {
            Then::Lookup(table) => write!(f, " lookup {table}"),
            Then::Drop => f.write_str(" blackhole"),
        }
    }
}

impl Netlink {
    /// Adds a rule; the same one twice is an error.
    pub fn add_rule(&self, rule: &Rule) -> Result<()> {
        let message = Message::NewRule(rule_message(rule));
        self.request(message, NLM_F_CREATE | NLM_F_EXCL, || format!("add rule {rule}"))
    }

    /// Removes one rule that matches in every point.
    pub fn del_rule(&self, rule: &Rule) -> Result<()> {
        self.request(Message::DelRule(rule_message(rule)), 0, || format!("delete rule {rule}"))
    }
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header = RuleHeader {
        family: if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet },
        dst_len: rule.to.map_or(0, |p| p.len()),
        src_len: rule.from.map_or(0, |p| p.len()),
        action: match rule.then {
            Then::Lookup(_) => RuleAction::ToTable,
            Then::Drop => RuleAction::Blackhole,
        },
        ..RuleHeader::default()
    };
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    if let Then::Lookup(table) = rule.then {
        message.attributes.push(RuleAttribute::Table(table));
    }
    message.attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    message.attributes.extend(rule.from.map(|p| RuleAttribute::Source(p.addr())));
    message.attributes.extend(rule.to.map(|p| RuleAttribute::Destination(p.addr())));
    if let Some((from, to)) = rule.tcp {
        let only = |port| RulePortRange { start: port, end: port };
        message.attributes.push(RuleAttribute::IpProtocol(IpProtocol::Tcp));
        message.attributes.push(RuleAttribute::SourcePortRange(only(from)));
        message.attributes.push(RuleAttribute::DestinationPortRange(only(to)));
    }
    message
}
