//! What to probe and how, and what can go wrong.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use godwit_model::UserName;

use crate::Smoothing;

/// How users are probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// ICMP echo (RFC 792, RFC 4443); for a user who does not answer it, TCP connects to this port, with an ICMP probe
    /// beside them now and then to see whether it answers again.
    Auto {
        /// Open or closed, the answer is a measurement either way.
        port: u16,
    },
    /// ICMP echo only.
    Icmp,
    /// TCP connects only: from the SYN to the SYN-ACK or the RST. The connection is reset at once.
    Tcp {
        /// Open or closed, the answer is a measurement either way.
        port: u16,
    },
}

impl Default for Method {
    /// [`Method::Auto`] with port 7 (echo): closed nearly everywhere, and a RST measures as well.
    fn default() -> Self {
        Self::Auto { port: 7 }
    }
}

/// Whom to probe, how often, and what to make of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeConfig {
    /// The users and their addresses.
    pub targets: Vec<(UserName, IpAddr)>,
    /// Time between two probes of one user; 200 ms. At least 1 ms.
    pub interval: Duration,
    /// A probe without an answer for so long is lost; 900 ms. For TCP at most 900 ms count: after a second the kernel
    /// sends the SYN again, and an answer could be to either (Karn's ambiguity, RFC 6298 section 3).
    pub timeout: Duration,
    /// How.
    pub method: Method,
    /// With [`Method::Auto`]: so many silent probes in a row and the other method is tried; 5.
    pub switch_after: u32,
    /// With [`Method::Auto`], while TCP is used: time between two tries of ICMP; 10 s.
    pub icmp_retry: Duration,
    /// How the figures are smoothed.
    pub smoothing: Smoothing,
}

impl ProbeConfig {
    /// These targets, the rest as documented at the fields.
    pub fn new(targets: impl IntoIterator<Item = (UserName, IpAddr)>) -> Self {
        Self {
            targets: targets.into_iter().collect(),
            interval: Duration::from_millis(200),
            timeout: Duration::from_millis(900),
            method: Method::default(),
            switch_after: 5,
            icmp_retry: Duration::from_secs(10),
            smoothing: Smoothing::default(),
        }
    }
}

/// Why probing does not start or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// No ICMP socket may be opened, and the method knows nothing else.
    #[error("may not open an ICMP socket (needs CAP_NET_RAW, or this group in net.ipv4.ping_group_range)")]
    IcmpNotPermitted(#[source] io::Error),
    /// A socket or pipe could not be set up.
    #[error("cannot set up {what}")]
    Setup {
        /// What it was for.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Waiting on the sockets failed.
    #[error("cannot wait for answers")]
    Poll(#[source] io::Error),
    /// The probing thread panicked.
    #[error("the probing thread panicked")]
    Panicked,
}

impl ProbeError {
    pub(crate) fn setup(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Setup { what, source }
    }
}
