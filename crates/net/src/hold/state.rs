//! What a hold keeps, by service address.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use super::{Packet, ReleaseStats};

/// Where replayed packets go: the hold's device, or a list in tests.
pub(super) trait Sink {
    fn replay(&self, packet: &[u8]) -> io::Result<()>;
}

impl Sink for crate::tun::Tun {
    fn replay(&self, packet: &[u8]) -> io::Result<()> {
        self.write(packet)
    }
}

/// What a hold has for one service address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldStats {
    /// Packets kept now.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets dropped since the capture, because the hold was full.
    pub dropped: u64,
}

/// So many datagrams fit into the queue of a socket with the kernel's default size, whatever theirs is on a usual link.
pub(super) const AT_ONCE: u32 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Packets are kept.
    Keep,
    /// Those that ask for a new TCP connection are kept, all others handed on at once.
    KeepConnects,
    /// Packets are handed on at once: stragglers after a release.
    Pass,
}

/// Packets handed on since the release began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) refused: u64,
}

struct Service {
    mode: Mode,
    since: Instant,
    queue: VecDeque<Packet>,
    bytes: u64,
    prepended: u64,
    dropped: u64,
    passed: Passed,
}

impl Service {
    fn new(mode: Mode, since: Instant) -> Self {
        let passed = Passed::default();
        Self { mode, since, queue: VecDeque::new(), bytes: 0, prepended: 0, dropped: 0, passed }
    }
}

/// Everything that a hold keeps.
pub(super) struct State {
    services: HashMap<IpAddr, Service>,
    bytes: u64,
    max_bytes: u64,
    /// Service addresses that have a route in the hold's own table.
    pub(super) routed: HashSet<IpAddr>,
}

impl State {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { services: HashMap::new(), bytes: 0, max_bytes, routed: HashSet::new() }
    }

    pub(super) fn knows(&self, service: IpAddr) -> bool {
        self.services.contains_key(&service)
    }

    /// Begins to keep; returns the mode from before, for [`restore`](Self::restore). Keeps on if it does already.
    pub(super) fn capture(&mut self, service: IpAddr, mode: Mode, now: Instant) -> Option<Mode> {
        let found = self.services.get_mut(&service);
        let before = found.as_ref().map(|s| s.mode);
        match found {
            Some(kept) if kept.mode != Mode::Pass => kept.mode = mode,
            _ => drop(self.services.insert(service, Service::new(mode, now))),
        }
        before
    }

    /// Undoes a capture that did not come about.
    pub(super) fn restore(&mut self, service: IpAddr, before: Option<Mode>) {
        match before {
            None => drop(self.remove(service)),
            Some(mode) => {
                if let Some(s) = self.services.get_mut(&service) {
                    s.mode = mode;
                }
            }
        }
    }

    /// A packet came in by the device.
    pub(super) fn arrived(&mut self, packet: &[u8], sink: &impl Sink) {
        let dst = crate::delay::addresses(packet).map(|(_, dst)| dst);
        let Some(service) = dst.and_then(|dst| self.services.get_mut(&dst)) else { return };
        match service.mode {
            Mode::Pass => pass(&mut service.passed, packet, sink),
            Mode::KeepConnects if !crate::delay::is_connect(packet) => pass(&mut service.passed, packet, sink),
            _ if self.bytes + packet.len() as u64 > self.max_bytes => service.dropped += 1,
            Mode::Keep | Mode::KeepConnects => {
                self.bytes += packet.len() as u64;
                service.bytes += packet.len() as u64;
                service.queue.push_back(Packet::from_bytes(packet.to_vec()));
            }
        }
    }

    pub(super) fn take(&mut self, service: IpAddr) -> Vec<Packet> {
        let Some(s) = self.services.get_mut(&service) else { return Vec::new() };
        self.bytes -= std::mem::take(&mut s.bytes);
        s.prepended = 0;
        std::mem::take(&mut s.queue).into()
    }

    pub(super) fn prepend(&mut self, service: IpAddr, packets: Vec<Packet>) {
        let Some(s) = self.services.get_mut(&service) else { return };
        for packet in packets.into_iter().rev() {
            let len = packet.bytes().len() as u64;
            self.bytes += len;
            s.bytes += len;
            s.prepended += 1;
            s.queue.push_front(packet);
        }
    }

    /// Replays what is kept; from now on packets pass. After each [`AT_ONCE`] datagrams `pace` sees to it that there is
    /// room for more of them.
    pub(super) fn begin_release(
        &mut self,
        service: IpAddr,
        sink: &impl Sink,
        now: Instant,
        pace: &mut dyn FnMut(),
    ) -> ReleaseStats {
        let Some(s) = self.services.get_mut(&service) else { return ReleaseStats::default() };
        let mut replayed = Passed::default();
        let mut datagrams = 0;
        for packet in std::mem::take(&mut s.queue) {
            pass(&mut replayed, packet.bytes(), sink);
            datagrams += u32::from(crate::delay::is_datagram(packet.bytes()));
            if datagrams == AT_ONCE {
                datagrams = 0;
                pace();
            }
        }
        self.bytes -= std::mem::take(&mut s.bytes);
        s.mode = Mode::Pass;
        s.passed = Passed::default();
        ReleaseStats {
            packets: replayed.packets,
            bytes: replayed.bytes,
            refused: replayed.refused,
            prepended: std::mem::take(&mut s.prepended),
            dropped: s.dropped,
            held: now.duration_since(s.since),
            ..ReleaseStats::default()
        }
    }

    pub(super) fn passed(&self, service: IpAddr) -> u64 {
        self.services.get(&service).map_or(0, |s| s.passed.packets)
    }

    pub(super) fn end_release(&mut self, service: IpAddr) -> Passed {
        self.services.get(&service).map(|s| s.passed).unwrap_or_default()
    }

    pub(super) fn remove(&mut self, service: IpAddr) -> Vec<Packet> {
        let kept = self.take(service);
        self.services.remove(&service);
        kept
    }

    pub(super) fn stats(&self, service: IpAddr) -> HoldStats {
        self.services.get(&service).map_or_else(HoldStats::default, |s| HoldStats {
            packets: s.queue.len() as u64,
            bytes: s.bytes,
            dropped: s.dropped,
        })
    }

    /// For which services something is kept, or would be.
    pub(super) fn keeping(&self) -> Vec<IpAddr> {
        self.services.iter().filter(|(_, s)| s.mode != Mode::Pass).map(|(ip, _)| *ip).collect()
    }
}

fn pass(count: &mut Passed, packet: &[u8], sink: &impl Sink) {
    match sink.replay(packet) {
        Ok(()) => {
            count.packets += 1;
            count.bytes += packet.len() as u64;
        }
        Err(_) => count.refused += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Seen(RefCell<Vec<u8>>);

    impl Sink for Seen {
        fn replay(&self, packet: &[u8]) -> io::Result<()> {
            self.0.borrow_mut().push(packet[20]);
            Ok(())
        }
    }

    fn service(n: u8) -> IpAddr {
        [10, 99, 0, n].into()
    }

    fn packet(to: u8, id: u8) -> Vec<u8> {
        let mut p = vec![0u8; 21];
        p[0] = 0x45;
        p[16..20].copy_from_slice(&[10, 99, 0, to]);
        p[20] = id;
        p
    }

    #[test]
    fn replays_prepended_then_captured_then_late_ones() {
        let (mut state, seen) = (State::new(1000), Seen::default());
        state.capture(service(1), Mode::Keep, Instant::now());
        state.arrived(&packet(1, 3), &seen);
        state.arrived(&packet(1, 4), &seen);
        state.prepend(service(1), vec![Packet::from_bytes(packet(1, 1)), Packet::from_bytes(packet(1, 2))]);
        let stats = state.begin_release(service(1), &seen, Instant::now(), &mut || ());
        state.arrived(&packet(1, 5), &seen);
        assert_eq!(*seen.0.borrow(), [1, 2, 3, 4, 5]);
        assert_eq!((stats.packets, stats.prepended, stats.bytes), (4, 2, 84));
        assert_eq!(state.end_release(service(1)).packets, 1);
        assert_eq!(state.bytes, 0);
    }

    #[test]
    fn services_are_kept_apart_and_others_packets_are_ignored() {
        let (mut state, seen) = (State::new(1000), Seen::default());
        state.capture(service(1), Mode::Keep, Instant::now());
        state.capture(service(2), Mode::Keep, Instant::now());
        state.arrived(&packet(1, 1), &seen);
        state.arrived(&packet(2, 2), &seen);
        state.arrived(&packet(3, 3), &seen);
        state.begin_release(service(2), &seen, Instant::now(), &mut || ());
        assert_eq!(*seen.0.borrow(), [2]);
        assert_eq!(state.stats(service(1)).packets, 1);
        assert_eq!(state.take(service(1)), [Packet::from_bytes(packet(1, 1))]);
    }

    #[test]
    fn a_full_hold_drops_the_newest_and_counts() {
        let (mut state, seen) = (State::new(50), Seen::default());
        state.capture(service(1), Mode::Keep, Instant::now());
        for id in 0..4 {
            state.arrived(&packet(1, id), &seen);
        }
        assert_eq!(state.stats(service(1)), HoldStats { packets: 2, bytes: 42, dropped: 2 });
        state.take(service(1));
        state.arrived(&packet(1, 9), &seen);
        assert_eq!(state.stats(service(1)).packets, 1);
    }

    #[test]
    fn capturing_twice_keeps_what_is_kept() {
        let (mut state, seen) = (State::new(1000), Seen::default());
        assert_eq!(state.capture(service(1), Mode::Keep, Instant::now()), None);
        state.arrived(&packet(1, 1), &seen);
        assert_eq!(state.capture(service(1), Mode::Keep, Instant::now()), Some(Mode::Keep));
        assert_eq!(state.stats(service(1)).packets, 1);
    }

    #[test]
    fn datagrams_wait_for_their_reader_now_and_then() {
        let (mut state, seen) = (State::new(1 << 20), Seen::default());
        state.capture(service(1), Mode::Keep, Instant::now());
        for id in 0..100 {
            let mut datagram = packet(1, id);
            datagram[9] = if id < 80 { 17 } else { 6 };
            state.arrived(&datagram, &seen);
        }
        let mut waits = Vec::new();
        state.begin_release(service(1), &seen, Instant::now(), &mut || waits.push(seen.0.borrow().len()));
        assert_eq!((waits, seen.0.borrow().len()), (vec![32, 64], 100));
    }

    #[test]
    fn who_asks_for_a_connection_waits_and_the_others_do_not() {
        let (mut state, seen) = (State::new(1000), Seen::default());
        let tcp = |id: u8, flags: u8| {
            let mut p = [packet(1, id), vec![0u8; 19]].concat();
            (p[9], p[33]) = (6, flags);
            p
        };
        assert_eq!(state.capture(service(1), Mode::KeepConnects, Instant::now()), None);
        state.arrived(&tcp(1, 0x02), &seen);
        state.arrived(&tcp(2, 0x10), &seen);
        assert_eq!(*seen.0.borrow(), [2]);
        assert_eq!(state.capture(service(1), Mode::Keep, Instant::now()), Some(Mode::KeepConnects));
        state.arrived(&tcp(3, 0x10), &seen);
        assert_eq!(state.begin_release(service(1), &seen, Instant::now(), &mut || ()).packets, 2);
        assert_eq!(*seen.0.borrow(), [2, 1, 3]);
    }
}
