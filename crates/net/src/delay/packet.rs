//! The little that has to be read in a packet: its addresses, and how many segments it stands for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Source and destination of an IP packet; `None` if it is no IP packet or cut off.
pub(crate) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let src: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let dst: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some((Ipv4Addr::from(src).into(), Ipv4Addr::from(dst).into()))
        }
        6 => {
            let src: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let dst: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some((Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into()))
        }
        _ => None,
    }
}

/// Whether it asks for a new TCP connection: a SYN, which is no answer to one.
pub(crate) fn is_connect(packet: &[u8]) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let segment = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.get(9) == Some(&6) => {
            // The first fragment, if it is one: SYNs are small.
            let offset = packet.get(6..8).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]) & 0x1fff);
            if offset == 0 { packet.get(usize::from(packet[0] & 0x0f) * 4..) } else { None }
        }
        Some(6) if packet.get(6) == Some(&6) => packet.get(40..),
        _ => None,
    };
    segment.and_then(|segment| segment.get(13)).is_some_and(|flags| flags & (SYN | ACK) == SYN)
}

/// Whether a packet is of UDP, or a part of it.
pub(crate) fn is_datagram(packet: &[u8]) -> bool {
    const UDP: u8 = 17;
    const FRAGMENT: u8 = 44;
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(9) == Some(&UDP),
        Some(6) => match packet.get(6) {
            Some(&FRAGMENT) => packet.get(40) == Some(&UDP),
            next => next == Some(&UDP),
        },
        _ => false,
    }
}

/// How many packets on a wire a packet behind a `virtio_net_hdr` stands for.
pub(crate) fn segments(frame: &[u8]) -> u64 {
    let field = |at: usize| frame.get(at..at + 2).map_or(0, |b| u64::from(u16::from_ne_bytes([b[0], b[1]])));
    let (headers, size) = (field(2), field(4));
    if frame.get(1).is_none_or(|gso| *gso == 0) || size == 0 {
        return 1;
    }
    let payload = (frame.len() as u64).saturating_sub(crate::tun::VNET_HDR as u64 + headers);
    payload.div_ceil(size).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_connect_is_a_syn_alone() {
        let segment = |flags: u8| {
            let mut tcp = [0u8; 20];
            tcp[13] = flags;
            tcp
        };
        let v4 = |protocol: u8, flags: u8| {
            let mut ip = [0u8; 24];
            (ip[0], ip[9]) = (0x46, protocol);
            [&ip[..], &segment(flags)].concat()
        };
        let mut v6 = [0u8; 40];
        (v6[0], v6[6]) = (0x60, 6);
        assert!(is_connect(&v4(6, 0x02)) && is_connect(&v4(6, 0xc2)), "also with ECN");
        assert!(is_connect(&[&v6[..], &segment(0x02)].concat()));
        assert!(is_datagram(&v4(17, 0)) && !is_datagram(&v4(6, 0)) && !is_datagram(&v6));
        assert!(!is_connect(&v4(6, 0x12)) && !is_connect(&v4(6, 0x10)) && !is_connect(&v4(17, 0x02)));
        assert!(!is_connect(&v4(6, 0x02)[..30]), "cut off");
    }

    #[test]
    fn reads_both_families() {
        let mut v4 = [0u8; 20];
        v4[0] = 0x45;
        v4[12..16].copy_from_slice(&[10, 0, 0, 1]);
        v4[16..20].copy_from_slice(&[10, 0, 0, 2]);
        assert_eq!(addresses(&v4), Some(("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())));
        let mut v6 = [0u8; 40];
        v6[0] = 0x60;
        v6[23] = 1;
        v6[39] = 2;
        assert_eq!(addresses(&v6), Some(("::1".parse().unwrap(), "::2".parse().unwrap())));
        assert_eq!(addresses(&v6[..39]), None);
        assert_eq!(addresses(&[]), None);
    }

    #[test]
    fn a_large_segment_counts_as_many() {
        let mut frame = vec![0u8; 10 + 40 + 3 * 1400 + 1];
        assert_eq!(segments(&frame), 1);
        frame[1] = 1;
        frame[2..4].copy_from_slice(&40u16.to_ne_bytes());
        frame[4..6].copy_from_slice(&1400u16.to_ne_bytes());
        assert_eq!(segments(&frame), 4);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (addresses(&bytes), is_connect(&bytes), is_datagram(&bytes));
            prop_assert!(segments(&bytes) >= 1);
        }
    }
}
