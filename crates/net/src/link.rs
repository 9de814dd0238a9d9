//! A link with delay, whoever keeps it.

use std::net::IpAddr;
use std::time::Duration;

use crate::{DelayLink, LinkConfig, LinkStats, NetemLink, Result};

/// Who keeps a link's delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// A thread of this process; works on every kernel with TUN, and keeps everything that [`DelayLink`] promises.
    #[default]
    Userspace,
    /// The kernel, where it has netem; takes no processor from this process. See [`NetemLink`] for what differs.
    Netem,
}

/// A link with delay, by either backend.
#[derive(Debug)]
#[non_exhaustive]
pub enum Link {
    /// Kept by a thread.
    Userspace(DelayLink),
    /// Kept by the kernel.
    Netem(Box<NetemLink>),
}

impl Link {
    /// Makes the link.
    pub fn spawn(config: LinkConfig<'_>, backend: Backend) -> Result<Self> {
        match backend {
            Backend::Userspace => DelayLink::spawn(config).map(Self::Userspace),
            Backend::Netem => NetemLink::spawn(config).map(Box::new).map(Self::Netem),
        }
    }

    /// Sets the one-way delay of packets of no particular peer.
    pub fn set_delay(&self, one_way: Duration) -> Result<()> {
        match self {
            Self::Userspace(link) => {
                link.set_delay(one_way);
                Ok(())
            }
            Self::Netem(link) => link.set_delay(one_way),
        }
    }

    /// Sets the one-way delay of packets from or to `peer`.
    pub fn set_peer_delay(&self, peer: IpAddr, one_way: Duration) -> Result<()> {
        match self {
            Self::Userspace(link) => {
                link.set_peer_delay(peer, one_way);
                Ok(())
            }
            Self::Netem(link) => link.set_peer_delay(peer, one_way),
        }
    }

    /// Lets packets of `peer` take the default delay again.
    pub fn clear_peer_delay(&self, peer: IpAddr) -> Result<()> {
        match self {
            Self::Userspace(link) => {
                link.clear_peer_delay(peer);
                Ok(())
            }
            Self::Netem(link) => link.clear_peer_delay(peer),
        }
    }

    /// Sets the loss probability, 0 to 1.
    pub fn set_loss(&self, probability: f64) -> Result<()> {
        match self {
            Self::Userspace(link) => link.set_loss(probability),
            Self::Netem(link) => link.set_loss(probability),
        }
    }

    /// What went over the link so far.
    pub fn stats(&self) -> Result<LinkStats> {
        match self {
            Self::Userspace(link) => Ok(link.stats()),
            Self::Netem(link) => link.stats(),
        }
    }
}
