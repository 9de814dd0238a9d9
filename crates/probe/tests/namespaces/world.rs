//! A node and a user, two network namespaces with a cable between; gone when the test is, however it ends.

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use godwit_model::UserName;
use godwit_probe::{Measurement, ProbeConfig, Prober, RunningProber};
use nix::sched::{CloneFlags, setns};

/// The user's addresses.
pub(crate) const USER_V4: &str = "10.213.0.2";
pub(crate) const USER_V6: &str = "fd47:6f64::2";
/// Routed to the user's side, where they vanish.
pub(crate) const NOBODY: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

pub(crate) struct World {
    node: String,
    user: String,
}

impl World {
    /// `None`, loudly, where namespaces cannot be made.
    pub(crate) fn new() -> Option<Self> {
        static NTH: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            // Past the capture of the test's output: a skip is not a pass.
            let _ = writeln!(std::io::stderr(), "SKIPPED: network namespaces need root");
            return None;
        }
        let prefix = format!("gwp-{}-{}", std::process::id(), NTH.fetch_add(1, Ordering::Relaxed));
        let world = Self { node: format!("{prefix}-n"), user: format!("{prefix}-u") };
        for ns in [&world.node, &world.user] {
            ip(&["netns", "add", ns]);
        }
        ip(&["-n", &world.node, "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", &world.user]);
        for (ns, v4, v6) in
            [(&world.node, "10.213.0.1/24", "fd47:6f64::1/64"), (&world.user, "10.213.0.2/24", "fd47:6f64::2/64")]
        {
            ip(&["-n", ns, "addr", "add", v4, "dev", "up0"]);
            ip(&["-n", ns, "addr", "add", v6, "dev", "up0", "nodad"]);
            ip(&["-n", ns, "link", "set", "up0", "up"]);
        }
        ip(&["-n", &world.node, "route", "add", "192.0.2.0/24", "via", USER_V4]);
        Some(world)
    }

    /// Whether the user keeps silent to ICMP echo.
    pub(crate) fn user_ignores_echo(&self, ignores: bool) {
        let value = u8::from(ignores);
        self.in_user(&["sysctl", "-qw", &format!("net.ipv4.icmp_echo_ignore_all={value}")]);
        self.in_user(&["sysctl", "-qw", &format!("net.ipv6.icmp.echo_ignore_all={value}")]);
    }

    /// Slows the user's side of the cable down: packets queue.
    pub(crate) fn slow_down(&self) {
        self.in_user(&[
            "tc", "qdisc", "add", "dev", "up0", "root", "tbf", "rate", "4kbit", "burst", "200", "limit", "20000",
        ]);
    }

    fn in_user(&self, command: &[&str]) {
        ip(&[&["netns", "exec", &self.user], command].concat());
    }

    /// Runs something in the user's namespace.
    pub(crate) fn as_user<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        inside(&self.user, f)
    }

    /// A prober in the node's namespace.
    pub(crate) fn probe(&self, config: ProbeConfig) -> (RunningProber, Receiver<Measurement>) {
        let (tx, rx) = channel();
        let prober = inside(&self.node, || Prober::spawn(config, move |m| drop(tx.send(m)))).unwrap();
        (prober, rx)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for ns in [&self.node, &self.user] {
            let _ = Command::new("ip").args(["netns", "del", ns]).output();
        }
    }
}

/// Probes each 20 ms, given up after 300.
pub(crate) fn config(addrs: &[&str]) -> ProbeConfig {
    let user = |addr: &&str| (UserName::new(addr.replace(':', "-")).unwrap(), addr.parse().unwrap());
    ProbeConfig {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(300),
        switch_after: 3,
        icmp_retry: Duration::from_millis(100),
        ..ProbeConfig::new(addrs.iter().map(user))
    }
}

/// The first measurement that satisfies; how long that takes is no matter, as long as it comes.
pub(crate) fn until(rx: &Receiver<Measurement>, wanted: impl Fn(&Measurement) -> bool) -> Measurement {
    loop {
        let m = rx.recv_timeout(Duration::from_secs(60)).expect("a measurement within a minute");
        if wanted(&m) {
            return m;
        }
    }
}

fn inside<T: Send>(ns: &str, f: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{ns}")).unwrap();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            f()
        });
        inside.join().unwrap()
    })
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip(8) of iproute2");
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}
