//! Containers that move while they run: CRIU by its RPC, and runc for the ordinary life of a container.
//!
//! ```text
//!         source node                                       target node
//!   check(&env)  preflight(&env, id)                  check(&env)
//!   PreparedDump::new ────────── plan ──────────────► PreparedRestore::new      (the service runs)
//!   · the caller blocks the service's packets ·
//!   .freeze ► FrozenDump .dump ► HeldDump ─ images ─► .restore ► HeldRestore     (frozen)
//!   · the caller records the commit point, moves the address ·
//!                                                     .resume ► RestoredContainer .finish
//!   .commit                     · and opens the block and replays ·             (the service runs)
//! ```
//!
//! # What it guarantees
//!
//! - Until [`HeldDump::commit`] the source can be brought back by [`HeldDump::rollback`], its connections alive, even
//!   when CRIU has been killed meanwhile; until [`HeldRestore::resume`] the target can be made as it was by
//!   [`HeldRestore::abort`]. Neither sends a FIN or RST. Dropping does the same.
//! - When the process that moves a container dies, the same can be had from another: [`recover_source`],
//!   [`end_source`], [`clear_target`], and, when the target was let run, [`survives`], [`survives_whole`] and
//!   [`finish_target`].
//! - An order of calls that makes no sense does not compile.
//!   The exception: a CRIU that somebody else kills in the middle of the dump itself (some 10 ms, while its code is
//!   inside the tasks and their sockets are in its hands) lets them run at once, before anybody can freeze them.
//!   Then the container mostly lives and its connections mostly do not. CRIU is exempt from the OOM killer where
//!   that may be asked for; our own time-outs freeze first and kill then.
//! - Every call that waits has a [`Limit`]; what it started is ended when the limit is over.
//! - Before and after, the container is a normal container of the node's runc.
//!
//! # Memory that is not in the images
//!
//! With [`MemoryMode::Lazy`] on both sides the freeze hardly depends on the memory. The caller copies the private memory
//! of the container's processes ([`PreparedDump::members`]) while they run, and the rest between
//! [`PreparedDump::freeze`] and [`FrozenDump::dump`]: what is read then is what the dump finds. The dump says in the images
//! where there is memory. On the target something takes over the processes' userfaultfds on [`LAZY_SOCKET`] and fills
//! them (`godwit-pages`); it has to listen before [`PreparedRestore::restore`], because the kernel touches their memory
//! already while they are made. All guarantees above hold as well; one is added: what the images promise can be compared
//! with what has arrived before anything is committed.
//!
//! # What it leaves to the caller
//!
//! Packets: to keep them from the service's network namespace from before the freeze until the commit or the end of
//! the roll-back, and to hold and replay them. And the images: [`ImagesDir`] is a directory of the host at each end.

pub mod check;

mod apart;
mod cgroup;
mod dump;
mod error;
mod images;
mod limit;
mod log;
mod node;
mod pagemap;
mod plan;
mod preflight;
mod process;
mod released;
mod restore;
mod rpc;
mod runc;
mod scan;
mod sockets;
mod spare;
mod spec;
mod stage;
mod state;
mod swrk;
mod sys;
mod tmpfs;
mod unix_diag;

pub use apart::preflight_all;
pub use cgroup::Freezer;
pub use check::{Capabilities, Version, check};
pub use dump::{DumpOptions, DumpTimes, FrozenDump, HandedBack, HeldDump, MemoryMode, PreparedDump};
pub use error::{Error, Result};
pub use images::ImagesDir;
pub use limit::{Cancel, Limit};
pub use node::{NodeChild, NodeCommand, NodeEnv, Output};
pub use plan::{ExternalMount, RestorePlan};
pub use preflight::{Obstacle, preflight};
pub use process::Member;
pub use released::{
    ReleasedDump, clear_target, end_source, finish_target, members, recover_source, survives, survives_whole,
};
pub use restore::{
    Connections, HeldRestore, LAZY_SOCKET, PreparedRestore, RestoreOptions, RestoreTimes, RestoredContainer,
};
pub use runc::{Container, Runc, Status, Streams};
pub use sockets::recover_sockets;
pub use spec::Spec;
pub use state::StateFile;
