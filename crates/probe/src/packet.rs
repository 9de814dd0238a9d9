//! ICMP and ICMPv6 echo on the wire (RFC 792, RFC 4443 section 4).
//!
//! ```text
//!   0       1       2               4               6               8
//!   ┌───────┬───────┬───────────────┬───────────────┬───────────────┐
//!   │ type  │ 0     │ checksum      │ identifier    │ sequence      │
//!   ├───────┴───────┴───────────────┴───────────────┴───────────────┤
//!   │ payload: secret (8), target (8), number (8), zeros to 56      │
//!   └───────────────────────────────────────────────────────────────┘
//! ```

/// Echo type codes of a protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

impl Version {
    fn request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    fn reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

const HEADER: usize = 8;
/// As much as ping(8) sends.
pub(crate) const LEN: usize = HEADER + 56;

/// What an echo carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo {
    /// Of this prober, so that no other's echoes are taken.
    pub(crate) secret: u64,
    /// Index of the target.
    pub(crate) target: u64,
    /// The probe's number; its low 16 bits are the sequence number.
    pub(crate) number: u64,
}

impl Echo {
    /// A request. The checksum is right for IPv4; for IPv6 the kernel puts in its own (RFC 3542 section 3.1).
    pub(crate) fn request(&self, version: Version, ident: u16) -> [u8; LEN] {
        let mut packet = [0; LEN];
        packet[0] = version.request();
        packet[4..6].copy_from_slice(&ident.to_be_bytes());
        packet[6..8].copy_from_slice(&(self.number as u16).to_be_bytes());
        for (field, value) in [self.secret, self.target, self.number].into_iter().enumerate() {
            packet[HEADER + 8 * field..][..8].copy_from_slice(&value.to_be_bytes());
        }
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// Reads the answer to a request with that secret; `None` for everything else that comes along. `ident` is `None`
    /// where the kernel chose and checks it (ping sockets).
    pub(crate) fn reply(packet: &[u8], version: Version, ident: Option<u16>, secret: u64) -> Option<Self> {
        let header = packet.first_chunk::<HEADER>()?;
        let field = |n: usize| {
            let bytes = packet.get(HEADER + 8 * n..)?.first_chunk::<8>()?;
            Some(u64::from_be_bytes(*bytes))
        };
        let of_header = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let echo = Self { secret: field(0)?, target: field(1)?, number: field(2)? };
        let is_ours = header[0] == version.reply()
            && header[1] == 0
            && ident.is_none_or(|ident| ident == of_header(4))
            && of_header(6) == echo.number as u16
            && echo.secret == secret;
        is_ours.then_some(echo)
    }
}

/// The ICMP message within an IPv4 packet, as a raw socket delivers it.
pub(crate) fn skip_ipv4_header(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    if first >> 4 != 4 {
        return None;
    }
    packet.get(usize::from(first & 0xf) * 4..)
}

/// The Internet checksum, RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ECHO: Echo = Echo { secret: 0x1234_5678_9abc_def0, target: 3, number: 0x1_0007 };

    fn answer(version: Version) -> [u8; LEN] {
        let mut packet = ECHO.request(version, 77);
        packet[0] = version.reply();
        packet
    }

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        assert_eq!(checksum(&ECHO.request(Version::V4, 77)), 0);
        assert_eq!(checksum(&[0x45, 0x00, 0x00]), !0x4500);
    }

    #[test]
    fn only_our_own_answers_are_taken() {
        for version in [Version::V4, Version::V6] {
            assert_eq!(Echo::reply(&answer(version), version, Some(77), ECHO.secret), Some(ECHO));
            assert_eq!(Echo::reply(&answer(version), version, None, ECHO.secret), Some(ECHO));
            assert_eq!(Echo::reply(&answer(version), version, Some(78), ECHO.secret), None);
            assert_eq!(Echo::reply(&answer(version), version, Some(77), 1), None);
            assert_eq!(Echo::reply(&ECHO.request(version, 77), version, Some(77), ECHO.secret), None);
            let mut stale = answer(version);
            stale[7] ^= 1;
            assert_eq!(Echo::reply(&stale, version, Some(77), ECHO.secret), None);
        }
    }

    proptest! {
        #[test]
        fn noise_neither_panics_nor_passes(noise in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(Echo::reply(&noise, Version::V4, None, ECHO.secret), None);
            if let Some(rest) = skip_ipv4_header(&noise) {
                prop_assert!(rest.len() <= noise.len());
            }
        }
    }
}
