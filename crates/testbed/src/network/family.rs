//! Every address of a testbed has a twin of IPv6, where the kernel has that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use godwit_net::{Prefix, Route};

/// As an address of any family.
pub(super) fn v4(address: Ipv4Addr) -> IpAddr {
    IpAddr::V4(address)
}

/// The same of IPv6, in a prefix of unique local addresses (RFC 4193).
fn v6(address: Ipv4Addr) -> IpAddr {
    const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd67, 0x6f64, 0x7769, 0x7400, 0, 0, 0, 0);
    Ipv6Addr::from_bits(PREFIX.to_bits() | u128::from(address.to_bits())).into()
}

/// All addresses of each family that the kernel has.
pub(crate) fn any_address() -> IpAddr {
    if has_v6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// An address of each family that the kernel has.
pub(super) fn both(address: Ipv4Addr) -> impl Iterator<Item = IpAddr> {
    [Some(v4(address)), has_v6().then(|| v6(address))].into_iter().flatten()
}

/// The route to everywhere, of the family of an address.
pub(super) fn default_route(ip: IpAddr) -> Route {
    Route::to(if ip.is_ipv4() { Prefix::default_v4() } else { Prefix::default_v6() })
}

/// Whether this kernel has IPv6.
pub(crate) fn has_v6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}
