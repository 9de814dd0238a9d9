//! TCP connects as probes: the SYN is the request, the SYN-ACK or the RST the answer.
#![allow(unsafe_code)] // TCP_INFO has no safe wrapper in nix or socket2

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A connect under way.
#[derive(Debug)]
pub(crate) struct Connect {
    socket: Socket,
}

/// How it stands with a connect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A SYN-ACK came, with the kernel's own figure of its time.
    Accepted(Option<Duration>),
    /// A RST came.
    Refused,
    /// Neither: a router said no, or there is no way there.
    Failed(io::ErrorKind),
}

impl Connect {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // Reset on close: no TIME_WAIT on either side, five of them a second would add up.
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(Self { socket })
    }

    /// Sends the SYN; `None` while there is no answer.
    pub(crate) fn start(&self, to: SocketAddr) -> Option<Outcome> {
        match self.socket.connect(&SockAddr::from(to)) {
            Ok(()) => Some(Outcome::Accepted(self.handshake_time())),
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => None,
            Err(error) => Some(Self::outcome_of(&error)),
        }
    }

    /// The outcome, once the socket polls as writable or in error.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.socket.take_error() {
            Ok(None) => Outcome::Accepted(self.handshake_time()),
            Ok(Some(error)) | Err(error) => Self::outcome_of(&error),
        }
    }

    fn outcome_of(error: &io::Error) -> Outcome {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Outcome::Refused,
            kind => Outcome::Failed(kind),
        }
    }

    /// `tcpi_rtt`: after a handshake it is that of the SYN, measured in the kernel (tcp(7)).
    fn handshake_time(&self) -> Option<Duration> {
        use nix::libc;
        // SAFETY: tcp_info is a struct of integers, for which all zeros is a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the descriptor is open for as long as `self`; `info` and `len` are valid for writing, and `len` is
        // the size of `info`, beyond which the kernel does not write.
        let got = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut len,
            )
        };
        let has_rtt = got == 0 && len as usize >= std::mem::offset_of!(libc::tcp_info, tcpi_rtt) + size_of::<u32>();
        (has_rtt && info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
    }
}

impl AsFd for Connect {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
