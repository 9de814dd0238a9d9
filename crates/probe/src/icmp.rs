//! ICMP sockets: raw where permitted, ping sockets (icmp(7)) else.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::packet::{Echo, Version, skip_ipv4_header};

/// Others' packets that are skipped at a turn.
const MAX_SKIPPED: usize = 256;

/// One socket for all users of an IP version.
#[derive(Debug)]
pub(crate) struct IcmpSocket {
    socket: Socket,
    version: Version,
    /// `None` for a ping socket: the kernel chooses and checks the identifier.
    ident: Option<u16>,
    secret: u64,
    is_raw: bool,
}

/// An answer to one of our probes.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) from: IpAddr,
    pub(crate) echo: Echo,
    /// How long it had been waiting in the socket when it was read; zero when the kernel does not say.
    pub(crate) waited: Duration,
}

impl IcmpSocket {
    /// Opens in the calling thread's network namespace.
    pub(crate) fn open(version: Version, secret: u64) -> io::Result<Self> {
        let (domain, protocol) = match version {
            Version::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Version::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let (socket, is_raw) = match Socket::new(domain, Type::RAW, Some(protocol)) {
            Ok(socket) => (socket, true),
            Err(_) => (Socket::new(domain, Type::DGRAM, Some(protocol))?, false),
        };
        socket.set_nonblocking(true)?;
        // Without time stamps the figures are a little worse, no more.
        if let Err(error) = setsockopt(&socket, ReceiveTimestampns, &true) {
            tracing::debug!(%error, "no kernel receive time stamps");
        }
        Ok(Self { socket, version, ident: is_raw.then_some(secret as u16), secret, is_raw })
    }

    /// The secret that its echoes carry.
    pub(crate) fn secret(&self) -> u64 {
        self.secret
    }

    /// Sends a request.
    pub(crate) fn send(&self, to: IpAddr, echo: &Echo) -> io::Result<()> {
        let packet = echo.request(self.version, self.ident.unwrap_or(0));
        self.socket.send_to(&packet, &SocketAddr::new(to, 0).into()).map(drop)
    }

    /// The next answer that waits; `Ok(None)` when there is nothing more, or after much that is not for us: a flood of
    /// others' packets must not keep us here.
    pub(crate) fn receive(&self) -> io::Result<Option<Answer>> {
        // Larger than our own packets; what is longer is not ours and may be cut.
        let mut buffer = [0; 512];
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        for _ in 0..MAX_SKIPPED {
            let mut iov = [IoSliceMut::new(&mut buffer)];
            let message = recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut iov,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            );
            let (len, from, stamp) = match message {
                Ok(m) => (m.bytes, m.address.and_then(ip), m.cmsgs().ok().and_then(|mut all| all.find_map(stamp))),
                Err(nix::Error::EAGAIN) => return Ok(None),
                Err(nix::Error::EINTR) => continue,
                // A router's word on an earlier probe, reported on a ping socket: that probe times out.
                Err(nix::Error::EHOSTUNREACH | nix::Error::ENETUNREACH | nix::Error::ECONNREFUSED) => continue,
                Err(error) => return Err(error.into()),
            };
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let waited = stamp.and_then(|stamp| now.checked_sub(stamp)).unwrap_or_default();
            let packet = &buffer[..len.min(buffer.len())];
            let icmp = if self.is_raw && self.version == Version::V4 { skip_ipv4_header(packet) } else { Some(packet) };
            let echo = icmp.and_then(|icmp| Echo::reply(icmp, self.version, self.ident, self.secret));
            if let (Some(from), Some(echo)) = (from, echo) {
                return Ok(Some(Answer { from, echo, waited }));
            }
        }
        Ok(None)
    }
}

impl AsFd for IcmpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn stamp(message: ControlMessageOwned) -> Option<Duration> {
    match message {
        ControlMessageOwned::ScmTimestampns(at) => {
            Some(Duration::new(u64::try_from(at.tv_sec()).ok()?, u32::try_from(at.tv_nsec()).ok()?))
        }
        _ => None,
    }
}

fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    address
        .as_sockaddr_in()
        .map(|v4| IpAddr::V4(v4.ip()))
        .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}
