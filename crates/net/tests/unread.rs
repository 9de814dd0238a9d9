//! Datagrams that a process has got and not read are found, stay where they are, and can be replayed elsewhere.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};

use godwit_net::{Netns, PacketHold, Room, SockDiag, unread_datagrams};
use support::star::{SERVICES, ip, towards, world};
use support::{PATIENCE, can_run, until};

/// The addresses at which a child of this test takes datagrams.
const TAKES_AT: &str = "GODWIT_TEST_TAKES_DATAGRAMS_AT";

/// A process in a namespace, that reads when it is told to.
struct Taker {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Taker {
    fn start(ns: &Netns, at: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "taker", "--nocapture"]).env(TAKES_AT, at);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = ns.enter(|| command.spawn().unwrap()).unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        let mut taker = Self { child, says };
        assert_eq!(taker.next_said(), "ready");
        taker
    }

    /// What it says beside what libtest says.
    fn next_said(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.says.read_line(&mut line).unwrap() > 0, "it has ended");
            if let Some((_, said)) = line.trim_end().split_once("taker: ") {
                return said.to_owned();
            }
        }
    }

    /// The lengths and first bytes of so many datagrams, as it reads them.
    fn reads(&mut self, many: usize) -> Vec<String> {
        writeln!(self.child.stdin.as_mut().unwrap(), "{many}").unwrap();
        (0..many).map(|_| self.next_said()).collect()
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn taker() {
    let Ok(at) = std::env::var(TAKES_AT) else { return };
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    println!("taker: ready");
    let mut buffer = vec![0; 65_535];
    for many in std::io::stdin().lines() {
        for _ in 0..many.unwrap().parse().unwrap() {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            println!("taker: {} {}", told(&buffer[..len]), SocketAddr::new(from.ip().to_canonical(), from.port()));
        }
    }
}

fn told(datagram: &[u8]) -> String {
    let sum = datagram.iter().enumerate().fold(0u64, |sum, (n, byte)| sum + (n as u64 + 1) * u64::from(*byte));
    format!("{} {sum}", datagram.len())
}

#[test]
fn what_is_unread_is_replayed_elsewhere_before_what_was_held() {
    if !can_run() {
        return;
    }
    let services = SERVICES.map(ip);
    let world = world(services);
    world.know_neighbours();
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    for (service, bound) in services.into_iter().zip(["0.0.0.0:9000", "[::]:9000"]) {
        let mut takers = [0, 1].map(|n| Taker::start(&world.nodes[n], bound));
        let any: IpAddr = ip(if service.is_ipv4() { "0.0.0.0" } else { "::" });
        let client = world.user.enter(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
        client.connect((service, 9000)).unwrap();
        let from = client.local_addr().unwrap();
        let lengths = [5, 0, 0, 1400, 1, 4000, 0, 1201, 65_000, 7];
        let datagrams: Vec<Vec<u8>> =
            lengths.iter().enumerate().map(|(n, len)| (0..*len).map(|at| (at * 7 + n) as u8).collect()).collect();
        let expected: Vec<String> = datagrams.iter().map(|it| format!("{} {from}", told(it))).collect();
        let diag = SockDiag::open(&world.nodes[0]).unwrap();
        let (early, late) = datagrams.split_at(8);
        for datagram in early {
            let before = diag.unread_datagrams().unwrap();
            client.send(datagram).unwrap();
            until("it is there", || diag.unread_datagrams().unwrap() > before);
        }
        hold.capture(service).unwrap();
        for datagram in late {
            assert_eq!(client.send(datagram).unwrap(), datagram.len());
        }

        let unread = unread_datagrams(&diag, &services).unwrap();
        assert!(unread.iter().all(|packet| packet.dst() == Some(service)), "{unread:?}");
        hold.prepend(service, unread).unwrap();
        hold.release(service, &towards(2, service)).unwrap();
        assert_eq!(takers[1].reads(datagrams.len()), expected, "at the new place");
        assert_eq!(takers[0].reads(early.len()), expected[..early.len()], "they stay where they were");
        assert!(unread_datagrams(&diag, &services).unwrap().is_empty());
    }
}

#[test]
fn there_is_room_for_all_that_is_replayed_at_once() {
    const MANY: u32 = 3000;
    if !can_run() {
        return;
    }
    let services = SERVICES.map(ip);
    let world = world(services);
    world.know_neighbours();
    let hold = PacketHold::open(&world.gw, "hold0").unwrap();
    let mut taker = Taker::start(&world.nodes[1], "[::]:9000");
    let diag = SockDiag::open(&world.nodes[1]).unwrap();
    let client = world.user.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    let replay = |room: bool| {
        hold.capture(services[0]).unwrap();
        for id in 0..MANY {
            client.send_to(&id.to_be_bytes(), (services[0], 9000)).unwrap();
        }
        until("all are kept", || hold.stats(services[0]).unwrap().packets == u64::from(MANY));
        let _room = room.then(|| Room::make(&diag).unwrap());
        hold.release(services[0], &towards(2, services[0])).unwrap();
    };
    replay(true);
    // Also after it is as it was, what is there stays there.
    let expected: Vec<String> = (0..MANY).map(|id| told(&id.to_be_bytes())).collect();
    let read = taker.reads(MANY as usize);
    assert!(read.iter().zip(&expected).all(|(read, expected)| read.starts_with(expected)), "{read:?}");
    // Now, without it, a part is lost: it took none of what a socket has by default.
    replay(false);
    assert!(diag.unread_datagrams().unwrap() < 1 << 20);
}

#[test]
fn what_was_sent_to_another_address_is_left_out() {
    if !can_run() {
        return;
    }
    let services = SERVICES.map(ip);
    let world = world(services);
    let mut taker = Taker::start(&world.nodes[0], "[::]:9000");
    let diag = SockDiag::open(&world.nodes[0]).unwrap();
    for to in ["127.0.0.1:9000", "[::1]:9000"] {
        let before = diag.unread_datagrams().unwrap();
        let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        world.nodes[0].enter(|| UdpSocket::bind(any).unwrap().send_to(b"self", to).unwrap()).unwrap();
        until("it is there", || diag.unread_datagrams().unwrap() > before);
    }
    assert!(unread_datagrams(&diag, &services).unwrap().is_empty());
    assert_eq!(taker.reads(2).len(), 2);
}
