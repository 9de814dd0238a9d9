//! The memory of a container that arrives before the container does.
//!
//! ```text
//!   source                                    target
//!   memory, read while it runs ──pages──►  PageStore           (the service runs)
//!   LazyHandler::listen ──────────────────────────────── on a socket in the directory of the images
//!   frozen: the last dirty pages ────────►  PageStore
//!   CRIU's dump, without memory ──images─►  CRIU's restore ──userfaultfd of each process──► LazyHandler
//!                                           held:   check() · guard() · start_filling()
//!                                           commit, resume:   faults first, and all the rest
//!                                           wait_filled():    an ordinary process again
//! ```
//!
//! [`PageStore`] holds pages of several processes by address. [`LazyHandler`] takes over the userfaultfds that a lazy
//! restore of CRIU hands out and fills the processes from the store.
//!
//! # What it guarantees
//!
//! - A process never sees other bytes than those that the store has, or zeroes where the images say that there was
//!   nothing. [`LazyHandler::check`] says before the commit point whether anything is missing, and exactly what.
//! - A fault is answered before more is filled; filling goes in small pieces.
//! - A page that cannot be served ends the process that touches it (SIGBUS) while it is being restored; it never hangs.
//! - After [`LazyHandler::wait_filled`] nothing of userfaultfd is left in the processes: they can be moved again.
//! - What a process does meanwhile is followed: it may unmap, drop, move (mremap) and fork.
//!
//! # What it leaves to the caller
//!
//! To read the source's memory and to carry it. And what follows when somebody is killed while pages are missing
//! ([`LazyHandler::guard`]). With [`FillOptions::apart`] the handler and its guard are processes of their own: any one of them and
//! this one may be killed, and all is filled. Else, and when both are killed at once, the container is ended; so the source should
//! not be given up before all is filled.

mod apart;
mod arena;
mod error;
mod extents;
mod guard;
mod handler;
mod images;
mod pending;
pub mod remote;
mod serve;
mod store;
mod task;
mod uffd;

pub use apart::{HandlerProgram, serve_apart};
pub use arena::Reserve;
pub use error::{Error, Result};
pub use handler::{Arrivals, FillOptions, LazyHandler, Stats, check_complete};
pub use images::Pagemap;
pub use store::{Counts, Page, PageStore, StoreError};

/// The size of a page. [`LazyHandler::listen`] refuses a host with another one.
pub const PAGE: u64 = 4096;
