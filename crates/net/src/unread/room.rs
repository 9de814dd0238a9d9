//! Room in the sockets of a service for what comes in one go.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use super::sockets;
use crate::{NetError, Result, SockDiag};

/// More than any hold has. A bound, not a size: memory is taken by what comes.
const ROOM: usize = 256 << 20;

/// UDP sockets that take for a while as much as may come: what is replayed after a hold comes faster than any service reads,
/// and a socket drops what is beyond its receive buffer. When this is dropped they are as they were; what is in them
/// then stays.
#[derive(Debug)]
pub struct Room {
    /// With the sizes that were set for them.
    sockets: Vec<(OwnedFd, usize)>,
}

impl Room {
    /// Makes it in all UDP sockets of the processes in a namespace.
    pub fn make(diag: &SockDiag) -> Result<Self> {
        let failed = |e: io::Error| NetError::netns(diag.netns().name(), "make room in its sockets", e);
        let (there, _) = sockets::fetch(diag.netns(), diag.udp()?).map_err(failed)?;
        let mut room = Self { sockets: Vec::new() };
        for (socket, _) in there {
            // The kernel doubles what is set, for its own part of it, and tells the double.
            let before = getsockopt(&socket, sockopt::RcvBuf).map_err(|e| failed(e.into()))? / 2;
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM).map_err(|e| failed(e.into()))?;
            room.sockets.push((socket, before));
        }
        Ok(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for (socket, before) in &self.sockets {
            if let Err(error) = setsockopt(socket, sockopt::RcvBufForce, before) {
                tracing::warn!(%error, "a UDP socket keeps a large receive buffer");
            }
        }
    }
}
