//! TCP and UDP sockets of a namespace, as the kernel lists them. Source: sock_diag(7), include/uapi/linux/inet_diag.h.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::wire::{Answer, u32_at};
use super::{Inner, TIMEOUT, open_socket};
use crate::{NetError, Netns, Result};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST: usize = 16 + 56;
const MESSAGE: usize = 72;

const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
const NEW_SYN_RECV: u8 = 12;
/// Those of UDP: connected, and not (the kernel's TCP_ESTABLISHED and TCP_CLOSE).
const ALL_OF_UDP: [u8; 2] = [1, 7];

/// How long a socket stays in TIME-WAIT (the kernel's TCP_TIMEWAIT_LEN), and for how much of that its peer may still
/// repeat a FIN whose acknowledgement was on its way.
const TIME_WAIT_MS: u32 = 60_000;
const YOUNG_MS: u32 = 1_000;

/// A TCP connection by its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The end in the namespace that was asked.
    pub local: SocketAddr,
    /// The other.
    pub remote: SocketAddr,
}

/// An open sock_diag socket in one namespace.
#[derive(Debug)]
pub struct SockDiag {
    ns: Netns,
    inner: Mutex<Inner>,
}

/// What is used of an `inet_diag_msg`.
struct Seen {
    flow: Flow,
    state: u8,
    expires_ms: u32,
    unread: u32,
    inode: u32,
}

impl SockDiag {
    /// Opens a socket in the namespace; it stays there whatever thread uses it.
    pub fn open(ns: &Netns) -> Result<Self> {
        let socket = ns.enter(|| open_socket(NETLINK_SOCK_DIAG))?.map_err(|e| {
            NetError::netns(ns.name(), "open a socket that lists sockets (INET_DIAG in the kernel?)", e)
        })?;
        Ok(Self { ns: ns.handle()?, inner: Mutex::new(Inner::new(socket)) })
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.ns
    }

    /// The connections of `service` that their process has closed and that the kernel is still ending: it has data or a
    /// FIN to deliver, waits for the peer's FIN, or has acknowledged that within the last second. They belong to the
    /// namespace, to no process, so no checkpoint has them. Those that have more to say first.
    pub fn orphans(&self, service: IpAddr) -> Result<Vec<Flow>> {
        let mut found = Vec::new();
        self.dump(libc::IPPROTO_TCP, &[FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING], |seen| {
            let speaks = seen.state != TIME_WAIT || seen.expires_ms > TIME_WAIT_MS - YOUNG_MS;
            if seen.inode == 0 && seen.flow.local.ip() == service && speaks {
                found.push((seen.state == TIME_WAIT, seen.flow));
            }
        })?;
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, flow)| flow).collect())
    }

    /// How many TCP connections are between being nobody's and a process's: half made, made and not accepted yet, or
    /// closed with something that the peer has not acknowledged.
    pub fn in_between(&self) -> Result<u64> {
        let mut found = 0;
        let states = [LISTEN, SYN_RECV, NEW_SYN_RECV, FIN_WAIT1, LAST_ACK, CLOSING];
        self.dump(libc::IPPROTO_TCP, &states, |seen| {
            found += match seen.state {
                // In the place of what is to be read: how many wait to be accepted.
                LISTEN => u64::from(seen.unread),
                SYN_RECV | NEW_SYN_RECV => 1,
                _ => u64::from(seen.inode == 0),
            }
        })?;
        Ok(found)
    }

    /// Memory in bytes of the datagrams that lie in receive queues of UDP sockets. A checkpoint by CRIU drops them.
    pub fn unread_datagrams(&self) -> Result<u64> {
        let mut unread = 0;
        self.dump(libc::IPPROTO_UDP, &ALL_OF_UDP, |seen| unread += u64::from(seen.unread))?;
        Ok(unread)
    }

    /// The UDP sockets of processes: their inodes, where they are bound.
    pub(crate) fn udp(&self) -> Result<Vec<(u32, SocketAddr)>> {
        self.udp_that(|_| true)
    }

    /// Those in which datagrams lie unread.
    pub(crate) fn with_unread(&self) -> Result<Vec<(u32, SocketAddr)>> {
        self.udp_that(|seen| seen.unread > 0)
    }

    fn udp_that(&self, is_wanted: impl Fn(&Seen) -> bool) -> Result<Vec<(u32, SocketAddr)>> {
        let mut found = Vec::new();
        self.dump(libc::IPPROTO_UDP, &ALL_OF_UDP, |seen| {
            if seen.inode != 0 && is_wanted(&seen) {
                found.push((seen.inode, seen.flow.local));
            }
        })?;
        Ok(found)
    }

    /// Whether a UDP socket is bound to `port`.
    pub fn has_udp(&self, port: u16) -> Result<bool> {
        let mut found = false;
        self.dump(libc::IPPROTO_UDP, &ALL_OF_UDP, |seen| found |= seen.flow.local.port() == port)?;
        Ok(found)
    }

    fn dump(&self, protocol: i32, states: &[u8], mut on_socket: impl FnMut(Seen)) -> Result<()> {
        let states = states.iter().fold(0, |all, state| all | 1 << state);
        [libc::AF_INET, libc::AF_INET6]
            .into_iter()
            .try_for_each(|family| self.dump_family(&request(family, protocol, states), family, &mut on_socket))
    }

    fn dump_family(&self, request: &[u8], family: i32, mut on_socket: impl FnMut(Seen)) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let action = || "list sockets".to_owned();
        let error =
            |source, kernel| NetError::Netlink { ns: self.ns.name().to_owned(), action: action(), kernel, source };
        match inner.exchange(request, |_, payload| read(payload).into_iter().for_each(&mut on_socket)) {
            Ok(Answer { errno: 0, .. }) => Ok(()),
            // No IPv6 in this kernel.
            Ok(Answer { errno: libc::ENOENT, .. }) if family == libc::AF_INET6 => Ok(()),
            Ok(Answer { errno, explanation }) => Err(error(std::io::Error::from_raw_os_error(errno), explanation)),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                Err(NetError::NetlinkTimeout { ns: self.ns.name().to_owned(), action: action(), after: TIMEOUT })
            }
            Err(e) => Err(error(e, None)),
        }
    }
}

/// An `inet_diag_req_v2` for all sockets of a family and a protocol in these states.
fn request(family: i32, protocol: i32, states: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes[16] = family as u8;
    bytes[17] = protocol as u8;
    bytes[20..24].copy_from_slice(&states.to_ne_bytes());
    bytes
}

fn read(payload: &[u8]) -> Option<Seen> {
    let m = payload.get(..MESSAGE)?;
    let port = |at: usize| u16::from_be_bytes([m[at], m[at + 1]]);
    let end = |ip: usize, at: usize| Some(SocketAddr::new(address(m[0], &m[ip..ip + 16])?, port(at)));
    Some(Seen {
        flow: Flow { local: end(8, 4)?, remote: end(24, 6)? },
        state: m[1],
        expires_ms: u32_at(m, 52),
        unread: u32_at(m, 56),
        inode: u32_at(m, 68),
    })
}

/// IPv4 peers of an IPv6 socket are IPv4 on the wire.
fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if i32::from(family) == libc::AF_INET {
        return Some(<[u8; 4]>::try_from(&bytes[..4]).ok()?.into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical())
}
