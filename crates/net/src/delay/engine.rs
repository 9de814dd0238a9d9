//! The thread of a link: reads both devices, keeps packets until they are due, writes them to the other one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;

use super::pace::{Pace, Wait};
use super::packet::{addresses, segments};
use super::queue::{Class, DelayQueue, Nanos};
use super::settings::{Settings, Shape};
use super::stats::Counters;
use crate::tun::{Tun, VNET_HDR};

/// Packets read from one device before the other one, and the packets that are due, get their turn.
const BATCH: usize = 64;
const FRAME: usize = VNET_HDR + 65_536;
/// Frames up to here are copied out of the read buffer; larger ones take the buffer with them.
const COPY: usize = 4096;
const SPARE: usize = 256;

pub(super) struct Limits {
    pub(super) queue_bytes: u64,
    pub(super) flight_bytes: u64,
}

struct Frame {
    buffer: Vec<u8>,
    len: usize,
}

/// One way through the link.
#[derive(Default)]
struct Way {
    /// With a rate limit: when the line has sent all that was given to it.
    line_free: Nanos,
    in_flight: u64,
}

/// The shape, in the form in which a packet needs it.
struct Plan {
    shape: Arc<Shape>,
    delay: Nanos,
    jitter: Nanos,
    peers: HashMap<IpAddr, (Class, Nanos)>,
}

pub(super) struct Engine {
    tuns: Arc<[Tun; 2]>,
    settings: Arc<Settings>,
    stats: Arc<Counters>,
    stop: Arc<EventFd>,
    limits: Limits,
    random: SplitMix,
    start: Instant,
    version: u64,
    plan: Plan,
    /// A peer keeps its class for good, so that a change of its delay never reorders its packets.
    classes: HashMap<IpAddr, Class>,
    queue: DelayQueue<Frame>,
    pace: Pace,
    ways: [Way; 2],
    buffer: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Engine {
    pub(super) fn new(
        tuns: Arc<[Tun; 2]>,
        settings: Arc<Settings>,
        stats: Arc<Counters>,
        stop: Arc<EventFd>,
        limits: Limits,
        seed: u64,
    ) -> Self {
        let shape = settings.get();
        let plan = Plan { shape, delay: 0, jitter: 0, peers: HashMap::new() };
        Self {
            tuns,
            settings,
            stats,
            stop,
            limits,
            random: SplitMix(seed),
            start: Instant::now(),
            version: 0,
            plan,
            classes: HashMap::new(),
            queue: DelayQueue::new(),
            pace: Pace::default(),
            ways: Default::default(),
            buffer: vec![0; FRAME],
            spare: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        let (tuns, stop) = (Arc::clone(&self.tuns), Arc::clone(&self.stop));
        let mut fds = [
            PollFd::new(tuns[0].as_fd(), PollFlags::POLLIN),
            PollFd::new(tuns[1].as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            self.deliver_due();
            let now = self.now();
            let sleep = match self.queue.next_due().map(|due| (due, self.pace.plan(now, due))) {
                None => None,
                Some((due, Wait::Spin)) => {
                    while self.now() < due {
                        std::hint::spin_loop();
                    }
                    self.pace.spun(due.saturating_sub(now));
                    self.deliver_due();
                    Some(0)
                }
                Some((_, Wait::Sleep(nanos))) => Some(nanos),
            };
            match ppoll(&mut fds, sleep.map(|ns| TimeSpec::from(Duration::from_nanos(ns))), None) {
                Ok(0) => {
                    if let Some(nanos @ 1..) = sleep {
                        let woke = self.now();
                        self.pace.woke(now + nanos, woke);
                    }
                    continue;
                }
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => {
                    tracing::error!(link = self.tuns[0].name(), error = %e, "link stopped: it cannot wait for packets");
                    return;
                }
            }
            if fds[2].any() == Some(true) {
                return;
            }
            for direction in [0, 1] {
                if fds[direction].any() == Some(true)
                    && let Err(e) = self.take_in(direction)
                {
                    tracing::warn!(device = self.tuns[direction].name(), error = %e, "link stopped: its device is gone");
                    return;
                }
            }
        }
    }

    fn now(&self) -> Nanos {
        self.start.elapsed().as_nanos() as Nanos
    }

    fn deliver_due(&mut self) {
        let now = self.now();
        while let Some((class, due, frame)) = self.queue.pop(now) {
            let direction = class & 1;
            self.ways[direction].in_flight -= frame.len as u64;
            self.stats.left(direction, now - due);
            self.deliver(direction, &frame.buffer[..frame.len]);
            if frame.buffer.len() == FRAME && self.spare.len() < SPARE {
                self.spare.push(frame.buffer);
            }
        }
    }

    fn deliver(&self, direction: usize, frame: &[u8]) {
        let packets = segments(frame);
        match self.tuns[1 - direction].write(frame) {
            Ok(()) => self.stats.delivered(direction, packets, (frame.len() - VNET_HDR) as u64),
            Err(_) => self.stats.refused(direction, packets),
        }
    }

    fn take_in(&mut self, direction: usize) -> std::io::Result<()> {
        for _ in 0..BATCH {
            let Some(len) = self.tuns[direction].read(&mut self.buffer)? else { break };
            if len > VNET_HDR {
                self.admit(direction, len);
            }
        }
        Ok(())
    }

    /// Decides about the packet in the buffer: lost, dropped, passed on, or kept until it is due.
    fn admit(&mut self, direction: usize, len: usize) {
        if let Some(shape) = self.settings.newer_than(&mut self.version) {
            self.plan = self.plan_for(shape);
        }
        let packets = segments(&self.buffer[..len]);
        if self.plan.shape.loss > 0.0 && self.random.unit() < self.plan.shape.loss {
            return self.stats.lost(direction, packets);
        }
        let peer = addresses(&self.buffer[VNET_HDR..len])
            .and_then(|(src, dst)| self.plan.peers.get(&src).or_else(|| self.plan.peers.get(&dst)));
        let (class, delay) = peer.copied().unwrap_or((0, self.plan.delay));
        let class = 2 * class + direction;

        if self.plan.shape.rate.is_none() && delay + self.plan.jitter == 0 && self.queue.is_empty(class) {
            return self.deliver(direction, &self.buffer[..len]);
        }
        let now = self.now();
        let way = &mut self.ways[direction];
        let mut leaves = now;
        if let Some(rate) = self.plan.shape.rate {
            let wire_time = |bytes: u64| (u128::from(bytes) * 8_000_000_000 / u128::from(rate)) as Nanos;
            let bytes = (len - VNET_HDR) as u64;
            leaves = way.line_free.max(now);
            if leaves - now > wire_time(self.limits.queue_bytes.saturating_sub(bytes)) {
                return self.stats.overflowed(direction, packets);
            }
            leaves += wire_time(bytes);
        }
        if way.in_flight + len as u64 > self.limits.flight_bytes {
            return self.stats.overflowed(direction, packets);
        }
        way.line_free = leaves;
        way.in_flight += len as u64;
        let due = leaves + delay + self.random.below(self.plan.jitter);
        let frame = self.keep(len);
        self.queue.push(class, due, frame);
    }

    fn keep(&mut self, len: usize) -> Frame {
        if len <= COPY {
            return Frame { buffer: self.buffer[..len].to_vec(), len };
        }
        let next = self.spare.pop().unwrap_or_else(|| vec![0; FRAME]);
        Frame { buffer: std::mem::replace(&mut self.buffer, next), len }
    }

    fn plan_for(&mut self, shape: Arc<Shape>) -> Plan {
        let nanos = |d: Duration| d.as_nanos() as Nanos;
        let mut peers = HashMap::with_capacity(shape.peers.len());
        for (peer, delay) in &shape.peers {
            let next = self.classes.len() + 1;
            let class = *self.classes.entry(*peer).or_insert(next);
            peers.insert(*peer, (class, nanos(*delay)));
        }
        // A peer without a delay of its own any more still has packets in its class.
        for (peer, class) in &self.classes {
            peers.entry(*peer).or_insert((*class, nanos(shape.delay)));
        }
        Plan { delay: nanos(shape.delay), jitter: nanos(shape.jitter), peers, shape }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..=max.
    fn below(&mut self, max: u64) -> u64 {
        if max == 0 { 0 } else { ((u128::from(self.next()) * (u128::from(max) + 1)) >> 64) as u64 }
    }
}
