//! Datagrams that a service has got and not read when it stops for good.
//!
//! A checkpoint by CRIU has a UDP socket, but not what lies in its queue. So that is read out before, without being taken
//! (a service that goes on where it is finds it still there), and made packets again, as they came: replayed before those
//! that were held, they reach the service where it goes on, in their order.

#![allow(unsafe_code)] // SO_PEEK_OFF has no safe wrapper

mod packets;
mod room;
mod sockets;

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use crate::{NetError, Packet, Result, SockDiag};

pub use room::Room;

/// The longest datagram there is.
const LONGEST: usize = 65_535;
/// More than this is in no queue; a socket whose queue does not end is not read for ever.
const MOST: usize = 1 << 16;

/// The datagrams to `services` (an address of each family, at most) that lie unread in the sockets of a namespace, as
/// packets: those of a socket in the order in which they came. They stay where they are. To be called when neither does
/// a packet get to the namespace any more nor run the processes in it. What was sent to another address than the
/// services', as by a process to itself, is left out, with a warning.
pub fn unread_datagrams(diag: &SockDiag, services: &[IpAddr]) -> Result<Vec<Packet>> {
    let (ns, sockets) = (diag.netns(), diag.with_unread()?);
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |what: &str, e: io::Error| NetError::netns(ns.name(), what, e);
    let mut found = Vec::new();
    let (there, missing) = sockets::fetch(ns, sockets).map_err(|e| failed("get hold of the sockets in it", e))?;
    for (socket, local) in there {
        for datagram in peek(&socket).map_err(|e| failed("read datagrams in it", e))? {
            match datagram.packets(local, services) {
                Some(packets) => found.extend(packets),
                None => tracing::warn!(ns = ns.name(), %local, "an unread datagram that was for no service is lost"),
            }
        }
    }
    if missing > 0 {
        tracing::warn!(ns = ns.name(), sockets = missing, "unread datagrams of sockets that no process has are lost");
    }
    Ok(found)
}

/// A datagram out of a socket's queue.
#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    /// Where to, where the socket tells that (IP_PKTINFO).
    to: Option<IpAddr>,
    /// Several that the kernel has joined are this long each, but for the last.
    segment: Option<usize>,
    payload: Vec<u8>,
}

impl Datagram {
    fn packets(&self, local: SocketAddr, services: &[IpAddr]) -> Option<Vec<Packet>> {
        let bound = Some(local.ip()).filter(|ip| !ip.is_unspecified());
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == self.from.is_ipv4();
        let to = self.to.or(bound).or(services.iter().find(same_family).copied())?;
        let is_own = self.from.ip().is_loopback() || services.contains(&self.from.ip());
        if is_own || !services.contains(&to) {
            return None;
        }
        let to = SocketAddr::new(to, local.port());
        let segment = self.segment.filter(|len| *len > 0).unwrap_or(LONGEST);
        // An empty one is a datagram too.
        let first = self.payload.get(..segment.min(self.payload.len())).unwrap_or_default();
        let rest = self.payload[first.len()..].chunks(segment);
        Some([first].into_iter().chain(rest).flat_map(|part| packets::of(self.from, to, part)).collect())
    }
}

/// All that lies in a socket's queue; it stays there.
fn peek(socket: &OwnedFd) -> io::Result<Vec<Datagram>> {
    let before = peek_off(socket)?;
    set_peek_off(socket, 0)?;
    let read = peek_all(socket);
    set_peek_off(socket, before)?;
    read
}

fn peek_all(socket: &OwnedFd) -> io::Result<Vec<Datagram>> {
    let (mut found, mut buffer) = (Vec::new(), vec![0; LONGEST]);
    let mut control = nix::cmsg_space!([u8; 512]);
    while found.len() < MOST {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let (len, from, to, segment) =
            match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(message) => {
                    let (mut to, mut segment) = (None, None);
                    for told in message.cmsgs().into_iter().flatten() {
                        match told {
                            ControlMessageOwned::Ipv4PacketInfo(info) => {
                                to = Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
                            }
                            ControlMessageOwned::Ipv6PacketInfo(info) => {
                                to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                            }
                            ControlMessageOwned::UdpGroSegments(len) => segment = usize::try_from(len).ok(),
                            _ => {}
                        }
                    }
                    (message.bytes, message.address.and_then(socket_address), to, segment)
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                // An error that the network has told of; asking has taken it away.
                Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => continue,
                Err(error) => return Err(error.into()),
            };
        let Some(from) = from else { continue };
        found.push(Datagram { from, to, segment, payload: buffer[..len].to_vec() });
    }
    Ok(found)
}

fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::new(v6.ip().to_canonical(), v6.port()))
}

fn peek_off(socket: &OwnedFd) -> io::Result<i32> {
    let (mut value, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: value and its length are ours for the length of the call.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, (&raw mut value).cast(), &raw mut len)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn set_peek_off(socket: &OwnedFd, value: i32) -> io::Result<()> {
    // SAFETY: the value is ours for the length of the call, with its true length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
