//! What goes to a service address while it moves: both families, and more than TCP.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use crate::e2e::ping::Pings;
use crate::e2e::service::{Client, Datagrams, address, echo, of_the_user, scenario};
use crate::e2e::{Bed, Call, PATIENCE, STRATEGIES, skip, until};

/// Where `status` says how a workload is reached, in each family of this kernel.
fn families(test: &str) -> &'static [&'static str] {
    if Path::new("/proc/sys/net/ipv6").exists() {
        return &["service", "service_v6"];
    }
    skip(test, "this kernel has no IPv6; tried with IPv4 alone");
    &["service"]
}

/// Answers datagrams of both families as they come.
const UDP: &str = r#"use IO::Socket::IP;
    my $u = IO::Socket::IP->new(Type => SOCK_DGRAM, LocalHost => -e "/proc/sys/net/ipv6" ? "::" : "0.0.0.0",
        LocalPort => 5555, V6Only => 0) or die "udp: $!";"#;

pub fn clients_of_every_protocol_and_family_see_no_harm() {
    let families = families("clients of every protocol and family");
    let speak: Vec<_> = ["tcp", "udp"].into_iter().flat_map(|p| families.iter().map(move |f| (p, f))).collect();
    let family = |field: &str| if field == "service" { "ipv4" } else { "ipv6" };
    let users: String = (speak.iter().enumerate())
        .map(|(n, (protocol, field))| {
            let family = family(field);
            format!("  - {{ name: u{n}, protocol: {protocol}, family: {family}, rtt: {{ a: 1ms, b: 3ms }} }}\n")
        })
        .collect();
    let names: Vec<_> = (0..speak.len()).map(|n| format!("u{n}")).collect();
    let bed = Bed::of(&format!(
        "version: 1\nname: all\nduration: 60s\nnodes: [ {{ name: a }}, {{ name: b }} ]\nusers:\n{users}\
         workloads:\n  - {{ name: app, node: a, users: [{}], memory: 32MiB, dirty_rate: 1MiB/s }}\n",
        names.join(", ")
    ));
    let received = || -> Vec<u64> {
        let status = bed.status();
        let clients = status["clients"].as_array().expect("a list");
        assert_eq!(clients.len(), speak.len(), "{status:#}");
        clients.iter().map(|client| client["received"].as_u64().expect("a number")).collect()
    };
    let until_all_are_answered = || {
        let before = received();
        until("all clients are answered", || {
            received().iter().zip(&before).all(|(now, before)| *now > before + 50).then_some(())
        });
    };
    for (to, strategy) in ["b", "a"].into_iter().cycle().zip(STRATEGIES.iter().cycle()).take(6) {
        until_all_are_answered();
        bed.migrate_by(strategy, "app", to);
    }
    until_all_are_answered();
    let status = bed.status();
    for client in status["clients"].as_array().expect("a list") {
        assert_eq!((&client["harm"], &client["broken"]), (&0.into(), &0.into()), "{status:#}");
    }
}

pub fn a_connection_by_ipv6_moves() {
    if families("a connection by IPv6").len() < 2 {
        return;
    }
    const BOTH: &str = r#"use IO::Socket::IP; *IO::Socket::INET::new = sub { shift; my %h = @_;
        IO::Socket::IP->new(%h, LocalHost => "::", V6Only => 0) };"#;
    let bed = Bed::of(&echo(BOTH));
    let mut client = Client::connect_by_v6(&bed, 0);
    client.ask();
    for (to, strategy) in ["b", "a", "b"].into_iter().zip(STRATEGIES) {
        bed.migrate_by(strategy, "app", to);
        client.ask();
    }
    // One by IPv4 beside it, to the same socket.
    let mut other = Client::connect_to(&bed, "app", 4);
    other.ask();
    bed.migrate("app", "a");
    other.ask();
}

pub fn no_datagram_is_lost_and_none_is_overtaken() {
    let serve = format!("{UDP}\nwhile (1) {{ my $from = recv $u, my $it, 4096, 0; send $u, $it, 0, $from if $from }}");
    let bed = Bed::of(&scenario(&["perl", "-e", &serve]));
    let fields = families("datagrams");
    let all: Vec<_> = fields.iter().map(|field| Datagrams::start(&bed, field)).collect();
    for (to, strategy) in ["b", "a", "b"].into_iter().zip(STRATEGIES) {
        all.iter().for_each(Datagrams::until_more_are_answered);
        bed.migrate_by(strategy, "app", to);
    }
    all.iter().for_each(Datagrams::until_more_are_answered);
    for (datagrams, field) in all.into_iter().zip(fields) {
        let (sent, answered) = datagrams.finish();
        assert!(answered.iter().copied().eq(0..sent), "{field}: {sent} were sent; answered: {answered:?}");
    }
}

/// Told to, it reads nothing until there is a file.
fn that_waits() -> String {
    let serve = format!(
        "{UDP}\nwhile (1) {{ my $from = recv $u, my $it, 65535, 0; next unless $from; \
         if ($it eq \"wait\") {{ select undef, undef, undef, 0.05 until -e \"/tmp/go\"; unlink \"/tmp/go\" }} \
         send $u, $it, 0, $from }}"
    );
    scenario(&["perl", "-e", &serve])
}

/// Datagrams to a service that waits, and answers in their order when it goes on.
struct Waiting {
    socket: UdpSocket,
    datagrams: Vec<Vec<u8>>,
}

impl Waiting {
    fn new(bed: &Bed, field: &str) -> Self {
        const MANY: u32 = 40;
        let service = address(bed, "app", field);
        let socket = of_the_user(bed, move || {
            let any = if service.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.connect(service).expect("a way");
            socket
        });
        // Short ones, some that are empty, and some that no link takes in one piece.
        let datagram = |n: u32| n.to_be_bytes().repeat(if n % 10 == 9 { 700 } else { n as usize % 3 });
        let datagrams = [b"wait".to_vec()].into_iter().chain((0..MANY).map(datagram)).collect();
        Self { socket, datagrams }
    }

    fn send(&self) {
        for datagram in &self.datagrams {
            assert_eq!(self.socket.send(datagram).expect("it is sent"), datagram.len());
        }
    }

    /// Lets it go on at a node, and looks whether each is answered, once.
    #[track_caller]
    fn are_answered_at(&self, bed: &Bed, node: &str) {
        bed.node(node).run(["runc", "exec", "app", "touch", "/tmp/go"]).code(0);
        let mut buffer = vec![0; 65_535];
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        for (n, datagram) in self.datagrams.iter().enumerate() {
            let len = self.socket.recv(&mut buffer).expect("an answer");
            assert_eq!(&buffer[..len], datagram, "answer {n}");
        }
        self.socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a time");
        assert!(self.socket.recv(&mut buffer).is_err(), "something was answered twice");
    }
}

pub fn what_a_service_has_not_read_comes_first() {
    let bed = Bed::of(&that_waits());
    for field in families("unread datagrams") {
        let waiting = Waiting::new(&bed, field);
        for (to, strategy) in ["b", "a"].into_iter().zip(["stop-copy", "pre-copy"]) {
            waiting.send();
            bed.migrate_by(strategy, "app", to);
            waiting.are_answered_at(&bed, to);
        }
    }
}

pub fn what_a_service_has_not_read_it_has_once_after_a_cancelled_move() {
    let bed = Bed::of(&that_waits());
    for field in families("datagrams and cancelled moves") {
        let waiting = Waiting::new(&bed, field);
        // Too late where the machine was slow: then it went on to its end, and the next one goes back.
        let cancelled = (0..5).any(|_| {
            let from = bed.node_of("app");
            let to = if from == "a" { "b" } else { "a" };
            waiting.send();
            let mut asked = bed.ask_to_migrate("app", to);
            asked.until_phase("dump").expect("it comes to the dump");
            bed.call(&["migrate", "--cancel", "app"]);
            let rolled_back = asked.record()["outcome"] == "rolled-back";
            waiting.are_answered_at(&bed, if rolled_back { &from } else { to });
            rolled_back
        });
        assert!(cancelled, "five moves went through before they could be cancelled");
    }
}

pub fn what_a_stopped_service_had_not_read_waits_for_it() {
    let bed = Bed::of(&that_waits());
    let file = bed.path("it.ckpt");
    let file = file.to_str().expect("UTF-8");
    for (field, to) in families("datagrams and stopped services").iter().zip(["b", "a"]) {
        let waiting = Waiting::new(&bed, field);
        waiting.send();
        bed.call(&["checkpoint", "app", file, "--stop", "--force"]).code(0);
        bed.call(&["restore", file, "--node", to]).code(0);
        waiting.are_answered_at(&bed, to);
    }
}

pub fn no_ping_is_lost_and_nothing_is_unreachable() {
    let bed = Bed::of(&echo(""));
    let all: Vec<_> = families("pings").iter().map(|field| Pings::start(&bed, field)).collect();
    for (to, strategy) in ["b", "a", "b"].into_iter().zip(STRATEGIES) {
        all.iter().for_each(Pings::until_more_are_answered);
        bed.migrate_by(strategy, "app", to);
    }
    all.iter().for_each(Pings::until_more_are_answered);
    all.into_iter().for_each(Pings::were_all_answered);
}

pub fn a_services_sockets_are_listed_without_going_through_the_hosts() {
    const OWN: &str = "/proc/sys/net/ipv4/tcp_child_ehash_entries";
    if !Path::new(OWN).exists() {
        return skip("the table of sockets", "this kernel has one for all namespaces (before Linux 6.1)");
    }
    let bed = Bed::of(&echo(""));
    for node in ["a", "b"] {
        let netns = format!("--net=/run/netns/godwit.{}.service.app.{node}", bed.name());
        let buckets = Call::of("nsenter", [&netns, "cat", "/proc/sys/net/ipv4/tcp_ehash_entries"]).run().code(0).out;
        // A shared one is told as a negative number.
        assert_eq!(buckets.trim(), "4096", "on {node}");
    }
}
