//! Holding the packets to a service address while the service moves, and replaying them in order.
//!
//! ```text
//!  clients ──► main table: SERVICE dev hold0 ──► TUN ──► queue            (captured: nothing answers, nothing is lost)
//!                                                          │ release
//!              table T: SERVICE via the new place ◄── TUN ◄┘ in order     (rule: iif hold0 lookup T)
//!  clients ──► main table: SERVICE via the new place                      (switched, then the TUN's rest is drained)
//! ```
//! No firewall, no bridge, no address that moves: two route changes and a TUN. The kernel finishes checksums and
//! cuts large segments before it hands packets to a TUN without offloads, so what is kept is what a wire carries.

mod packet;
mod reader;
mod state;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::delay::quiet;
use crate::netlink::{Dev, PreparedRoute};
use crate::tun::{Framing, Tun};
use crate::{NetError, Netlink, Netns, Prefix, Result, Route, Rule};
use state::{Mode, State};

pub use packet::Packet;
pub use state::HoldStats;

/// Large enough for any packet; what leaves by other devices is checked against theirs.
const MTU: u32 = 65_535;
/// Packets that the kernel keeps for the reader.
const READ_QUEUE: u32 = 16_384;
const TABLE_BASE: u32 = 7_000_000;

/// How a hold is set up.
#[derive(Clone, Debug)]
pub struct HoldOptions {
    /// Bytes kept in all; what comes beyond is dropped and counted.
    pub max_bytes: u64,
    /// Priority of the rule that leads replayed packets to the hold's own table; before main's 32766.
    pub rule_priority: u32,
    /// The hold's own table; by default one that belongs to no other hold of the namespace.
    pub table: Option<u32>,
}

impl Default for HoldOptions {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, rule_priority: 100, table: None }
    }
}

/// Where a service address leads after a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTo {
    dev: Dev,
    via: Option<IpAddr>,
    onlink: bool,
}

impl RouteTo {
    /// Out of this device.
    pub fn dev(dev: impl Into<Dev>) -> Self {
        Self { dev: dev.into(), via: None, onlink: false }
    }

    /// By way of this gateway.
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.via = Some(gateway);
        self
    }

    /// The gateway is on the device's link even if no prefix says so.
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    /// This next hop as a route for a service address.
    pub fn route(&self, service: IpAddr) -> Route {
        let mut route = Route::host(service).dev(self.dev.clone());
        if let Some(via) = self.via {
            route = route.via(via);
        }
        if self.onlink { route.onlink() } else { route }
    }
}

/// A release whose look-ups are done: what is left is writing the packets and one system call.
#[derive(Debug)]
pub struct PreparedRelease {
    service: IpAddr,
    main: PreparedRoute,
}

/// How a release went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReleaseStats {
    /// Packets replayed, in order: prepended ones, then captured ones.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, packets that were prepended.
    pub prepended: u64,
    /// Packets that reached the hold before the switch and were passed on just after it: only these may have been
    /// overtaken, by packets that came in the same few microseconds.
    pub after_switch: u64,
    /// Packets not kept, because the hold was full.
    pub dropped: u64,
    /// Packets that the kernel refused at replay.
    pub refused: u64,
    /// From capture to release.
    pub held: Duration,
    /// The release itself: replay, switch and drain.
    pub took: Duration,
}

/// A hold in one namespace, for any number of service addresses.
///
/// Have the neighbour entry of the new next hop there before a release (or a link that needs none, like a
/// [`DelayLink`](crate::DelayLink)): while it asks for an address the kernel keeps some hundred packets and drops the
/// others.
///
/// Dropping it removes device, rules and the hold's own table; an address that is still captured then loses its
/// route and its packets (with a warning). A killed process leaves only a rule that matches nothing any more.
pub struct PacketHold {
    shared: Arc<Shared>,
    netlink: Netlink,
    index: u32,
    table: u32,
    priority: u32,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Shared {
    tun: Tun,
    state: Mutex<State>,
}

impl Shared {
    /// Packets are read under this lock only, hence never handled out of order.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PacketHold {
    /// Makes the hold's device in a namespace that forwards packets. Nothing is captured yet.
    pub fn open(ns: &Netns, dev: &str) -> Result<Self> {
        Self::open_with(ns, dev, &HoldOptions::default())
    }

    /// The same with options.
    pub fn open_with(ns: &Netns, dev: &str, options: &HoldOptions) -> Result<Self> {
        let tun = Tun::create(ns, dev, Framing::Plain)?;
        quiet(ns, dev);
        let netlink = Netlink::open(ns)?;
        accept_any_source(ns, &netlink, dev)?;
        let index = netlink.link_index(dev)?;
        netlink.set_mtu(index, MTU)?;
        netlink.set_txqueuelen(index, READ_QUEUE)?;
        netlink.set_up(index)?;
        let table = options.table.unwrap_or(TABLE_BASE + index);
        for v6 in [false, true] {
            // What a killed hold of the same name left behind; table 0 matches any.
            while netlink.del_rule(&rule(v6, options.rule_priority, 0, dev)).is_ok() {}
            match netlink.add_rule(&rule(v6, options.rule_priority, table, dev)) {
                Err(e) if v6 => tracing::debug!(error = %e, "no IPv6 in this kernel: the hold is for IPv4 only"),
                other => other?,
            }
        }
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| NetError::system("make an event descriptor", e))?;
        let (stop, shared) =
            (Arc::new(stop), Arc::new(Shared { tun, state: Mutex::new(State::new(options.max_bytes)) }));
        let thread = {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            thread::Builder::new()
                .name(format!("hold-{dev}"))
                .spawn(move || reader::run(&shared, stop.as_fd()))
                .map_err(|e| NetError::system("start the thread of a packet hold", e))?
        };
        Ok(Self { shared, netlink, index, table, priority: options.rule_priority, stop, thread: Some(thread) })
    }

    /// From now on packets to `service` are kept. One route change; microseconds.
    pub fn capture(&self, service: IpAddr) -> Result<()> {
        self.capture_by(service, Mode::Keep)
    }

    /// From now on packets that ask `service` for a new TCP connection are kept, all others handed on to where it is. A
    /// capture that follows keeps what is kept already.
    pub fn capture_connects(&self, service: IpAddr, to: &RouteTo) -> Result<()> {
        self.netlink.replace_route(&to.route(service).table(self.table))?;
        self.shared.lock().routed.insert(service);
        self.capture_by(service, Mode::KeepConnects)
    }

    fn capture_by(&self, service: IpAddr, mode: Mode) -> Result<()> {
        let before = self.shared.lock().capture(service, mode, Instant::now());
        let route = Route::host(service).dev(self.index);
        self.netlink.replace_route(&route).inspect_err(|_| self.shared.lock().restore(service, before))
    }

    /// Takes the packets that were kept for `service` so far, oldest first; it stays captured.
    pub fn take(&self, service: IpAddr) -> Result<Vec<Packet>> {
        self.with(service, |state| {
            reader::drain(&self.shared.tun, state);
            state.take(service)
        })
    }

    /// Puts packets that were caught elsewhere (in flight to the old place) before all that were kept here.
    pub fn prepend(&self, service: IpAddr, packets: Vec<Packet>) -> Result<()> {
        self.with(service, |state| state.prepend(service, packets))
    }

    /// Does ahead what a release to `to` can have done ahead: look-ups, and the route for replayed packets.
    pub fn prepare(&self, service: IpAddr, to: &RouteTo) -> Result<PreparedRelease> {
        let route = to.route(service);
        self.netlink.replace_route(&route.clone().table(self.table))?;
        self.shared.lock().routed.insert(service);
        Ok(PreparedRelease { service, main: self.netlink.prepare_route(&route)? })
    }

    /// Replays what was kept for `service` towards its new place, in order, and switches its route there.
    pub fn release(&self, service: IpAddr, to: &RouteTo) -> Result<ReleaseStats> {
        self.release_prepared(&self.prepare(service, to)?)
    }

    /// The same, prepared. If the route cannot be switched, packets keep passing through the hold to the new place.
    pub fn release_prepared(&self, prepared: &PreparedRelease) -> Result<ReleaseStats> {
        self.release_paced(prepared, &mut || ())
    }

    /// The same; after some (32) replayed datagrams at a time, `pace` is called, which may see to it that their receiver
    /// loses none ([`Room`](crate::Room)), or wait until it has read some. It must not call this hold.
    pub fn release_paced(&self, prepared: &PreparedRelease, pace: &mut dyn FnMut()) -> Result<ReleaseStats> {
        let begun = Instant::now();
        let service = prepared.service;
        let tun = &self.shared.tun;
        self.with(service, |state| {
            let mut stats = state.begin_release(service, tun, begun, pace);
            reader::drain(tun, state);
            let switched = self.netlink.install(&prepared.main);
            let passed = state.passed(service);
            reader::drain(tun, state);
            let end = state.end_release(service);
            stats.packets += end.packets;
            stats.bytes += end.bytes;
            stats.refused += end.refused;
            stats.after_switch = end.packets - passed;
            stats.took = begun.elapsed();
            switched.map(|()| stats)
        })?
    }

    /// Stops capturing without a new place: the route is deleted, packets follow what broader route there is. Returns
    /// what was kept.
    pub fn withdraw(&self, service: IpAddr) -> Result<Vec<Packet>> {
        self.with(service, |state| {
            match self.netlink.del_route(&Route::host(service).dev(self.index)) {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {}
            }
            reader::drain(&self.shared.tun, state);
            Ok(state.remove(service))
        })?
    }

    /// What is kept and was dropped for `service` so far.
    pub fn stats(&self, service: IpAddr) -> Result<HoldStats> {
        self.with(service, |state| state.stats(service))
    }

    /// The hold's device.
    pub fn dev(&self) -> &str {
        self.shared.tun.name()
    }

    fn with<T>(&self, service: IpAddr, f: impl FnOnce(&mut State) -> T) -> Result<T> {
        let mut state = self.shared.lock();
        if !state.knows(service) {
            return Err(NetError::NotCaptured { dev: self.dev().to_owned(), service });
        }
        Ok(f(&mut state))
    }
}

impl Drop for PacketHold {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let (captured, routed): (Vec<IpAddr>, HashSet<IpAddr>) = {
            let mut state = self.shared.lock();
            (state.keeping(), std::mem::take(&mut state.routed))
        };
        if !captured.is_empty() {
            tracing::warn!(hold = self.dev(), ?captured, "hold closed while it captured: release or withdraw first");
        }
        for service in routed {
            let _ = self.netlink.del_route(&Route::to(Prefix::host(service)).table(self.table));
        }
        for v6 in [false, true] {
            let _ = self.netlink.del_rule(&rule(v6, self.priority, self.table, self.dev()));
        }
    }
}

impl std::fmt::Debug for PacketHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketHold").field("dev", &self.dev()).field("table", &self.table).finish_non_exhaustive()
    }
}

fn rule(v6: bool, priority: u32, table: u32, dev: &str) -> Rule {
    if v6 { Rule::v6(priority, table).iif(dev) } else { Rule::v4(priority, table).iif(dev) }
}

/// Replayed packets come in by the hold's device with sources that live elsewhere: no reverse path check may drop
/// them. The stricter of `all` and the device counts; 2 (loose) overrides 1 (strict), but drops everything on a
/// device without an address, so it gets the dummy one of RFC 7600.
fn accept_any_source(ns: &Netns, netlink: &Netlink, dev: &str) -> Result<()> {
    const DUMMY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));
    let strict = ns.sysctl("net.ipv4.conf.all.rp_filter")? != "0";
    if strict {
        netlink.add_host_addr(dev, Prefix::host(DUMMY))?;
    }
    ns.set_sysctl(&format!("net/ipv4/conf/{dev}/rp_filter"), if strict { "2" } else { "0" })?;
    ns.set_sysctl(&format!("net/ipv4/conf/{dev}/accept_local"), "1")?;
    ns.set_sysctl(&format!("net/ipv4/conf/{dev}/forwarding"), "1")
}
