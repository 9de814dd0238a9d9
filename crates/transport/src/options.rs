//! What a session does, and for how long it waits.

use std::sync::Arc;
use std::time::Duration;

use crate::identity::Credentials;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Whoever it is, in the clear. For tests within a process; version 1 is spoken in this way only.
    Plain,
    /// That node and no other, by the word of the same authority; encrypted.
    Node {
        /// Who this side is.
        own: Arc<Credentials>,
        /// The other node's name.
        name: String,
    },
}

/// Whether contents are made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Where it saves time: by the measured speed of the link and of the compression, chunk by chunk.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always by LZ4, unless a chunk does not get smaller.
    Lz4,
    /// Always by Zstandard, level 1, unless a chunk does not get smaller.
    Zstd,
}

/// What a session does, and for how long it waits.
#[derive(Debug, Clone)]
pub struct Options {
    /// The sender's: whether contents are made smaller.
    pub compression: Compression,
    /// The sender's: whether pages that the other side has already seen are only named. Both sides keep up to 16 MiB.
    pub duplicates: bool,
    /// The sender's: bytes a second at most, before TLS.
    pub cap: Option<u64>,
    /// How often a side that has nothing to say says so.
    pub heartbeat: Duration,
    /// A connection over which nothing came for so long is broken.
    pub stall: Duration,
    /// How long a broken connection may be away.
    pub resume: Duration,
    /// How long a connection may take to come up: connecting, TLS, hello. Of the receiver also: until the sender calls.
    pub connect: Duration,
    /// The sender's: bytes that are on their way at most, kept until they are confirmed. It bounds the memory.
    pub window: usize,
    /// The oldest version that is spoken. Version 1 is spoken to [`Peer::Plain`] only, whatever this says.
    pub oldest: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            compression: Compression::Auto,
            duplicates: true,
            cap: None,
            heartbeat: Duration::from_secs(1),
            stall: Duration::from_secs(5),
            resume: Duration::from_secs(15),
            connect: Duration::from_secs(10),
            window: 32 << 20,
            oldest: 1,
        }
    }
}
