//! Telling a shared link that an address has moved: neighbours and switches then send to its new place at once.
//!
//! Sources: RFC 5227, section 3 (ARP announcement); RFC 4861, section 7.2.6 (unsolicited neighbour advertisement).

#![allow(unsafe_code)] // sendto(2) with a sockaddr_ll has no safe wrapper

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::checksum::Sum;
use crate::{Mac, NetError, Netlink, Netns, Result};

const ETHERNET: usize = 14;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const BROADCAST: Mac = Mac([0xff; 6]);

/// Tells all on the link of `dev` that `address` is at its MAC address now: by gratuitous ARP (as request and as reply;
/// there are hosts that heed only one of them) or by an unsolicited neighbour advertisement. For an address that lives on a
/// shared layer-2 network; where it is led by routes, as in Godwit's testbed, nobody needs it. Call it when the device
/// has the address and before held packets are replayed. Nothing confirms that it was heard; a repetition does no harm.
///
/// ```no_run
/// # fn f(node: &godwit_net::Netns) -> godwit_net::Result<()> {
/// godwit_net::announce(node, "eth0", "192.0.2.9".parse().unwrap())?;
/// # Ok(()) }
/// ```
pub fn announce(ns: &Netns, dev: &str, address: IpAddr) -> Result<()> {
    let link = Netlink::open(ns)?.link(dev)?;
    let failed = |e| NetError::netns(ns.name(), format!("announce {address} on {dev}"), e);
    let mac = link.mac.ok_or_else(|| failed(io::Error::new(io::ErrorKind::Unsupported, "it has no MAC address")))?;
    let frames = match address {
        IpAddr::V4(ip) => [1, 2].map(|operation| gratuitous_arp(mac, ip, operation).to_vec()).to_vec(),
        IpAddr::V6(ip) => vec![advertisement(mac, ip)],
    };
    ns.enter(|| frames.iter().try_for_each(|frame| send(link.index, frame)))?.map_err(failed)
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> [u8; ETHERNET] {
    let mut header = [0; ETHERNET];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    header[12..].copy_from_slice(&kind.to_be_bytes());
    header
}

fn gratuitous_arp(mac: Mac, ip: Ipv4Addr, operation: u8) -> [u8; ETHERNET + 28] {
    let mut frame = [0; ETHERNET + 28];
    frame[..ETHERNET].copy_from_slice(&ethernet(BROADCAST, mac, ARP));
    // Ethernet, IPv4, lengths of their addresses.
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    frame[22..28].copy_from_slice(&mac.0);
    frame[28..32].copy_from_slice(&ip.octets());
    let asked = if operation == 1 { Mac([0; 6]) } else { mac };
    frame[32..38].copy_from_slice(&asked.0);
    frame[38..42].copy_from_slice(&ip.octets());
    frame
}

fn advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
    let mut body = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    body.extend(ip.octets());
    body.extend(TARGET_LINK_LAYER_ADDRESS);
    body.extend(mac.0);
    // RFC 4443, section 2.3.
    let pseudo = Sum::of(&ip.octets()).add(&ALL_NODES.octets()).add(&[0, body.len() as u8]);
    let sum = pseudo.add(&[0, libc::IPPROTO_ICMPV6 as u8]).add(&body).finish();
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(ALL_NODES_MAC, mac, IPV6).to_vec();
    // Hop limit 255: what a router has passed on is ignored.
    frame.extend([0x60, 0, 0, 0, 0, body.len() as u8, libc::IPPROTO_ICMPV6 as u8, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(body);
    frame
}

fn send(dev: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: socket takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_ll is plain data for which all zeroes is valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = dev.cast_signed();
    // SAFETY: frame and address are ours for the length of the call, with their true lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
