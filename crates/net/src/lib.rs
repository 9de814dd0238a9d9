//! Godwit's network on one machine: namespaces, links with real delay, routes in microseconds, and the hand-over
//! of a service address without a lost packet.
//!
//! ```text
//!   user ──DelayLink──┐                        ┌──DelayLink── edge1 ──veth── service
//!                     ├── gateway (PacketHold) ┤                  (while it runs here)
//!   user ──DelayLink──┘   SERVICE via edge1    └──DelayLink── edge2 ──veth── service
//!                                  └─► edge2                      (after the switch)
//! ```
//! - [`Netns`]: a named namespace, where `ip netns`, runc and CRIU find it.
//! - [`Netlink`]: an open socket in a namespace for links, addresses, [`Route`]s, neighbours and [`Rule`]s.
//! - [`DelayLink`]: two TUN devices joined by a thread that delays packets, by default and by peer. Beside it
//!   [`NetemLink`], which leaves that to the kernel; [`Link`] is either.
//! - [`PacketHold`]: keeps the packets to a service address and replays them in order to its new place.
//! - [`announce`]: tells a shared link where an address is now, for services whose address is not led by routes.
//! - [`unread_datagrams`]: what a service has got and not read, as packets for the place where it goes on, where its sockets
//!   have [`Room`] for all that is replayed.
//! - [`OrphanPath`]: connections that the service has closed are ended by the kernel that they are in, also after a switch.
//!
//! # What it guarantees
//! - Never early: a packet leaves a [`DelayLink`] no sooner than its delay after it entered; within a peer in order.
//! - Nothing lost, nothing reset: what a [`PacketHold`] captured it replays in order, and no socket sees it before.
//!   What it could not keep or order (full, switch) it counts.
//! - Nothing left: devices are not persistent, owned namespaces are removed on drop; after a `kill -9`
//!   [`Netns::list`] and [`Netns::remove`] find and remove what has a name.
//!
//! # Needs
//! Linux, root (CAP_NET_ADMIN, CAP_SYS_ADMIN; CAP_SYS_NICE for delays that hold under load) and /dev/net/tun.

mod announce;
mod checksum;
mod delay;
mod error;
mod hold;
mod link;
mod netem;
mod netlink;
mod netns;
mod orphans;
mod prefix;
mod sched;
mod tun;
mod unread;

pub use announce::announce;
pub use delay::{DelayLink, DirectionStats, End, LinkConfig, LinkStats};
pub use error::{NetError, Result};
pub use hold::{HoldOptions, HoldStats, Packet, PacketHold, PreparedRelease, ReleaseStats, RouteTo};
pub use link::{Backend, Link};
pub use netem::{NetemLink, netem_supported};
pub use netlink::{Dev, Flow, FoundRoute, LinkInfo, Mac, Netlink, PreparedRoute, Route, Rule, SockDiag};
pub use netns::Netns;
pub use orphans::{Hop, OrphanPath};
pub use prefix::Prefix;
pub use sched::Priority;
pub use tun::tun_supported;
pub use unread::{Room, unread_datagrams};
