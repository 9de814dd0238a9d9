//! The files that a container has written go to another node, first while it writes, then in its freeze.
//!
//! ```text
//!   source                                                              target
//!   Outgoing::sync ── scan ─► Tree ─ changes since the last one ─► messages ──► Incoming::take ─► the container's own root
//!        again and again while it runs (little is left each time), once more in the freeze
//! ```
//! A place ([`Place`]) is the upper directory of an overlay or a volume. On the source an overlay's upper directory is read as
//! it is, with its whiteouts and opaque directories; on the target the same is done *through the mounted overlay*, whose
//! kernel then writes whiteouts of its own. So the target's overlay may be mounted, and CRIU may have its root, long before
//! the last change comes. A volume is a directory at both ends.
//!
//! What is carried: directories, files with their holes, hard and symbolic links, devices, FIFOs, socket files; owners, modes,
//! times of change, extended attributes (with them ACLs and file capabilities).
//!
//! What it guarantees:
//! - After a `sync` during which nothing was written, target and source are alike, whatever was written while earlier ones ran.
//! - Written means: an inode's change time, modification time, size, mode, owner or number is another. A change time within
//!   [`RACY`] of the scan counts as changed the next time. Writes through a shared mapping change none of these on every
//!   file system, so whoever calls names the files that are mapped so ([`Mapped`]), and they are sent each time.
//! - No name or link of a container leads out of its place, at neither end.
//! - Messages are bytes of at most [`LARGEST`]; what carries them sees to their order and their being whole.

mod apply;
mod delta;
mod error;
mod mapped;
mod message;
mod open;
mod outgoing;
mod scan;
mod tree;

pub use apply::Incoming;
pub use error::LayerError;
pub use mapped::Mapped;
pub use message::LARGEST;
pub use outgoing::{Outgoing, Sent};
pub use scan::{Form, Place};
pub use tree::RACY;
