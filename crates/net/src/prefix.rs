//! An address with a prefix length, as routes and rules name their destinations.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::NetError;

/// An IPv4 or IPv6 prefix, e.g. `10.1.0.0/16` or `fd00::7/128`.
///
/// ```
/// use godwit_net::Prefix;
/// let p: Prefix = "10.1.0.0/16".parse()?;
/// assert!(p.contains("10.1.2.3".parse().unwrap()));
/// assert_eq!(Prefix::host("fd00::7".parse().unwrap()).to_string(), "fd00::7/128");
/// # Ok::<(), godwit_net::NetError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// A prefix of `len` bits; refused if `len` is more than the address has.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, NetError> {
        if len > bits(addr) {
            return Err(NetError::BadPrefix { text: format!("{addr}/{len}") });
        }
        Ok(Self { addr, len })
    }

    /// The prefix that holds this address only.
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: bits(addr) }
    }

    /// `0.0.0.0/0`.
    pub const fn default_v4() -> Self {
        Self { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 }
    }

    /// `::/0`.
    pub const fn default_v6() -> Self {
        Self { addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED), len: 0 }
    }

    /// The address as given (not masked: an interface address keeps its host part).
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// The prefix length in bits.
    #[allow(clippy::len_without_is_empty)] // a length in bits, not a collection's
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether `ip` lies within.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => shift32(a.to_bits() ^ b.to_bits(), self.len) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => shift128(a.to_bits() ^ b.to_bits(), self.len) == 0,
            _ => false,
        }
    }
}

fn bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn shift32(x: u32, len: u8) -> u32 {
    x.checked_shr(32 - u32::from(len)).unwrap_or(0)
}

fn shift128(x: u128, len: u8) -> u128 {
    x.checked_shr(128 - u32::from(len)).unwrap_or(0)
}

impl From<IpAddr> for Prefix {
    fn from(addr: IpAddr) -> Self {
        Self::host(addr)
    }
}

impl FromStr for Prefix {
    type Err = NetError;
    fn from_str(s: &str) -> Result<Self, NetError> {
        let bad = || NetError::BadPrefix { text: s.to_owned() };
        match s.split_once('/') {
            None => s.parse().map(Self::host).map_err(|_| bad()),
            Some((a, l)) => {
                let addr = a.parse().map_err(|_| bad())?;
                Self::new(addr, l.parse().map_err(|_| bad())?)
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_looks_at_the_prefix_bits_only() {
        let p: Prefix = "10.7.0.0/16".parse().unwrap();
        assert!(p.contains("10.7.255.1".parse().unwrap()));
        assert!(!p.contains("10.8.0.1".parse().unwrap()));
        assert!(!p.contains("fd00::1".parse().unwrap()));
        assert!(Prefix::default_v4().contains("1.2.3.4".parse().unwrap()));
        assert!(Prefix::default_v6().contains("fd00::1".parse().unwrap()));
        let host: Prefix = "fd00::1".parse().unwrap();
        assert_eq!(host.len(), 128);
        assert!(!host.contains("fd00::2".parse().unwrap()));
    }

    #[test]
    fn refuses_what_is_no_prefix() {
        for text in ["10.0.0.0/33", "fd00::/129", "10.0.0/8", "x", "", "10.0.0.1/"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
