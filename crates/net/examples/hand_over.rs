//! How long the steps of a hand-over take on this machine: route change, capture, release with packets kept.
//!
//! ```text
//! cargo run --release -p godwit-net --example hand_over      # as root
//! ```

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use godwit_net::{DelayLink, End, LinkConfig, Netlink, Netns, PacketHold, Prefix, Result, Route, RouteTo};

const ROUNDS: usize = 200;

fn main() -> Result<()> {
    let ns = |what: &str| Netns::create(&format!("gwt-{}-hand-{what}", std::process::id()));
    let (user, gw, one, two) = (ns("user")?, ns("gw")?, ns("one")?, ns("two")?);
    gw.set_sysctl("net.ipv4.ip_forward", "1")?;
    let link = |node: &Netns, dev: &str, net: u8| {
        DelayLink::spawn(LinkConfig::new(
            End::new(&gw, dev).addr(format!("10.{net}.0.1/24").parse()?),
            End::new(node, "up").addr(format!("10.{net}.0.2/24").parse()?),
        ))
    };
    let links = [link(&user, "user", 0)?, link(&one, "one", 1)?, link(&two, "two", 2)?];
    let service: IpAddr = [10, 99, 0, 1].into();
    for (node, net) in [(&user, 0), (&one, 1), (&two, 2)] {
        let nl = Netlink::open(node)?;
        nl.replace_route(&Route::to(Prefix::default_v4()).via([10, net, 0, 1].into()))?;
        if net > 0 {
            nl.add_addr("lo", Prefix::host(service))?;
        }
    }
    let nl = Netlink::open(&gw)?;
    let to = |node: usize| RouteTo::dev(["one", "two"][node]).via([10, node as u8 + 1, 0, 2].into());
    println!("microseconds, median (worst) of {ROUNDS}");

    let mut round = 0;
    row("netlink: replace a route, device by name", || {
        round += 1;
        timed(|| nl.replace_route(&to(round % 2).route(service)))
    })?;
    let prepared = [nl.prepare_route(&to(0).route(service))?, nl.prepare_route(&to(1).route(service))?];
    row("netlink: install a prepared route", || {
        round += 1;
        timed(|| nl.install(&prepared[round % 2]))
    })?;

    let hold = PacketHold::open(&gw, "hold0")?;
    row("hold: capture", || {
        let time = timed(|| hold.capture(service))?;
        hold.release(service, &to(0))?;
        Ok(time)
    })?;
    let client = user.enter(|| UdpSocket::bind("10.0.0.2:0").expect("bind"))?;
    for packets in [0, 1, 10, 100, 1000] {
        row(&format!("hold: release, prepared, {packets} packets kept"), || {
            round += 1;
            hold.capture(service)?;
            for _ in 0..packets {
                client.send_to(&[0; 200], (service, 9)).expect("send");
            }
            while hold.stats(service)?.packets < packets {
                std::thread::yield_now();
            }
            let prepared = hold.prepare(service, &to(round % 2))?;
            timed(|| hold.release_prepared(&prepared).map(drop))
        })?;
    }
    drop(hold);
    drop(links);
    Ok(())
}

fn timed(f: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    f()?;
    Ok(begun.elapsed())
}

fn row(what: &str, mut f: impl FnMut() -> Result<Duration>) -> Result<()> {
    let mut times = (0..ROUNDS).map(|_| f()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    println!("{what:<44} {:>8.1} ({:.1})", micros(times[ROUNDS / 2]), micros(times[ROUNDS - 1]));
    Ok(())
}
