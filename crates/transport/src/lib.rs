//! From node to node: images as files, memory as pages, while they are produced; authenticated, encrypted, versioned, and
//! over as many connections as it takes.
//!
//! ```text
//!   Sender::open(dial, peer, options)                              Receiver::listen(incoming, peer, options, dir)
//!      │ pages zero forget message file sync finish                      │ run(sink)
//!      ▼                                                                 ▼
//!   duplicates ─► compression ─► numbered frames ─► [cap] ─► TLS ══► frames ─► files in dir, the rest into the sink
//!                                 kept until confirmed ◄─── confirmed ──┘
//!   Requests::next, answer ◄────────────────────────────── want ────── Pager::want
//! ```
//!
//! # A session
//!
//! ```text
//!   sender                                                  receiver
//!     TLS 1.3: each shows its node's certificate, each asks for the other's name        before the freeze
//!     hello: versions, features, session        ──►
//!                                               ◄──         welcome: version, features, frames received
//!     pages, zero, forget, file, data …         ──►
//!                                               ◄──         confirmed: so many frames   each MiB, and at a sync
//!     alive                                     ◄─►         alive                       while there is nothing to say
//!     sync                                      ──►
//!                                               ◄──         confirmed                   one round trip, none besides
//!     ══════ the connection breaks: an error, damage, or silence for `stall` ══════
//!     dial, TLS, hello: the same session        ──►
//!                                               ◄──         welcome: frames received
//!     the frames after those                    ──►
//!     end                                       ──►
//!                                               ◄──         confirmed
//!     bye                                       ──►
//! ```
//!
//! ```text
//!   Sender    opening ──► up ◄──► down ──(`resume` is over, refused, nobody listens)──► failed
//!                          └─finish─► confirmed ─► sent          cancel, drop: from anywhere ─► cancelled
//!   Receiver  waiting ──► up ◄──► down ──(`resume` is over)──► failed
//!                          └─end, all of it there─► received     cancel of either side ─► cancelled
//! ```
//!
//! # What it guarantees
//!
//! - [`Sender::finish`] succeeds only if the receiver has taken in everything, in order, once. What is damaged on the way is
//!   sent again; what cannot be made whole is an error on both sides.
//! - A frame that was taken in is not sent again, whatever becomes of the connection.
//! - With [`Peer::Node`] only that node, by the authority's word, is talked to; both ends say why somebody was refused. There
//!   is no falling back to the clear.
//! - A page is taken for a duplicate only if its bytes are the same; a hash only says where to look.
//! - Nothing that arrives makes a side allocate more than a frame (264 KiB), the pages kept for duplicates (16 MiB), and what
//!   the sink keeps. The sender keeps [`Options::window`] and what was asked for.
//! - No wait is without a limit, except that for the caller's own [`PageSink`]; every one ends when the session is cancelled.
//! - An answer to a request overtakes what waits to be pushed.
//!
//! Compression is chosen chunk by chunk from the measured speeds of link and methods: it never costs more than it saves, and a
//! fast link carries bytes as they are. Of version 1, without any of this, both the sender's and the receiver's side are kept;
//! they are spoken in the clear only, as version 1 did.
//!
//! ```
//! use std::net::{TcpListener, TcpStream};
//! use std::sync::Arc;
//! use godwit_transport::{Authority, NoPages, Options, Peer, Receiver, Sender};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let authority = Authority::new()?;
//! let peer = |own: &str, name: &str| -> Result<Peer, Box<dyn std::error::Error>> {
//!     Ok(Peer::Node { own: Arc::new(authority.issue(own)?), name: name.into() })
//! };
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let address = listener.local_addr()?;
//! let dir = tempfile::tempdir()?;
//! let receiver = Receiver::listen(listener, peer("lund", "oslo")?, Options::default(), dir.path());
//! let receiving = std::thread::spawn(move || receiver.run(&mut NoPages));
//!
//! let dial = move |within| TcpStream::connect_timeout(&address, within);
//! let mut sender = Sender::open(dial, peer("oslo", "lund")?, Options::default())?;
//! # let images = tempfile::tempdir()?;
//! # std::fs::write(images.path().join("core-1.img"), b"state")?;
//! sender.dir(images.path(), |name| name.ends_with(".img"))?;
//! assert_eq!(sender.finish()?, receiving.join().unwrap()?);
//! # Ok(())
//! # }
//! ```

pub mod identity;

mod bucket;
mod channel;
mod choose;
mod connect;
mod duplicates;
mod error;
mod file;
mod frame;
mod hello;
mod options;
mod progress;
mod receive;
mod requests;
mod send;
mod sink;
mod squeeze;
mod v1;
mod wire;

pub use channel::Channel;
pub use connect::{Dial, Incoming};
pub use error::StreamError;
pub use identity::{Authority, Credentials, IdentityError};
pub use options::{Compression, Options, Peer};
pub use progress::Progress;
pub use receive::{Ender, Receiver};
pub use requests::{Pager, Want};
pub use send::{Canceller, Requests, Sender};
pub use sink::{NoPages, PAGE, PageSink};
