//! What the tests share: namespaces that no other run has, a loud skip, and waiting without sleeping.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

pub mod star;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use godwit_net::{Netlink, Netns, Prefix, Route};

/// Long enough for any machine; reached only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

static NUMBER: AtomicU32 = AtomicU32::new(0);
static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// False, loudly and counted, where the host lacks what these tests need. A skip is not a pass.
pub fn can_run() -> bool {
    // The owner of its own proc entry is the effective user.
    use std::os::unix::fs::MetadataExt;
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    let lacks = if root { godwit_net::tun_supported().err() } else { Some("not root".into()) };
    if let Some(why) = &lacks {
        let n = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        eprintln!("SKIPPED: {test}: {why} (test number {n} skipped in this binary)");
    }
    lacks.is_none()
}

/// A name that begins `gwt-PID-`, different at each call.
pub fn name(what: &str) -> String {
    format!("gwt-{}-{}-{what}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

pub fn netns(what: &str) -> Netns {
    Netns::create(&name(what)).expect("create a namespace")
}

/// Two namespaces joined by a veth pair with these addresses.
pub fn join(a: &Netns, a_dev: &str, a_addr: &str, b: &Netns, b_dev: &str, b_addr: &str) {
    let (nl_a, nl_b) = (Netlink::open(a).unwrap(), Netlink::open(b).unwrap());
    nl_a.add_veth(a_dev, b_dev, b).unwrap();
    nl_a.add_addr(a_dev, prefix(a_addr)).unwrap();
    nl_b.add_addr(b_dev, prefix(b_addr)).unwrap();
    nl_a.set_up(a_dev).unwrap();
    nl_b.set_up(b_dev).unwrap();
}

pub fn forward(ns: &Netns) {
    ns.set_sysctl("net.ipv4.ip_forward", "1").unwrap();
    ns.set_sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
}

pub fn default_via(ns: &Netns, gateway: &str) {
    let gateway: std::net::IpAddr = gateway.parse().unwrap();
    let to = if gateway.is_ipv4() { Prefix::default_v4() } else { Prefix::default_v6() };
    Netlink::open(ns).unwrap().replace_route(&Route::to(to).via(gateway)).unwrap();
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::yield_now();
    }
}
