//! What a client speaks through.

use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// A socket that is connected and never waits.
#[derive(Debug)]
pub(super) enum Speaker {
    /// Bytes in a row.
    Tcp(TcpStream),
    /// A request or an answer at a time.
    Udp(UdpSocket),
}

impl Speaker {
    pub(super) const fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(_))
    }

    /// How much of it went.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Udp(socket) => socket.send(bytes),
        }
    }

    /// What is there, or one datagram.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Udp(socket) => socket.recv(buffer),
        }
    }
}

impl AsFd for Speaker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}
