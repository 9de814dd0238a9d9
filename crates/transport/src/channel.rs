//! A connection between two nodes for a protocol of its own: authenticated and encrypted as a session is, and nothing else.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{StreamError, io_error};
use crate::options::Peer;
use crate::progress::Progress;
use crate::wire::{Wire, in_words};

/// One connection, both ways: one thread may read while another one writes. Who breaks off and begins anew is its user's
/// concern; so is what is said, and in which version.
#[derive(Debug, Clone)]
pub struct Channel(Arc<Wire>);

impl Channel {
    /// Of the side that has called: to that peer and no other, within that time.
    ///
    /// # Errors
    /// Another node than expected, no node of this authority. That *this* node is refused is heard at the first read.
    pub fn calling(socket: TcpStream, peer: &Peer, within: Duration) -> Result<Self, StreamError> {
        let wire = Wire::calling(socket, peer, within, &Arc::new(Progress::default()))?;
        Ok(Self(Arc::new(wire)))
    }

    /// Of the side that was called, by that peer and no other.
    ///
    /// # Errors
    /// As [`Channel::calling`].
    pub fn called(socket: TcpStream, peer: &Peer, within: Duration) -> Result<Self, StreamError> {
        let wire = Wire::called(socket, peer, within, &Arc::new(Progress::default()))?;
        match peer {
            Peer::Node { name, .. } if !wire.is_from(peer) => Err(StreamError::Refused(format!(
                "{name} is expected here, and the certificate shown is another node's"
            ))),
            _ => Ok(Self(Arc::new(wire))),
        }
    }

    /// Whoever waits for bytes, or for room to write, gives up after so long; `None`: never.
    pub fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> Result<(), StreamError> {
        self.0.set_timeouts(read, write).map_err(io_error("set up the connection"))
    }

    /// Reads what there is; 0 is the end.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(in_words)
    }

    /// Writes all of it. When it returns, the network has it or is about to.
    pub fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(&[bytes])
    }

    /// Ends it both ways; whoever waits in it comes back.
    pub fn shut_down(&self) {
        self.0.shut_down();
    }
}

impl io::Read for &Channel {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Channel::read(self, into)
    }
}

impl io::Write for &Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Channel::write_all(self, bytes).map(|()| bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
