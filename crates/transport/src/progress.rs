//! How far it is: counters that any thread may read at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use godwit_model::Bytes;

/// Counters of one side of a session. They only grow.
#[derive(Debug, Default)]
pub struct Progress {
    pub(crate) wire_sent: AtomicU64,
    pub(crate) wire_received: AtomicU64,
    pub(crate) contents: AtomicU64,
    pub(crate) zero: AtomicU64,
    pub(crate) duplicate: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) answered: AtomicU64,
}

impl Progress {
    /// What has gone through the socket outwards, with everything: frames, TLS, what was sent twice.
    pub fn wire_sent(&self) -> Bytes {
        Bytes(self.wire_sent.load(Relaxed))
    }

    /// What has come in through the socket.
    pub fn wire_received(&self) -> Bytes {
        Bytes(self.wire_received.load(Relaxed))
    }

    /// Bytes of pages and files, before compression; each counts once, duplicates count too, zero ranges do not.
    pub fn contents(&self) -> Bytes {
        Bytes(self.contents.load(Relaxed))
    }

    /// Memory that was only said to be zero.
    pub fn zero(&self) -> Bytes {
        Bytes(self.zero.load(Relaxed))
    }

    /// Of the contents: pages that were only named, since the other side had the same bytes already.
    pub fn duplicate(&self) -> Bytes {
        Bytes(self.duplicate.load(Relaxed))
    }

    /// How often a broken connection was taken up again.
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Relaxed)
    }

    /// How many requests for pages were answered.
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }
}
