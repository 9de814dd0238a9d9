//! Client and service over a real network, with everything that a migration could do wrong done on purpose: a path that
//! stalls (a proxy), a service that stands still (SIGSTOP), dies (SIGKILL) and is started anew, or never answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use godwit_model::{Bytes, Protocol};
use godwit_traffic::{BreakCause, Client, ClientConfig, ClientError, LiveClient, Service, ServiceConfig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A service in a process of its own: this very test, started again as [`service_child`].
struct ServiceChild {
    child: Child,
    addr: SocketAddr,
}

const CHILD_LISTENS: &str = "GODWIT_TEST_SERVICE_LISTENS";

impl ServiceChild {
    fn start(listen: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service_child", "--nocapture"])
            .env(CHILD_LISTENS, listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let addr = loop {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the child ended without listening");
            if let Some(addr) = line.trim_end().rsplit_once("listens at ").and_then(|(_, addr)| addr.parse().ok()) {
                break addr;
            }
        };
        // What libtest says at the end goes nowhere; closing it here would be a panic there.
        thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        Self { child, addr }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for ServiceChild {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn service_child() {
    let Ok(listen) = std::env::var(CHILD_LISTENS) else { return };
    let config = ServiceConfig { memory: Bytes(4 << 20), ..ServiceConfig::new(listen.parse().unwrap()) };
    let service = Service::bind(config).unwrap();
    println!("listens at {}", service.local_addr());
    // Should the parent die, its end of the pipe is closed, and this ends too.
    service.run(std::io::stdin()).unwrap();
}

/// A way to the service that can be shut: what comes meanwhile is kept.
struct Proxy {
    addr: SocketAddr,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Proxy {
    fn to(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let gate = Arc::new((Mutex::new(true), Condvar::new()));
        let shared = Arc::clone(&gate);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let service = TcpStream::connect(service).unwrap();
                for (from, to) in [(&client, &service), (&service, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let gate = Arc::clone(&shared);
                    thread::spawn(move || carry(from, to, &gate));
                }
            }
        });
        Self { addr, gate }
    }

    fn open(&self, is_open: bool) {
        *self.gate.0.lock().unwrap() = is_open;
        self.gate.1.notify_all();
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, gate: &(Mutex<bool>, Condvar)) {
    let mut chunk = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        drop(gate.1.wait_while(gate.0.lock().unwrap(), |is_open| !*is_open).unwrap());
        if to.write_all(&chunk[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Looks until it is so; how long that takes is no matter, as long as it comes.
fn until(client: &Client, so: impl Fn(&LiveClient) -> bool) -> LiveClient {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let live = client.snapshot();
        if so(&live) {
            return live;
        }
        assert!(Instant::now() < deadline, "still {live:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn connect(addr: SocketAddr) -> Client {
    Client::connect(addr, ClientConfig::default()).unwrap()
}

const STALL: Duration = Duration::from_millis(150);

#[test]
fn nothing_is_lost_between_two_who_are_well() {
    let service = ServiceChild::start("127.0.0.1:0");
    let clients: Vec<Client> = (0..3).map(|_| connect(service.addr)).collect();
    for client in &clients {
        until(client, |live| live.received >= 50);
    }
    for client in clients {
        let report = client.finish().unwrap();
        assert!(report.is_clean() && report.sent == report.received && report.connections == 1, "{report:?}");
        assert!(report.response_median <= report.response_p95 && report.response_p95 <= report.response_max);
        assert!(report.worst_gap.is_some_and(|gap| !gap.is_empty()));
    }
}

#[test]
fn a_path_that_stalls_is_a_gap_and_no_loss() {
    let service = ServiceChild::start("127.0.0.1:0");
    let proxy = Proxy::to(service.addr);
    let client = connect(proxy.addr);
    until(&client, |live| live.received > 10);
    let from = Instant::now();
    proxy.open(false);
    let stalled = until(&client, |live| live.silence >= STALL);
    let to = Instant::now();
    let open = client.worst_gap_between(from, to).unwrap();
    assert!(open.is_open && open.len() >= STALL);
    proxy.open(true);
    until(&client, |live| live.received > stalled.received + 10 && live.waiting < 3);
    let gap = client.worst_gap_between(from, to).unwrap();
    assert!(gap.start < to && gap.end >= to && !gap.is_open && gap.len() >= STALL, "{gap:?}");
    let after = client.worst_gap_between(gap.end, gap.end + Duration::from_millis(1)).unwrap();
    assert!(after.start >= gap.end);
    let report = client.finish().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert!(report.gaps.contains(&gap) && report.response_max.unwrap() > Duration::from_millis(50));
}

#[test]
fn a_service_that_stands_still_is_a_gap_and_no_loss() {
    let service = ServiceChild::start("127.0.0.1:0");
    let client = connect(service.addr);
    until(&client, |live| live.received > 10);
    let from = Instant::now();
    service.signal(Signal::SIGSTOP);
    let stalled = until(&client, |live| live.silence >= STALL);
    let to = Instant::now();
    service.signal(Signal::SIGCONT);
    until(&client, |live| live.received > stalled.received + 10);
    assert!(client.worst_gap_between(from, to).unwrap().len() >= STALL);
    let report = client.finish().unwrap();
    assert!(report.is_clean(), "{report:?}");
    let summary = report.summary("car".parse().unwrap(), "video".parse().unwrap());
    assert!(summary.is_clean() && summary.worst_gap_ms >= STALL.as_secs_f64() * 1e3);
}

#[test]
fn a_killed_service_is_a_broken_connection_and_its_successor_a_restart() {
    let mut service = ServiceChild::start("127.0.0.1:0");
    let addr = service.addr;
    let client = connect(addr);
    until(&client, |live| live.received > 10);
    service.child.kill().unwrap();
    let broken = until(&client, |live| live.broken > 0 && !live.is_connected);
    let successor = ServiceChild::start(&addr.to_string());
    until(&client, |live| live.received > broken.received + 10);
    let report = client.finish().unwrap();
    // The dying listener may take one more connection that nobody serves.
    assert_eq!(report.connections, report.broken + 1, "{report:?}");
    assert_eq!((report.restarts, report.rewinds), (1, 0), "{report:?}");
    assert!(matches!(report.breaks[0].cause, BreakCause::Reset | BreakCause::Closed));
    assert_eq!(report.unanswered, report.sent - report.received);
    assert!(!report.is_clean());
    drop(successor);
}

#[test]
fn who_never_answers_is_given_up_and_called_again() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = ClientConfig { silence_limit: Duration::from_millis(50), ..ClientConfig::default() };
    let client = Client::connect(silent.local_addr().unwrap(), config).unwrap();
    until(&client, |live| live.broken >= 2);
    let report = client.finish().unwrap();
    assert!(report.connections >= 2 && report.received == 0 && report.unanswered == report.sent);
    assert!(report.breaks.iter().all(|b| b.cause == BreakCause::Silent), "{report:?}");
    assert!(report.worst_gap.unwrap().len() >= Duration::from_millis(100));
}

#[test]
fn who_talks_nonsense_is_refused() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = other.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in other.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
            let _ = stream.read(&mut [0; 64]);
        }
    });
    let client = connect(addr);
    until(&client, |live| live.broken >= 1);
    assert_eq!(client.finish().unwrap().breaks[0].cause, BreakCause::Garbage);
}

#[test]
fn a_service_that_is_late_is_waited_for_and_one_that_never_comes_is_an_error() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = ClientConfig { connect_timeout: Duration::from_millis(30), ..ClientConfig::default() };
    let error = Client::connect(addr, config).unwrap_err();
    assert!(matches!(error, ClientError::Connect { addr: named, .. } if named == addr), "{error:?}");

    let coming = thread::spawn(move || ServiceChild::start(&addr.to_string()));
    let config = ClientConfig { connect_timeout: Duration::from_secs(60), ..ClientConfig::default() };
    let client = Client::connect(addr, config).unwrap();
    until(&client, |live| live.received > 3);
    assert!(client.finish().unwrap().is_clean());
    drop(coming.join());
}

#[test]
fn large_payloads_through_a_stall_are_all_accounted_for() {
    let service = ServiceChild::start("127.0.0.1:0");
    let proxy = Proxy::to(service.addr);
    let config = ClientConfig {
        payload: 60_000,
        period: Duration::from_millis(1),
        drain: Duration::from_secs(60),
        ..ClientConfig::default()
    };
    let client = Client::connect(proxy.addr, config).unwrap();
    until(&client, |live| live.received > 10);
    proxy.open(false);
    until(&client, |live| live.silence >= 3 * STALL);
    proxy.open(true);
    let report = client.finish().unwrap();
    assert!(report.is_clean() && report.sent == report.received, "{report:?}");
}

fn by_datagrams() -> ClientConfig {
    ClientConfig { protocol: Protocol::Udp, ..ClientConfig::default() }
}

#[test]
fn by_datagrams_too_nothing_is_lost_between_two_who_are_well() {
    let service = ServiceChild::start("[::]:0");
    for host in ["127.0.0.1", "[::1]"] {
        let addr: SocketAddr = format!("{host}:{}", service.addr.port()).parse().unwrap();
        // Cut to what a datagram carries.
        let config = ClientConfig { payload: 10_000, ..by_datagrams() };
        let [client, beside] = [Client::connect(addr, config).unwrap(), connect(addr)];
        until(&client, |live| live.received > 50);
        for report in [client, beside].map(|client| client.finish().unwrap()) {
            assert!(report.is_clean() && report.sent == report.received, "{report:?}");
            assert_eq!(report.connections, 1);
        }
    }
}

/// Hands datagrams on and back, the answers as `answers` says: given the how manieth it is (from 1), how often which of
/// the answers so far, newest first, go back.
fn relay(to: SocketAddr, answers: impl Fn(usize) -> &'static [usize] + Send + 'static) -> SocketAddr {
    let inside = UdpSocket::bind("127.0.0.1:0").unwrap();
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    outside.connect(to).unwrap();
    let addr = inside.local_addr().unwrap();
    thread::spawn(move || {
        let (mut buffer, mut seen) = ([0; 2000], Vec::new());
        loop {
            let (len, from) = inside.recv_from(&mut buffer).unwrap();
            outside.send(&buffer[..len]).unwrap();
            let len = outside.recv(&mut buffer).unwrap();
            seen.push(buffer[..len].to_vec());
            for back in answers(seen.len()) {
                inside.send_to(&seen[seen.len() - 1 - back], from).unwrap();
            }
        }
    });
    addr
}

#[test]
fn a_datagram_that_is_lost_doubled_or_overtaken_is_found() {
    let service = ServiceChild::start("127.0.0.1:0");
    let addr = relay(service.addr, |nth| match nth {
        10 | 11 | 30 => &[],
        20 => &[0, 0],
        31 => &[0, 1],
        _ => &[0],
    });
    let config = ClientConfig { drain: Duration::from_millis(200), ..by_datagrams() };
    let client = Client::connect(addr, config).unwrap();
    let live = until(&client, |live| live.received > 50);
    assert!(live.harm >= 3 && live.broken == 0, "it is known at once: {live:?}");
    let report = client.finish().unwrap();
    assert_eq!((report.duplicated, report.reordered, report.broken), (1, 1, 0), "{report:?}");
    assert!(report.unanswered >= 2 && report.bytes_missing > 0 && !report.is_clean(), "{report:?}");
    assert_eq!((report.restarts, report.rewinds), (0, 0), "{report:?}");
}

#[test]
fn by_datagrams_a_killed_service_is_unreachable_and_its_successor_a_restart() {
    let mut service = ServiceChild::start("127.0.0.1:0");
    let addr = service.addr;
    let client = Client::connect(addr, by_datagrams()).unwrap();
    until(&client, |live| live.received > 10);
    service.child.kill().unwrap();
    let broken = until(&client, |live| live.broken > 0);
    let successor = ServiceChild::start(&addr.to_string());
    until(&client, |live| live.received > broken.received + 10);
    let report = client.finish().unwrap();
    assert_eq!((report.restarts, report.rewinds), (1, 0), "{report:?}");
    assert!(report.breaks.iter().all(|b| b.cause == BreakCause::Reset), "{report:?}");
    assert!(report.unanswered > 0 && !report.is_clean());
    drop(successor);
}
