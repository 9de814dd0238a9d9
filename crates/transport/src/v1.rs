//! Version 1 of the protocol: over one plain stream, without resumption. Kept so that a node of the release before can be
//! talked to; its bytes are recorded in `tests/fixtures`.
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

pub(crate) use receive::Receiver;
pub(crate) use send::Sender;

use crate::error::{StreamError, corrupt, io_error};
use crate::hello::MAGIC;
use crate::sink::{PAGE, PageSink};

pub(crate) const VERSION: u8 = 1;
/// The most that one frame of pages carries, and the size of the buffers.
const CHUNK: usize = 1 << 20;

const END: u8 = 0;
const FILE: u8 = 1;
const PAGES: u8 = 2;
const ZERO: u8 = 3;
const FORGET: u8 = 4;
const SYNC: u8 = 5;
