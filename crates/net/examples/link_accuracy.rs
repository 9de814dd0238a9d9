//! How exact and how fast a `DelayLink` is on this machine, as a table to quote.
//!
//! ```text
//! cargo run --release -p godwit-net --example link_accuracy             # as root
//! cargo run --release -p godwit-net --example link_accuracy -- --load 4  # beside 4 busy processes
//! ```
//! `--netem` measures a link that the kernel delays instead, where the kernel can.
//!
//! Beside busy processes the threads that measure wait for a processor like anyone else's, and that shows in the
//! table. To see the link alone, start this with `chrt -f 5`: the busy processes stay ordinary.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use godwit_net::{Backend, End, Link, LinkConfig, LinkStats, Netns, Result, netem_supported};

const RTTS_MS: [u32; 5] = [0, 5, 30, 60, 100];
const PING_TIME: Duration = Duration::from_secs(4);
const BULK_TIME: Duration = Duration::from_secs(2);
const BULK_RUNS: usize = 5;

fn main() -> Result<()> {
    let load = load();
    let pid = std::process::id();
    let (a, b) = (Netns::create(&format!("gwt-{pid}-acc-a"))?, Netns::create(&format!("gwt-{pid}-acc-b"))?);
    for ns in [&a, &b] {
        // The usual limit of 4 MiB holds a stream to 140 Mbit/s at 100 ms.
        ns.set_sysctl("net.ipv4.tcp_wmem", "4096 16384 67108864")?;
        ns.set_sysctl("net.ipv4.tcp_rmem", "4096 131072 67108864")?;
    }
    let config = LinkConfig::new(
        End::new(&a, "to-b").addr("10.1.0.1/24".parse()?),
        End::new(&b, "to-a").addr("10.1.0.2/24".parse()?),
    );
    let backend = if std::env::args().any(|a| a == "--netem") { Backend::Netem } else { Backend::Userspace };
    let link = Link::spawn(config, backend)?;
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let keeper = match &link {
        Link::Userspace(link) => format!("thread, {}", link.priority()),
        _ => "netem".into(),
    };
    println!("{cores} cores, {load} busy processes, link kept by: {keeper}");
    match netem_supported() {
        Ok(()) => println!("netem: in this kernel"),
        Err(_) => println!("netem: not in this kernel"),
    }
    let mut busy: Vec<Child> = (0..load).map(|_| spin()).collect();

    println!("\nasked RTT  median   p5       p95      max      round trips   (ms, UDP, 64 bytes)");
    for rtt in RTTS_MS {
        link.set_delay(Duration::from_millis(rtt.into()) / 2)?;
        let mut times = pings(&a, &b);
        times.sort_unstable();
        let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
        println!("{rtt:<9}  {:<7.3}  {:<7.3}  {:<7.3}  {:<7.3}  {}", at(0.5), at(0.05), at(0.95), at(1.0), times.len());
    }
    let pinged = link.stats()?;
    println!("left late by > 0.5 ms: {} of {}, worst {:?}", late(&pinged), packets(&pinged), worst(&pinged));
    println!(
        "\nasked RTT  median  min     max     (Mbit/s, one TCP stream, {BULK_RUNS} runs of {} s)",
        BULK_TIME.as_secs()
    );
    for rtt in RTTS_MS {
        link.set_delay(Duration::from_millis(rtt.into()) / 2)?;
        let mut rates: Vec<f64> = (0..BULK_RUNS).map(|_| bulk(&a, &b)).collect();
        rates.sort_by(f64::total_cmp);
        println!("{rtt:<9}  {:<6.0}  {:<6.0}  {:<6.0}", rates[BULK_RUNS / 2], rates[0], rates[BULK_RUNS - 1]);
    }
    let all = link.stats()?;
    println!("left late by > 0.5 ms: {} of {}, worst {:?}", late(&all), packets(&all), worst(&all));
    println!("dropped: {}", all.a_to_b.overflowed + all.b_to_a.overflowed);
    for process in &mut busy {
        let _ = process.kill();
        let _ = process.wait();
    }
    Ok(())
}

fn late(s: &LinkStats) -> u64 {
    s.a_to_b.late + s.b_to_a.late
}

fn packets(s: &LinkStats) -> u64 {
    s.a_to_b.packets + s.b_to_a.packets
}

fn worst(s: &LinkStats) -> Duration {
    s.a_to_b.worst_late.max(s.b_to_a.worst_late)
}

fn load() -> usize {
    let args: Vec<String> = std::env::args().collect();
    args.iter().position(|a| a == "--load").and_then(|i| args.get(i + 1)?.parse().ok()).unwrap_or(0)
}

fn spin() -> Child {
    Command::new("chrt").args(["-o", "0", "sh", "-c", "while :; do :; done"]).spawn().expect("start a busy process")
}

/// Round trips one after the other. The reply thread and the pinging one are as busy a machine's ordinary threads
/// are, so under load part of what is measured is theirs.
fn pings(a: &Netns, b: &Netns) -> Vec<Duration> {
    let server = b.enter(|| UdpSocket::bind("10.1.0.2:9000").expect("bind")).expect("enter");
    let client = a.enter(|| UdpSocket::bind("10.1.0.1:0").expect("bind")).expect("enter");
    client.connect("10.1.0.2:9000").expect("connect");
    let echo = thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, from)) = server.recv_from(&mut buffer) {
            if len == 1 {
                return;
            }
            let _ = server.send_to(&buffer[..len], from);
        }
    });
    let mut times = Vec::new();
    let mut buffer = [0; 64];
    let end = Instant::now() + PING_TIME;
    while Instant::now() < end && times.len() < 20_000 {
        let begun = Instant::now();
        client.send(&[0; 64]).expect("send");
        client.recv(&mut buffer).expect("recv");
        times.push(begun.elapsed());
    }
    client.send(&[0]).expect("send");
    let _ = echo.join();
    times
}

fn bulk(a: &Netns, b: &Netns) -> f64 {
    let listener = b.enter(|| TcpListener::bind("10.1.0.2:9001").expect("bind")).expect("enter");
    let mut client = a.enter(|| TcpStream::connect("10.1.0.2:9001").expect("connect")).expect("enter");
    let (mut server, _) = listener.accept().expect("accept");
    let sender = thread::spawn(move || {
        let data = vec![0u8; 1 << 18];
        let end = Instant::now() + BULK_TIME;
        while Instant::now() < end {
            if client.write_all(&data).is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0u8; 1 << 18];
    let (mut total, begun) = (0u64, Instant::now());
    let mut last = begun;
    while let Ok(len @ 1..) = server.read(&mut buffer) {
        total += len as u64;
        last = Instant::now();
    }
    let _ = sender.join();
    total as f64 * 8.0 / last.duration_since(begun).as_secs_f64() / 1e6
}
