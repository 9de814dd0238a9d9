//! A link whose delay the kernel keeps: a veth pair with netem at both ends, where the kernel has netem.
//!
//! ```text
//!   namespace A                                             namespace B
//!  ┌──────────────────────────────────────┐                ┌───────────────────────────────────┐
//!  │ htb ┬ netem, default delay ──────────┼── veth NOARP ──┼── the same, the other way round   │
//!  │     └ netem for each peer (u32)      │                │                                   │
//!  └──────────────────────────────────────┘                └───────────────────────────────────┘
//! ```
//! Both ends have one MAC address and no ARP, so it is used like a [`DelayLink`](crate::DelayLink): as a layer-3 link.
//! netem gets a rate, because only with one does it keep the order of packets when the delay shrinks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::delay::{DirectionStats, End, LinkConfig, LinkStats, quiet};
use crate::{Mac, NetError, Netlink, Netns, Result, netns};

/// One for both ends of every such link: a packet to one's own MAC address is one to the peer.
const MAC: Mac = Mac::local(0x11_0000);
const LIMIT: u32 = 100_000;
const FASTEST: u64 = 100_000_000_000;
const PARENT: u16 = 0xfffe;

/// Tries whether the kernel has netem, on the loopback of a scratch namespace. An error says why not; it is no
/// reason to stop, since a [`DelayLink`](crate::DelayLink) needs none.
pub fn netem_supported() -> Result<()> {
    netns::in_scratch(|| Netlink::open_here()?.add_netem("lo"))?
}

/// A link delayed by netem; dropping it removes both devices. Needs `tc` of iproute2.
///
/// Differs from a [`DelayLink`](crate::DelayLink) in this: loss, rate and counts take a large segment (up to 64 KiB)
/// for one packet; loss and jitter are not seeded; what netem drops is not in the statistics; a change takes
/// milliseconds (a `tc`).
#[derive(Debug)]
pub struct NetemLink {
    ends: [Side; 2],
    shape: Mutex<Shape>,
}

#[derive(Debug)]
struct Side {
    ns: Netns,
    dev: String,
    netlink: Netlink,
}

#[derive(Debug)]
struct Shape {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    peers: BTreeMap<IpAddr, (u16, Duration)>,
    /// Peers that once had a delay of their own keep their class, at the default delay.
    next_class: u16,
}

impl NetemLink {
    /// Makes the veth pair and its queueing disciplines.
    pub fn spawn(config: LinkConfig<'_>) -> Result<Self> {
        config.check()?;
        let side = |end: &End<'_>| -> Result<Side> {
            Ok(Side { ns: end.ns.handle()?, dev: end.ifname.clone(), netlink: Netlink::open(end.ns)? })
        };
        let (delay, jitter, loss) = (config.delay, config.jitter, config.loss);
        let shape = Shape { delay, jitter, loss, peers: BTreeMap::new(), next_class: 2 };
        let ends = [side(&config.a)?, side(&config.b)?];
        ends[0].netlink.add_veth(&ends[0].dev, &ends[1].dev, &ends[1].ns)?;
        // From here on dropping the link undoes what is done.
        let link = Self { ends, shape: Mutex::new(shape) };
        let rate = config.rate_limit.unwrap_or(FASTEST);
        for (side, end) in link.ends.iter().zip([&config.a, &config.b]) {
            quiet(&side.ns, &side.dev);
            side.netlink.set_mac(side.dev.as_str(), MAC)?;
            side.netlink.set_mtu(side.dev.as_str(), config.mtu)?;
            side.netlink.set_noarp(side.dev.as_str())?;
            let dev = &side.dev;
            side.tc(&format!(
                "qdisc add dev {dev} root handle 1: htb default 1\n\
                 class add dev {dev} parent 1: classid 1:{PARENT:x} htb rate {rate} ceil {rate} quantum 60000\n{}",
                class(dev, 1, rate, &netem(delay, jitter, loss)),
            ))?;
            side.netlink.set_up(dev.as_str())?;
            for addr in &end.addrs {
                side.netlink.add_addr(dev.as_str(), *addr)?;
            }
        }
        Ok(link)
    }

    /// Sets the one-way delay, both directions, of packets of no particular peer.
    pub fn set_delay(&self, one_way: Duration) -> Result<()> {
        self.change(|s| s.delay = one_way)
    }

    /// Sets the probability that a packet is lost, 0 to 1.
    pub fn set_loss(&self, probability: f64) -> Result<()> {
        self.change(|s| s.loss = probability)
    }

    /// Sets the one-way delay of packets from or to `peer`.
    pub fn set_peer_delay(&self, peer: IpAddr, one_way: Duration) -> Result<()> {
        let mut shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        let spec = netem(one_way, shape.jitter, shape.loss);
        if let Some((id, delay)) = shape.peers.get_mut(&peer) {
            *delay = one_way;
            let id = *id;
            return self.both(|dev| change(dev, id, &spec));
        }
        let id = shape.next_class;
        if id >= 0x1000 {
            return Err(self.bad("more than 4000 peers"));
        }
        self.both(|dev| format!("{}{}", class(dev, id, FASTEST, &spec), filters(dev, id, peer)))?;
        shape.next_class += 1;
        shape.peers.insert(peer, (id, one_way));
        Ok(())
    }

    /// Lets packets of `peer` take the default delay again.
    pub fn clear_peer_delay(&self, peer: IpAddr) -> Result<()> {
        let shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, delay) = (shape.peers.contains_key(&peer), shape.delay);
        drop(shape);
        if known { self.set_peer_delay(peer, delay) } else { Ok(()) }
    }

    /// What was delivered so far.
    pub fn stats(&self) -> Result<LinkStats> {
        let delivered = |at: usize| -> Result<DirectionStats> {
            let (packets, bytes) = self.ends[at].netlink.received(&self.ends[at].dev)?;
            Ok(DirectionStats { packets, bytes, ..DirectionStats::default() })
        };
        Ok(LinkStats { a_to_b: delivered(1)?, b_to_a: delivered(0)? })
    }

    fn change(&self, f: impl FnOnce(&mut Shape)) -> Result<()> {
        let mut shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut shape);
        let spec = |delay| netem(delay, shape.jitter, shape.loss);
        self.both(|dev| {
            let peers = shape.peers.values().map(|(id, delay)| change(dev, *id, &spec(*delay)));
            std::iter::once(change(dev, 1, &spec(shape.delay))).chain(peers).collect()
        })
    }

    fn both(&self, batch: impl Fn(&str) -> String) -> Result<()> {
        self.ends.iter().try_for_each(|side| side.tc(&batch(&side.dev)))
    }

    fn bad(&self, why: &str) -> NetError {
        NetError::BadLink { link: self.ends[0].dev.clone(), why: why.into() }
    }
}

impl Drop for NetemLink {
    fn drop(&mut self) {
        match self.ends[0].netlink.del_link(self.ends[0].dev.as_str()) {
            Err(e) if !e.is_not_found() => tracing::warn!(error = %e, "link left behind"),
            _ => {}
        }
    }
}

impl Side {
    /// Runs lines of `tc -batch` in the namespace.
    fn tc(&self, batch: &str) -> Result<()> {
        let run = || -> std::io::Result<Option<String>> {
            let mut tc = Command::new("tc")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = tc.stdin.take() {
                stdin.write_all(batch.as_bytes())?;
            }
            let mut said = String::new();
            if let Some(mut stderr) = tc.stderr.take() {
                stderr.read_to_string(&mut said)?;
            }
            Ok((!tc.wait()?.success()).then_some(said))
        };
        match self.ns.enter(run)? {
            Ok(None) => Ok(()),
            Ok(Some(said)) => {
                let why = format!("tc failed in namespace {}: {}", self.ns.name(), said.trim().replace('\n', "; "));
                Err(NetError::BadLink { link: self.dev.clone(), why })
            }
            Err(e) => Err(NetError::netns(self.ns.name(), "run tc (install iproute2, or use the userspace link)", e)),
        }
    }
}

/// One delay's worth of netem; `delay` plus up to `jitter`, which netem has as plus or minus.
fn netem(delay: Duration, jitter: Duration, loss: f64) -> String {
    let micros = |d: Duration| format!("{}us", d.as_nanos() as f64 / 1e3);
    let half = jitter / 2;
    let mut spec = format!("netem limit {LIMIT} delay {}", micros(delay + half));
    if !half.is_zero() {
        let _ = write!(spec, " {}", micros(half));
    }
    if loss > 0.0 {
        let _ = write!(spec, " loss {}%", loss * 100.0);
    }
    let _ = write!(spec, " rate {FASTEST}");
    spec
}

fn class(dev: &str, id: u16, ceil: u64, netem: &str) -> String {
    format!(
        "class add dev {dev} parent 1:{PARENT:x} classid 1:{id:x} htb rate 8000 ceil {ceil} quantum 60000\n\
         qdisc add dev {dev} parent 1:{id:x} handle {:x}: {netem}\n",
        0x1000 + id
    )
}

fn change(dev: &str, id: u16, netem: &str) -> String {
    format!("qdisc change dev {dev} parent 1:{id:x} handle {:x}: {netem}\n", 0x1000 + id)
}

/// Packets from the peer first, then packets to it, for each family in a list of its own.
fn filters(dev: &str, id: u16, peer: IpAddr) -> String {
    let (protocol, field, len, from, to) =
        if peer.is_ipv4() { ("ip", "ip", 32, 1, 2) } else { ("ipv6", "ip6", 128, 3, 4) };
    let one = |which: &str, priority: u8| {
        format!(
            "filter add dev {dev} parent 1: protocol {protocol} prio {priority} \
             u32 match {field} {which} {peer}/{len} flowid 1:{id:x}\n"
        )
    };
    one("src", from) + &one("dst", to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_ever_adds() {
        let ms = Duration::from_millis;
        assert_eq!(netem(ms(10), ms(0), 0.0), "netem limit 100000 delay 10000us rate 100000000000");
        assert_eq!(netem(ms(10), ms(4), 0.25), "netem limit 100000 delay 12000us 2000us loss 25% rate 100000000000");
    }

    #[test]
    fn a_peer_is_matched_as_source_before_destination() {
        let batch = filters("d", 18, "fd00::1".parse().unwrap());
        assert_eq!(
            batch,
            "filter add dev d parent 1: protocol ipv6 prio 3 u32 match ip6 src fd00::1/128 flowid 1:12\n\
             filter add dev d parent 1: protocol ipv6 prio 4 u32 match ip6 dst fd00::1/128 flowid 1:12\n"
        );
    }
}
