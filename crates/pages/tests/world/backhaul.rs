//! A link between two nodes for pages, that can be cut.

#![allow(dead_code, unreachable_pub)]

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

static LINKS: AtomicUsize = AtomicUsize::new(0);
const SOURCE: &str = "10.78.0.1:7001";

/// Two network namespaces with one link, which go with it.
pub struct Backhaul {
    source: String,
    target: String,
}

impl Backhaul {
    pub fn new() -> Self {
        let name = format!("gwt{}l{}", std::process::id(), LINKS.fetch_add(1, Ordering::SeqCst));
        let link = Self { source: format!("{name}s"), target: format!("{name}t") };
        ip(&["netns", "add", &link.source]);
        ip(&["netns", "add", &link.target]);
        ip(&["-n", &link.source, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &link.target]);
        for (ns, address) in [(&link.source, "10.78.0.1/24"), (&link.target, "10.78.0.2/24")] {
            ip(&["-n", ns, "addr", "add", address, "dev", "eth0"]);
            ip(&["-n", ns, "link", "set", "eth0", "up"]);
        }
        link
    }

    /// Cuts the link, or mends it.
    pub fn cut(&self, cut: bool) {
        ip(&["-n", &self.source, "link", "set", "eth0", if cut { "down" } else { "up" }]);
    }

    /// Where the source listens.
    pub fn listen(&self) -> TcpListener {
        within(&self.source, || TcpListener::bind(SOURCE)).expect("a free port")
    }

    /// What connects from the target.
    pub fn connector(&self) -> impl FnMut() -> io::Result<TcpStream> + Send + 'static {
        let target = self.target.clone();
        let source: SocketAddr = SOURCE.parse().expect("an address");
        move || within(&target, || TcpStream::connect_timeout(&source, Duration::from_secs(1)))
    }
}

impl Drop for Backhaul {
    fn drop(&mut self) {
        for ns in [&self.source, &self.target] {
            ip(&["netns", "del", ns]);
        }
    }
}

/// Does something in a network namespace: a socket stays in it.
fn within<T: Send>(ns: &str, make: impl FnOnce() -> T + Send) -> T {
    let ns = File::open(format!("/run/netns/{ns}")).expect("a network namespace");
    let made = std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            setns(&ns, CloneFlags::CLONE_NEWNET).expect("in the namespace");
            make()
        });
        inside.join()
    });
    made.expect("no panic")
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
