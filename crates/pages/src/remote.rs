//! Pages that are still on the source: fetched while the restored processes run (post-copy).
//!
//! ```text
//!   target                                                            source
//!   LazyHandler ──want──► RemotePages ══ hello · missing · want · took · done ══► PageServer ──/proc/PID/mem──► frozen
//!        ▲                     │       ◄════ pages · zero · failed ═══════════════     │                        processes
//!        └───── Arrivals ◄─────┘                                              Order: what next, Window: how much
//! ```
//!
//! Frames, numbers little-endian; everything is whole pages:
//!
//! ```text
//!   hello    "GWPAGE" version:u8 count:u32 (pid:i32 addr:u64 len:u64)*     what the target lacks
//!   want     1:u8 pid:i32 addr:u64                                        a process waits for this page
//!   took     2:u8 len:u32                                                 so many bytes have arrived
//!   done     3:u8                                                         all is there
//!   flow     4:u8                                                         the rest may come, too
//!   pages    1:u8 pid:i32 addr:u64 len:u32 bytes crc:u32
//!   zero     2:u8 pid:i32 addr:u64 len:u32
//!   failed   3:u8 len:u32 text                                            the source cannot read its memory
//! ```
//!
//! A connection has no memory: whoever connects says what it lacks. So a link that was cut is resumed by connecting anew, and
//! what was on its way is sent again. Before `flow` only that goes over for which a process waits. Then, too, it
//! goes first, whatever else is queued; then its neighbourhood, then what was written last, then the rest. Little is under way at any time (`Window`), so that what is
//! wanted has no long queue before it.

mod client;
mod line;
mod order;
mod server;
mod window;
mod wire;

use std::io;
use std::ops::Range;

pub use client::{Patience, RemotePages};
pub use line::Line;
pub use order::Order;
pub use server::{PageServer, ProcessMemory, ReadPages, Served};

/// Ranges of a process's memory, by the pid of the images.
pub type Ranges = Vec<(i32, Range<u64>)>;

/// Where a handler gets the pages that it does not have. They come by [`Arrivals`](crate::Arrivals).
pub trait PageSource: Send + Sync {
    /// A process waits for the page at `addr` (of the images): it shall come before all others. Must not block; asked
    /// once for a page.
    fn want(&self, pid: i32, addr: u64);

    /// The processes run: everything may come now. Before, the CPUs and the link are theirs who restore them.
    fn flow(&self);
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
