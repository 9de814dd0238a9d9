//! A packet out of its network.

use std::fmt;
use std::net::IpAddr;

use crate::delay::addresses;

/// A whole IP packet with finished checksums, as it would be on a wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet(Vec<u8>);

impl Packet {
    /// Takes bytes for a packet (that came from another hold); they are checked when it is replayed.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The packet from its IP header on.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same, given away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Where it comes from.
    pub fn src(&self) -> Option<IpAddr> {
        addresses(&self.0).map(|(src, _)| src)
    }

    /// Where it goes.
    pub fn dst(&self) -> Option<IpAddr> {
        addresses(&self.0).map(|(_, dst)| dst)
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match addresses(&self.0) {
            Some((src, dst)) => write!(f, "Packet({src} > {dst}, {} bytes)", self.0.len()),
            None => write!(f, "Packet({} bytes)", self.0.len()),
        }
    }
}
