//! Pings of the user's to the service address, and what comes back.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::bed::Bed;
use super::service::{address, of_the_user};
use super::until;

/// Between two.
const PERIOD: Duration = Duration::from_millis(2);
/// After the last one no answer is waited for longer than this.
const LAST: Duration = Duration::from_secs(3);

/// A flood of pings under way: numbered echo requests.
#[derive(Debug)]
pub struct Pings {
    sender: JoinHandle<u16>,
    receiver: JoinHandle<Seen>,
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
}

/// What came back.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often each number was answered.
    pub answers: BTreeMap<u16, u32>,
    /// Types of ICMP messages that are neither ours nor answers to us: "unreachable" and the like.
    pub errors: Vec<u8>,
}

impl Pings {
    /// To the address that `status` names in `field`.
    pub fn start(bed: &Bed, field: &str) -> Self {
        let service = address(bed, "app", field).ip();
        let socket = of_the_user(bed, move || {
            let (domain, protocol) = match service {
                IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
                IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
            };
            Socket::new(domain, Type::RAW, Some(protocol)).expect("a raw socket")
        });
        socket.set_read_timeout(Some(LAST / 10)).expect("a time");
        let (ends, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let sender = {
            let (socket, ends) = (socket.try_clone().expect("a descriptor"), Arc::clone(&ends));
            thread::spawn(move || {
                let mut sent = 0;
                while !ends.load(Ordering::Relaxed) {
                    socket.send_to(&request(service, sent), &SocketAddr::new(service, 0).into()).expect("it is sent");
                    sent += 1;
                    thread::sleep(PERIOD);
                }
                sent
            })
        };
        let (count, done) = (Arc::clone(&answered), Arc::clone(&ends));
        let receiver = thread::spawn(move || receive(socket, service, &count, &done));
        Self { sender, receiver, ends, answered }
    }

    /// Waits for a hundred further answers.
    pub fn until_more_are_answered(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        until("answers to pings", || (self.answered.load(Ordering::Relaxed) > before + 100).then_some(()));
    }

    /// Each was answered, once, and nothing was unreachable.
    #[track_caller]
    pub fn were_all_answered(self) {
        self.ends.store(true, Ordering::Relaxed);
        let (sent, seen) = (self.sender.join().expect("it sends"), self.receiver.join().expect("it receives"));
        assert_eq!(seen.errors, [0u8; 0], "ICMP errors");
        let missing: Vec<u16> = (0..sent).filter(|number| !seen.answers.contains_key(number)).collect();
        let twice: Vec<_> = seen.answers.iter().filter(|(_, times)| **times > 1).collect();
        assert!(missing.is_empty() && twice.is_empty(), "of {sent}: lost {missing:?}, answered twice {twice:?}");
    }
}

const IDENTIFIER: [u8; 2] = *b"GW";

/// An echo request; the kernel fills in the checksum of ICMPv6.
fn request(service: IpAddr, number: u16) -> [u8; 8] {
    let [high, low] = number.to_be_bytes();
    let mut packet = [if service.is_ipv4() { 8 } else { 128 }, 0, 0, 0, IDENTIFIER[0], IDENTIFIER[1], high, low];
    if service.is_ipv4() {
        let sum: u32 = packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    packet
}

fn receive(mut socket: Socket, service: IpAddr, count: &AtomicU32, done: &AtomicBool) -> Seen {
    // IPv4 gives the IP header with it.
    let (header, reply) = if service.is_ipv4() { (20, 0) } else { (0, 129) };
    let (mut seen, mut buffer, mut last) = (Seen::default(), [0; 256], Instant::now());
    // Others speak here too: probes of RTT never cease.
    while !(done.load(Ordering::Relaxed) && last.elapsed() > LAST) {
        let Ok(len) = socket.read(&mut buffer) else { continue };
        match buffer[header..len.max(header)] {
            [kind, _, _, _, a, b, high, low] if (kind, [a, b]) == (reply, IDENTIFIER) => {
                *seen.answers.entry(u16::from_be_bytes([high, low])).or_default() += 1;
                count.fetch_add(1, Ordering::Relaxed);
                last = Instant::now();
            }
            // Requests, and what neighbours say to each other.
            [8, ..] if header > 0 => {}
            [128 | 133..=137, ..] if header == 0 => {}
            [kind, ..] => seen.errors.push(kind),
            [] => {}
        }
    }
    seen
}
