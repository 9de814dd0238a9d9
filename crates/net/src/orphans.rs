//! Connections that a service has closed, after the service has moved.
//!
//! A connection that its process has closed lives on in its namespace: the kernel delivers what is unsent, then the FIN,
//! and waits for the peer's. No checkpoint has it, so at the new place its packets would be answered with a RST, and
//! what was unsent would be lost. So they go on to where it is, as long as it is there:
//!
//! ```text
//!   client ──► gateway ──► new place                       (all else)
//!                 └ rule: this flow ─► old node ─► old namespace, whose kernel ends it
//! ```
//! One policy rule for each flow and router on the way, before the rules of holds. A thread takes them away when the
//! kernel has done with the connection.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Flow, NetError, Netlink, Netns, Result, Route, RouteTo, Rule, SockDiag};

/// Before the fence of the old place and the rules of holds.
const PRIORITY: u32 = 40;
const TABLE_BASE: u32 = 7_100_000;
/// Rules are asked one after the other, for each packet.
const MOST: usize = 256;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The kernel gives an orphan up after about 100 s (tcp_orphan_retries), FIN-WAIT-2 after 60 s.
const LONGEST: Duration = Duration::from_secs(120);

/// A router on the way to the old place.
#[derive(Debug)]
pub struct Hop {
    netlink: Netlink,
    to: RouteTo,
    fenced: Option<String>,
    table: u32,
}

impl Hop {
    /// In this namespace that is the way to the old place.
    pub fn new(ns: &Netns, to: RouteTo) -> Result<Self> {
        // One for each: two paths of one service may share a namespace.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let table = TABLE_BASE + NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self { netlink: Netlink::open(ns)?, to, fenced: None, table })
    }

    /// What the flows' old end sends comes in by `dev` and is let through, whatever later rules say of it.
    pub fn let_out(mut self, dev: &str) -> Self {
        self.fenced = Some(dev.to_owned());
        self
    }

    fn rules(&self, flow: &Flow) -> impl Iterator<Item = Rule> {
        let rule = |table| if flow.local.is_ipv4() { Rule::v4(PRIORITY, table) } else { Rule::v6(PRIORITY, table) };
        let towards = rule(self.table).tcp(flow.remote, flow.local);
        let out = self.fenced.as_ref().map(|dev| rule(Route::MAIN).iif(dev).tcp(flow.local, flow.remote));
        [Some(towards), out].into_iter().flatten()
    }

    fn route(&self, service: IpAddr) -> Route {
        self.to.route(service).table(self.table)
    }
}

/// The way of a service's closed connections to the namespace that it has left. Dropping it takes the way away.
#[derive(Debug)]
pub struct OrphanPath {
    led: usize,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What is removed in the end, however that comes.
#[derive(Debug)]
struct Ways {
    service: IpAddr,
    hops: Vec<Hop>,
    flows: Vec<Flow>,
}

impl OrphanPath {
    /// Looks which connections of `service` are closed and not yet over in a namespace, and leads their packets there. Call it
    /// when the service is frozen and no packet gets to it: then there will be no others. At most 256 are led, those
    /// that have something to deliver first.
    pub fn lead(diag: &SockDiag, service: IpAddr, hops: impl FnOnce() -> Result<Vec<Hop>>) -> Result<Self> {
        let mut flows = diag.orphans(service)?;
        if flows.is_empty() {
            return Ok(Self { led: 0, stop: None, thread: None });
        }
        if flows.len() > MOST {
            tracing::warn!(%service, closed = flows.len(), led = MOST, "too many closed connections: some may be reset");
            flows.truncate(MOST);
        }
        let led = flows.len();
        let diag = SockDiag::open(diag.netns())?;
        let ways = Ways { service, hops: hops()?, flows };
        ways.add()?;
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("orphans".into())
            .spawn(move || tend(ways, &diag, &stopped))
            .map_err(|e| NetError::system("start the thread that looks after closed connections", e))?;
        Ok(Self { led, stop: Some(stop), thread: Some(thread) })
    }

    /// How many connections were led.
    pub const fn led(&self) -> usize {
        self.led
    }

    /// Whether all of them are over.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for OrphanPath {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Ways {
    fn add(&self) -> Result<()> {
        for hop in &self.hops {
            hop.netlink.replace_route(&hop.route(self.service))?;
            for rule in self.flows.iter().flat_map(|flow| hop.rules(flow)) {
                match hop.netlink.add_rule(&rule) {
                    Err(e) if !e.is_exists() => return Err(e),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, is_there: impl Fn(&Flow) -> bool) {
        let (kept, over) = std::mem::take(&mut self.flows).into_iter().partition(is_there);
        self.flows = kept;
        self.remove(&over);
    }

    fn remove(&self, flows: &[Flow]) {
        for hop in &self.hops {
            for rule in flows.iter().flat_map(|flow| hop.rules(flow)) {
                let _ = hop.netlink.del_rule(&rule);
            }
        }
    }
}

impl Drop for Ways {
    fn drop(&mut self) {
        self.remove(&self.flows);
        for hop in &self.hops {
            let _ = hop.netlink.del_route(&hop.route(self.service));
        }
    }
}

fn tend(mut ways: Ways, diag: &SockDiag, stopped: &mpsc::Receiver<()>) {
    let deadline = Instant::now() + LONGEST;
    while !ways.flows.is_empty() && stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if Instant::now() > deadline {
            tracing::warn!(service = %ways.service, left = ways.flows.len(), "closed connections are not over: given up");
            return;
        }
        match diag.orphans(ways.service) {
            Ok(left) => ways.keep(|flow| left.contains(flow)),
            Err(error) => tracing::warn!(%error, "closed connections"),
        }
    }
}
