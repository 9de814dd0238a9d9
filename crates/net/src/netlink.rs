//! Links, addresses, routes, neighbours and rules of one namespace, by rtnetlink.
//!
//! One socket, opened once and kept: a request and its acknowledgement take microseconds, where starting `ip`
//! takes milliseconds. Requests that belong into a freeze can be made ahead ([`Netlink::prepare_route`]) so that
//! only the system call is left. Source: rtnetlink(7), RFC 3549.

mod diag;
mod link;
mod neigh;
mod qdisc;
mod route;
mod rule;
mod wire;

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

pub use diag::{Flow, SockDiag};
pub(crate) use link::check_ifname;
pub use link::{LinkInfo, Mac};
pub use route::{FoundRoute, PreparedRoute, Route};
pub use rule::Rule;

use crate::{NetError, Netns, Result};
use wire::Answer;

/// How long an answer is waited for. Only a stuck rtnl lock (a namespace being torn down) takes longer than
/// milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A device, by name or (quicker: no look-up) by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dev {
    /// By name; looked up at every use.
    Name(String),
    /// By the index that [`Netlink::link_index`] gave.
    Index(u32),
}

impl From<&str> for Dev {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for Dev {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<u32> for Dev {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}

impl std::fmt::Display for Dev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(n) => f.write_str(n),
            Self::Index(i) => write!(f, "#{i}"),
        }
    }
}

/// An open rtnetlink socket that lives in one namespace. May be shared between threads; requests take turns.
#[derive(Debug)]
pub struct Netlink {
    ns: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: Socket,
    sequence: u32,
    send: Vec<u8>,
    receive: Box<[u8]>,
}

impl Netlink {
    /// Opens a socket in the namespace; it stays there whatever thread uses it.
    pub fn open(ns: &Netns) -> Result<Self> {
        let socket = ns
            .enter(|| open_socket(NETLINK_ROUTE))?
            .map_err(|e| NetError::netns(ns.name(), "open a netlink socket", e))?;
        Ok(Self::new(ns.name(), socket))
    }

    /// Opens a socket in the namespace of the calling thread.
    pub fn open_here() -> Result<Self> {
        const HERE: &str = "(own)";
        let socket = open_socket(NETLINK_ROUTE).map_err(|e| NetError::netns(HERE, "open a netlink socket", e))?;
        Ok(Self::new(HERE, socket))
    }

    fn new(ns: &str, socket: Socket) -> Self {
        Self { ns: ns.to_owned(), inner: Mutex::new(Inner::new(socket)) }
    }

    /// The name of the namespace that this socket lives in.
    pub fn ns(&self) -> &str {
        &self.ns
    }

    /// One request, acknowledged. `action` completes the sentence "cannot …".
    fn request(&self, message: RouteNetlinkMessage, flags: u16, action: impl Fn() -> String) -> Result<()> {
        self.talk(&encode(message, NLM_F_REQUEST | NLM_F_ACK | flags), action, |_, _| ())
    }

    /// One request with data in answer: one message, or many when `dump`.
    fn get<T>(
        &self,
        message: RouteNetlinkMessage,
        dump: bool,
        action: impl Fn() -> String,
        mut parse: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { NLM_F_ACK };
        let mut found = Vec::new();
        self.talk(&encode(message, flags), action, |kind, payload| found.extend(parse(kind, payload)))?;
        Ok(found)
    }

    fn talk(&self, request: &[u8], action: impl Fn() -> String, on_data: impl FnMut(u16, &[u8])) -> Result<()> {
        // A panic between send and receive leaves answers behind; their sequence numbers give them away.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let error = |source, kernel| NetError::Netlink { ns: self.ns.clone(), action: action(), kernel, source };
        match inner.exchange(request, on_data) {
            Ok(Answer { errno: 0, .. }) => Ok(()),
            Ok(Answer { errno, explanation }) => Err(error(io::Error::from_raw_os_error(errno), explanation)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Err(NetError::NetlinkTimeout { ns: self.ns.clone(), action: action(), after: TIMEOUT })
            }
            Err(e) => Err(error(e, None)),
        }
    }

    /// The index of a device given either way.
    fn index(&self, dev: &Dev) -> Result<u32> {
        match dev {
            Dev::Index(index) => Ok(*index),
            Dev::Name(name) => self.link_index(name),
        }
    }
}

impl Inner {
    fn new(socket: Socket) -> Self {
        Self { socket, sequence: 0, send: Vec::new(), receive: vec![0; 1 << 16].into() }
    }

    fn exchange(&mut self, request: &[u8], mut on_data: impl FnMut(u16, &[u8])) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send.clear();
        self.send.extend_from_slice(request);
        wire::set_sequence(&mut self.send, self.sequence);
        self.socket.send(&self.send, 0)?;
        loop {
            let mut space = &mut self.receive[..];
            let len = match self.socket.recv(&mut space, 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let datagram = &self.receive[..len.min(self.receive.len())];
            if let Some(answer) = wire::read_datagram(datagram, self.sequence, &mut on_data) {
                return Ok(answer);
            }
        }
    }
}

fn open_socket(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Explanations in words, and acknowledgements that do not carry the request back.
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_cap_ack(true);
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT.as_secs().cast_signed(), 0))?;
    Ok(socket)
}

fn encode(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
