//! A link with real delay between two namespaces, carried by a thread of this process.
//!
//! ```text
//!   namespace A                this process                 namespace B
//!  ┌───────────┐   read   ┌───────────────────────┐  write  ┌───────────┐
//!  │  TUN dev  ├─────────►│ loss, rate, due time  ├────────►│  TUN dev  │
//!  │           │◄─────────┤ one FIFO a peer       │◄────────┤           │
//!  └───────────┘  write   └───────────────────────┘  read   └───────────┘
//! ```
//! The ends are layer-3 devices: no ARP, no MAC addresses; route "via ADDRESS dev NAME" or just "dev NAME".

mod engine;
mod pace;
mod packet;
mod queue;
mod settings;
mod stats;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::netlink::check_ifname;
use crate::sched::{self, Priority};
use crate::tun::{Framing, Tun};
use crate::{NetError, Netlink, Netns, Prefix, Result};
use engine::Engine;
use settings::{Settings, Shape};

pub(crate) use packet::{addresses, is_connect, is_datagram};
pub use stats::{DirectionStats, LinkStats};

/// Packets that wait to be read: a thread that gets no processor for a while loses none below this.
const READ_QUEUE: u32 = 8192;

/// One end of a link.
#[derive(Debug)]
pub struct End<'a> {
    /// The namespace that the device lives in.
    pub ns: &'a Netns,
    /// The device's name.
    pub ifname: String,
    /// Addresses that the device gets.
    pub addrs: Vec<Prefix>,
}

impl<'a> End<'a> {
    /// An end without addresses.
    pub fn new(ns: &'a Netns, ifname: &str) -> Self {
        Self { ns, ifname: ifname.to_owned(), addrs: Vec::new() }
    }

    /// Adds an address.
    pub fn addr(mut self, addr: Prefix) -> Self {
        self.addrs.push(addr);
        self
    }
}

/// What a link is to be.
#[derive(Debug)]
pub struct LinkConfig<'a> {
    /// One end.
    pub a: End<'a>,
    /// The other end.
    pub b: End<'a>,
    /// MTU of both devices in bytes.
    pub mtu: u32,
    /// One-way delay of packets that belong to no peer with a delay of its own.
    pub delay: Duration,
    /// Up to so much is added to each packet's delay, uniformly; order is kept.
    pub jitter: Duration,
    /// Probability that a packet is lost, each way, 0 to 1.
    pub loss: f64,
    /// Bits a second, each way; `None` is as fast as it goes.
    pub rate_limit: Option<u64>,
    /// With a rate limit: bytes that wait for the line, each way, before the tail is dropped.
    pub queue_bytes: u64,
    /// Bytes that are under way, each way, before the tail is dropped: bounds memory.
    pub flight_bytes: u64,
    /// Seed of loss and jitter.
    pub seed: u64,
}

impl<'a> LinkConfig<'a> {
    /// A link without delay, loss or rate limit; MTU 1500.
    pub fn new(a: End<'a>, b: End<'a>) -> Self {
        Self {
            a,
            b,
            mtu: 1500,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            rate_limit: None,
            queue_bytes: 1 << 20,
            flight_bytes: 128 << 20,
            seed: 0,
        }
    }

    /// Sets the default one-way delay.
    pub fn delay(mut self, one_way: Duration) -> Self {
        self.delay = one_way;
        self
    }

    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        check_ifname(&self.a.ifname)?;
        check_ifname(&self.b.ifname)?;
        let bad = |why: &str| Err(NetError::BadLink { link: self.a.ifname.clone(), why: why.into() });
        if !(0.0..=1.0).contains(&self.loss) {
            return bad("the loss probability must be between 0 and 1");
        }
        if self.rate_limit == Some(0) {
            return bad("a rate limit of 0 lets nothing through: use loss 1 for a cut link");
        }
        if !(68..=65_535).contains(&self.mtu) {
            return bad("the MTU must be between 68 (1280 for IPv6) and 65535 bytes");
        }
        Ok(())
    }
}

/// A running link; dropping it stops the thread and removes both devices.
///
/// Drop it before its namespaces: its devices' descriptors keep them alive.
pub struct DelayLink {
    name: String,
    settings: Arc<Settings>,
    stats: Arc<stats::Counters>,
    tuns: Arc<[Tun; 2]>,
    stop: Arc<EventFd>,
    priority: Priority,
    thread: Option<JoinHandle<()>>,
}

impl DelayLink {
    /// Makes both devices, sets them up with their addresses, and starts the thread.
    pub fn spawn(config: LinkConfig<'_>) -> Result<Self> {
        config.check()?;
        let tuns = Arc::new([end(&config.a, config.mtu)?, end(&config.b, config.mtu)?]);
        let shape = Shape {
            delay: config.delay,
            peers: std::collections::HashMap::new(),
            jitter: config.jitter,
            loss: config.loss,
            rate: config.rate_limit,
        };
        set_offload(&tuns, &shape)?;
        let settings = Arc::new(Settings::new(shape));
        let stats = Arc::new(stats::Counters::default());
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| NetError::system("make an event descriptor", e))?;
        let stop = Arc::new(stop);
        let engine = Engine::new(
            Arc::clone(&tuns),
            Arc::clone(&settings),
            Arc::clone(&stats),
            Arc::clone(&stop),
            engine::Limits { queue_bytes: config.queue_bytes, flight_bytes: config.flight_bytes },
            config.seed,
        );
        let (tell, told) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("link-{}", config.a.ifname))
            .spawn(move || {
                let _ = tell.send(sched::raise_current_thread());
                engine.run();
            })
            .map_err(|e| NetError::system("start the thread of a link", e))?;
        let priority = told.recv().unwrap_or(Priority::Ordinary);
        if !priority.is_dependable() {
            tracing::warn!(link = %config.a.ifname, %priority,
                "no real-time priority for the link's thread (CAP_SYS_NICE, or a cgroup with cpu.rt_runtime_us): \
                 on a busy machine its delay will be too long");
        }
        Ok(Self { name: config.a.ifname, settings, stats, tuns, stop, priority, thread: Some(thread) })
    }

    /// Sets the one-way delay, both directions, of packets of no particular peer. Holds for packets that are sent
    /// after this returns; those under way keep theirs, and are not overtaken by packets of the same peer.
    pub fn set_delay(&self, one_way: Duration) {
        self.settings.change(|s| s.delay = one_way);
    }

    /// Sets the one-way delay of packets from or to `peer` (source and destination both peers: the source's).
    pub fn set_peer_delay(&self, peer: IpAddr, one_way: Duration) {
        self.settings.change(|s| {
            s.peers.insert(peer, one_way);
        });
    }

    /// Lets packets of `peer` take the default delay again.
    pub fn clear_peer_delay(&self, peer: IpAddr) {
        self.settings.change(|s| {
            s.peers.remove(&peer);
        });
    }

    /// The one-way delay that packets of `peer` take, or with `None` those of nobody in particular.
    pub fn delay(&self, peer: Option<IpAddr>) -> Duration {
        let shape = self.settings.get();
        peer.and_then(|p| shape.peers.get(&p).copied()).unwrap_or(shape.delay)
    }

    /// Sets the loss probability, 0 to 1. With loss, large segments are cut before the link, not behind it.
    pub fn set_loss(&self, probability: f64) -> Result<()> {
        if !(0.0..=1.0).contains(&probability) {
            let why = "the loss probability must be between 0 and 1".into();
            return Err(NetError::BadLink { link: self.name.clone(), why });
        }
        self.settings.change(|s| s.loss = probability);
        set_offload(&self.tuns, &self.settings.get())
    }

    /// Sets the jitter: each packet's delay grows by up to so much.
    pub fn set_jitter(&self, jitter: Duration) {
        self.settings.change(|s| s.jitter = jitter);
    }

    /// What went over the link so far.
    pub fn stats(&self) -> LinkStats {
        self.stats.read()
    }

    /// What the link's thread runs as; anything but real-time means delays that grow with the machine's load.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// False once the thread has ended, which it does by itself only if a device was deleted under it.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }
}

impl Drop for DelayLink {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for DelayLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DelayLink").field("name", &self.name).field("priority", &self.priority).finish_non_exhaustive()
    }
}

fn end(end: &End<'_>, mtu: u32) -> Result<Tun> {
    let tun = Tun::create(end.ns, &end.ifname, Framing::VirtioNet)?;
    quiet(end.ns, &end.ifname);
    let netlink = Netlink::open(end.ns)?;
    netlink.set_mtu(tun.name(), mtu)?;
    netlink.set_txqueuelen(tun.name(), READ_QUEUE)?;
    netlink.set_up(tun.name())?;
    for addr in &end.addrs {
        netlink.add_addr(tun.name(), *addr)?;
    }
    Ok(tun)
}

/// No link-local address, hence no router solicitations: only the user's packets are on the link. Without IPv6
/// in the kernel there is nothing to silence.
pub(crate) fn quiet(ns: &Netns, dev: &str) {
    if let Err(e) = ns.set_sysctl(&format!("net/ipv6/conf/{dev}/addr_gen_mode"), "1") {
        tracing::debug!(error = %e, "IPv6 stays chatty");
    }
}

/// Loss and rate act on packets as they would be on a wire, so then large segments must not pass in one piece.
fn set_offload(tuns: &[Tun; 2], shape: &Shape) -> Result<()> {
    let whole = shape.loss == 0.0 && shape.rate.is_none();
    tuns.iter().try_for_each(|t| t.set_offload(whole))
}
