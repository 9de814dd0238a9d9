//! From node to node: images as files, memory as pages, over one stream, while they are produced.
//!
//! ```text
//! sender                                                     receiver
//!   hello    "GWMIG" version:u8
//!   pages    2:u8 pid:i32 addr:u64 len:u32 bytes crc:u32      kept by a PageSink; a later one replaces an earlier one
//!   zero     3:u8 pid:i32 addr:u64 len:u64 crc:u32            so many bytes are zero
//!   forget   4:u8 pid:i32 addr:u64 len:u64 crc:u32            nothing is mapped there any more
//!   sync     5:u8 number:u64                            ──►   answer: 5:u8 number:u64, when all before it was taken in
//!   file     1:u8 len:u16 name len:u64 bytes crc:u32          a plain file with a plain name in the receiver's directory
//!   end      0:u8 files:u32 bytes:u64                   ──►   answer: 0:u8
//! ```
//! Frames come in any order and number; `hello` first, `end` last. Numbers are little-endian; `crc` is the CRC-32 (IEEE
//! 802.3) of everything in the frame before it, but the kind. Pages are whole: `addr` and `len` are multiples of 4096.
//!
//! ```text
//!   Sender: open ──frames──► open ──finish──► sent      a failed or dropped one has not sent
//! ```
//! What it guarantees: the receiver confirms only what arrived whole; a stream that ends early, a frame that was damaged,
//! a name that leads out of the directory, or another version are errors on both sides.

mod receive;
mod send;

use std::io;

pub use receive::{NoPages, PageSink, Receiver};
pub use send::Sender;

const MAGIC: &[u8; 5] = b"GWMIG";
const VERSION: u8 = 1;
/// The most that one frame of pages carries, and the size of the buffers.
const CHUNK: usize = 1 << 20;
const PAGE: u64 = 4096;

const END: u8 = 0;
const FILE: u8 = 1;
const PAGES: u8 = 2;
const ZERO: u8 = 3;
const FORGET: u8 = 4;
const SYNC: u8 = 5;

/// Why something did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream or a file failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The peer speaks something else.
    #[error("the peer speaks version {theirs}, this side speaks {VERSION}")]
    Version {
        /// What it said.
        theirs: u8,
    },
    /// What came is not what was sent.
    #[error("{0}")]
    Corrupt(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> StreamError {
    let what = what.into();
    move |source| StreamError::Io { what, source }
}

fn corrupt(what: impl Into<String>) -> StreamError {
    StreamError::Corrupt(what.into())
}

#[cfg(test)]
mod tests;
