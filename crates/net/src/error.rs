//! What can go wrong, said with the namespace and device it went wrong at.

use std::io;
use std::time::Duration;

/// Result of this crate's operations.
pub type Result<T, E = NetError> = std::result::Result<T, E>;

/// An operation on namespaces, links or packets that did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// A step of a namespace's life failed; `EPERM` mostly means: not root.
    #[error("namespace {ns}: cannot {action}{}", hint(source))]
    Netns {
        /// The namespace's name.
        ns: String,
        /// What was tried, as a verb phrase.
        action: String,
        /// What the system said.
        source: io::Error,
    },

    /// A namespace of that name is already there.
    #[error("namespace {ns} exists already: pick another name, or remove it with `ip netns del {ns}`")]
    NetnsExists {
        /// The namespace's name.
        ns: String,
    },

    /// There is no namespace of that name.
    #[error("no namespace {ns}: `ip netns` lists those there are")]
    NoNetns {
        /// The namespace's name.
        ns: String,
    },

    /// A name that the kernel or the file system would refuse.
    #[error("{name:?} is no good as the name of a {what}: {why}")]
    BadName {
        /// The refused name.
        name: String,
        /// What it was to be the name of.
        what: &'static str,
        /// Which rule it breaks.
        why: &'static str,
    },

    /// A prefix or address that does not parse or does not fit.
    #[error("{text:?} is not an address or prefix: expected e.g. 10.0.0.0/8 or fd00::1")]
    BadPrefix {
        /// The refused text.
        text: String,
    },

    /// The kernel refused a netlink request.
    #[error("namespace {ns}: cannot {action}{}{}", said(kernel), hint(source))]
    Netlink {
        /// The namespace that the request was made in.
        ns: String,
        /// What was asked for.
        action: String,
        /// The kernel's own explanation (extended acknowledgement), where it gave one.
        kernel: Option<String>,
        /// The errno of the answer.
        source: io::Error,
    },

    /// The kernel did not answer a netlink request in time. Whether it was carried out is unknown.
    #[error("namespace {ns}: no answer within {after:?} when asked to {action}")]
    NetlinkTimeout {
        /// The namespace that the request was made in.
        ns: String,
        /// What was asked for.
        action: String,
        /// How long was waited.
        after: Duration,
    },

    /// There is no device of that name.
    #[error("no device {dev} in namespace {ns}: `ip -n {ns} link` lists those there are")]
    NoDevice {
        /// The namespace that was searched.
        ns: String,
        /// The missing device.
        dev: String,
    },

    /// A TUN device could not be made or used.
    #[error("namespace {ns}, device {dev}: cannot {action}{}", tun_hint(source))]
    Tun {
        /// The namespace of the device.
        ns: String,
        /// The device.
        dev: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// The hold does not capture that address.
    #[error("hold {dev} does not capture {service}: capture it first")]
    NotCaptured {
        /// The hold's device.
        dev: String,
        /// The service address that was asked for.
        service: std::net::IpAddr,
    },

    /// A thread or event descriptor could not be had.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// A link's setting that makes no sense, or that its backend cannot provide.
    #[error("link {link}: {why}")]
    BadLink {
        /// The device name of the link's first end.
        link: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

impl NetError {
    /// The errno below this error, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Netns { source, .. }
            | Self::Netlink { source, .. }
            | Self::Tun { source, .. }
            | Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// True if the kernel said that the thing (route, rule, device, address) is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoNetns { .. } | Self::NoDevice { .. })
            || matches!(self.errno(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL))
    }

    /// True if the thing to be made is there already.
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::NetnsExists { .. }) || self.errno() == Some(libc::EEXIST)
    }

    pub(crate) fn netns(ns: &str, action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Netns { ns: ns.to_owned(), action: action.into(), source: source.into() }
    }

    pub(crate) fn tun(ns: &str, dev: &str, action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Tun { ns: ns.to_owned(), dev: dev.to_owned(), action, source: source.into() }
    }

    pub(crate) fn system(action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::System { action, source: source.into() }
    }
}

fn hint(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (needs root, CAP_SYS_ADMIN and CAP_NET_ADMIN)",
        Some(libc::ENETUNREACH) => " (the next hop is not on a connected prefix: add its address first, or use onlink)",
        Some(libc::EOPNOTSUPP) => " (this kernel lacks the feature)",
        _ => "",
    }
}

fn tun_hint(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV) => " (is /dev/net/tun there? try `modprobe tun`)",
        Some(libc::EPERM | libc::EACCES) => {
            " (needs root, CAP_NET_ADMIN, and /dev/net/tun allowed by the devices cgroup)"
        }
        Some(libc::EBUSY) => " (a device of that name is there already)",
        _ => "",
    }
}

fn said(kernel: &Option<String>) -> String {
    kernel.as_ref().map(|k| format!(": {k}")).unwrap_or_default()
}
