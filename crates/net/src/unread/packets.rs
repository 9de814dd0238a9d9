//! Datagrams as packets. Sources: RFC 768, RFC 791, RFC 8200.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Packet;
use crate::checksum::Sum;

const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const HOPS: u8 = 64;
/// Every link of IPv6 takes packets of this size, and no router cuts larger ones.
const SMALLEST_MTU: usize = 1280;

/// The packet of a datagram; several where IPv6 would not let it through in one.
pub(super) fn of(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<Packet> {
    match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let pseudo = Sum::of(&src.octets()).add(&dst.octets());
            vec![Packet::from_bytes(v4(src, dst, &udp(pseudo, from.port(), to.port(), payload)))]
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let pseudo = Sum::of(&src.octets()).add(&dst.octets());
            v6(src, dst, &udp(pseudo, from.port(), to.port(), payload)).into_iter().map(Packet::from_bytes).collect()
        }
        _ => Vec::new(),
    }
}

/// Header and payload.
fn udp(pseudo: Sum, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len();
    let mut datagram = Vec::with_capacity(len);
    for field in [from, to, len as u16, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    let sum = pseudo.add(&[0, UDP]).add(&(len as u32).to_be_bytes()).add(&datagram).finish();
    // Zero would mean: none.
    datagram[6..8].copy_from_slice(&(if sum == 0 { u16::MAX } else { sum }).to_be_bytes());
    datagram
}

/// Routers may cut it.
fn v4(src: Ipv4Addr, dst: Ipv4Addr, datagram: &[u8]) -> Vec<u8> {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((20 + datagram.len()) as u16).to_be_bytes());
    header[4..6].copy_from_slice(&(number() as u16).to_be_bytes());
    (header[8], header[9]) = (HOPS, UDP);
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let sum = Sum::of(&header).finish();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header, datagram].concat()
}

fn v6(src: Ipv6Addr, dst: Ipv6Addr, datagram: &[u8]) -> Vec<Vec<u8>> {
    let packet = |next: u8, body: &[u8]| {
        let mut header = [0; 40];
        header[0] = 0x60;
        header[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
        (header[6], header[7]) = (next, HOPS);
        header[8..24].copy_from_slice(&src.octets());
        header[24..40].copy_from_slice(&dst.octets());
        [&header, body].concat()
    };
    if 40 + datagram.len() <= SMALLEST_MTU {
        return vec![packet(UDP, datagram)];
    }
    // All but the last are a multiple of 8 bytes long.
    const PART: usize = (SMALLEST_MTU - 48) / 8 * 8;
    let (number, count) = (number(), datagram.len().div_ceil(PART));
    let fragment = |(nth, part): (usize, &[u8])| {
        let place = (nth * PART) as u16 | u16::from(nth + 1 < count);
        let header = [&[UDP, 0][..], &place.to_be_bytes(), &number.to_be_bytes(), part];
        packet(FRAGMENT, &header.concat())
    };
    datagram.chunks(PART).enumerate().map(fragment).collect()
}

/// Of a packet that may be, or is, in fragments. Not one after the other as the sender's own are.
fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0x7769_6400);
    NEXT.fetch_add(0x9e37_79b1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn checksums_are_right_and_nothing_is_missing(payload in prop::collection::vec(any::<u8>(), 0..5000), port: u16) {
            for (from, to) in [("10.0.0.1:9", "10.0.0.2:7"), ("[fd00::1]:9", "[fd00::2]:7")] {
                let (mut from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
                from.set_port(port);
                let packets = of(from, to, &payload);
                let mut datagram = Vec::new();
                for packet in &packets {
                    let bytes = packet.bytes();
                    prop_assert_eq!((packet.src(), packet.dst()), (Some(from.ip()), Some(to.ip())));
                    let header = match (from.is_ipv4(), bytes[6]) {
                        (true, _) => 20,
                        (false, FRAGMENT) => 48,
                        (false, _) => 40,
                    };
                    if from.is_ipv4() {
                        prop_assert_eq!(Sum::of(&bytes[..20]).finish(), 0);
                    } else {
                        prop_assert!(bytes.len() <= SMALLEST_MTU);
                    }
                    datagram.extend(&bytes[header..]);
                }
                prop_assert_eq!(&datagram[8..], &payload[..]);
                let pseudo = match (from.ip(), to.ip()) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => Sum::of(&a.octets()).add(&b.octets()),
                    (IpAddr::V6(a), IpAddr::V6(b)) => Sum::of(&a.octets()).add(&b.octets()),
                    _ => unreachable!(),
                };
                let sum = pseudo.add(&[0, UDP]).add(&(datagram.len() as u32).to_be_bytes()).add(&datagram).finish();
                prop_assert_eq!(sum, 0);
            }
        }
    }
}
