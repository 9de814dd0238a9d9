//! A workload that is no part of Godwit: an echo service in Perl, and a client of it in the user's namespace.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::bed::Bed;
use super::image::EVAL;
use super::{PATIENCE, until};

/// Answers each line with the number of lines so far, so that a copy that began anew is found out.
const ECHO: &str = r#"use IO::Socket::INET; use IO::Select;
my $l = IO::Socket::INET->new(Listen => 16, LocalPort => 5555, ReuseAddr => 1) or die "listen: $!";
my ($s, $n) = (IO::Select->new($l), 0);
while (1) { for my $h ($s->can_read) {
  if ($h == $l) { $s->add(scalar $l->accept) }
  elsif (sysread $h, my $line, 4096) { syswrite $h, ++$n . " $line" }
  else { $s->remove($h); close $h } } }"#;

/// A scenario of two nodes, `a` and `b`, and a workload `app` on `a` that runs `command`.
pub fn scenario(command: &[&str]) -> String {
    let command = serde_json::to_string(command).expect("plain strings");
    format!(
        "version: 1\nname: custom\nduration: 60s\n\
         nodes: [ {{ name: a }}, {{ name: b }} ]\n\
         users: [ {{ name: car, rtt: {{ a: 1ms, b: 2ms }} }} ]\n\
         workloads:\n  - {{ name: app, node: a, users: [car], port: 5555, command: {command} }}\n"
    )
}

/// The same with the echo service, which does `first` (Perl) before it listens.
pub fn echo(first: &str) -> String {
    scenario(&["perl", "-e", &format!("{first}\n{ECHO}")])
}

/// The same, which evaluates each line that it gets (Perl) and answers with the result.
pub fn answering(first: &str) -> String {
    scenario(&["perl", "-e", &format!("{first}\n{EVAL}")])
}

/// Where a workload or copy is reached: `service` or `service_v6` in its status.
pub fn address(bed: &Bed, workload: &str, field: &str) -> SocketAddr {
    let status = bed.status();
    let found = status["workloads"].as_array().expect("a list").iter().find(|w| w["name"] == workload);
    found.expect("it is there")[field].as_str().and_then(|text| text.parse().ok()).expect("an address")
}

/// What `open` makes in the user's namespace.
pub fn of_the_user<T: Send + 'static>(bed: &Bed, open: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = format!("/run/netns/godwit.{}.user.car", bed.name());
    let opened = thread::spawn(move || {
        setns(File::open(netns).expect("the user is there"), CloneFlags::CLONE_NEWNET).expect("we are root");
        open()
    });
    opened.join().expect("it opens")
}

/// A connection of the user's to the service.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    answers: u64,
}

impl Client {
    /// Connects from the user's namespace.
    pub fn connect(bed: &Bed) -> Self {
        Self::connect_to(bed, "app", 0)
    }

    /// The same to any workload or copy, which has answered so often before.
    pub fn connect_to(bed: &Bed, workload: &str, answers: u64) -> Self {
        Self::connect_at(bed, address(bed, workload, "service"), answers)
    }

    /// The same to the workload by IPv6.
    pub fn connect_by_v6(bed: &Bed, answers: u64) -> Self {
        Self::connect_at(bed, address(bed, "app", "service_v6"), answers)
    }

    fn connect_at(bed: &Bed, address: SocketAddr, answers: u64) -> Self {
        let stream =
            of_the_user(bed, move || until("a connection", || TcpStream::connect_timeout(&address, PATIENCE).ok()));
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        Self { stream: BufReader::new(stream), answers }
    }

    /// The other end has closed the connection, or does not know it.
    #[track_caller]
    pub fn is_closed(&mut self) {
        let mut line = String::new();
        let asked = writeln!(self.stream.get_mut(), "hello");
        let read = asked.and_then(|()| self.stream.read_line(&mut line));
        let timed_out = read.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out && !matches!(read, Ok(1..)), "{read:?}: {line:?}");
    }

    /// Says a line; the answer to it.
    #[track_caller]
    pub fn say(&mut self, text: &str) -> String {
        // At once: the service takes what comes for a line.
        self.stream.get_mut().write_all(format!("{text}\n").as_bytes()).expect("the connection lives");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the connection lives");
        assert!(line.ends_with('\n'), "broken off after {line:?}");
        line.trim_end_matches('\n').to_owned()
    }

    /// Sends a line, and reads nothing.
    #[track_caller]
    pub fn send(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").expect("the connection lives");
    }

    /// Waits for the first bytes, and leaves them where they are.
    #[track_caller]
    pub fn has_unread(&self) {
        assert!(self.stream.get_ref().peek(&mut [0]).expect("the connection lives") > 0, "closed, and nothing sent");
    }

    /// All that comes until the other end closes in order; how many bytes that is.
    #[track_caller]
    pub fn read_to_the_end(&mut self) -> usize {
        self.stream.read_to_end(&mut Vec::new()).expect("closed in order, not reset")
    }

    /// Asks once; the connection must live and the service must be the same as before.
    #[track_caller]
    pub fn ask(&mut self) {
        writeln!(self.stream.get_mut(), "hello").expect("the connection lives");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the connection lives");
        self.answers += 1;
        assert_eq!(line, format!("{} hello\n", self.answers));
    }
}

/// Numbered datagrams of the user's to the service, about 500 a second, and what came back.
#[derive(Debug)]
pub struct Datagrams {
    sender: JoinHandle<u32>,
    receiver: JoinHandle<Vec<u32>>,
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
}

impl Datagrams {
    /// From one socket to the address that `status` names in `field`, from now on.
    pub fn start(bed: &Bed, field: &str) -> Self {
        let address = address(bed, "app", field);
        let socket = of_the_user(bed, move || {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.connect(address).expect("a way");
            socket
        });
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a time");
        let (ends, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let sender = {
            let (socket, ends) = (socket.try_clone().expect("a descriptor"), Arc::clone(&ends));
            thread::spawn(move || {
                let mut sent = 0u32;
                while !ends.load(Ordering::Relaxed) {
                    socket.send(&sent.to_be_bytes()).expect("it is sent");
                    sent += 1;
                    thread::sleep(Duration::from_millis(2));
                }
                sent
            })
        };
        let (count, done) = (Arc::clone(&answered), Arc::clone(&ends));
        let receiver = thread::spawn(move || {
            let (mut got, mut buffer) = (Vec::new(), [0; 4]);
            loop {
                match socket.recv(&mut buffer) {
                    Ok(_) => got.push(u32::from_be_bytes(buffer)),
                    // Nothing for seconds, and no more to come.
                    Err(_) if done.load(Ordering::Relaxed) => return got,
                    Err(_) => {}
                }
                count.store(got.len() as u32, Ordering::Relaxed);
            }
        });
        Self { sender, receiver, ends, answered }
    }

    /// Waits for a hundred further answers.
    pub fn until_more_are_answered(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        until("answers", || (self.answered.load(Ordering::Relaxed) > before + 100).then_some(()));
    }

    /// How many were sent, and which came back, in their order.
    pub fn finish(self) -> (u32, Vec<u32>) {
        self.ends.store(true, Ordering::Relaxed);
        (self.sender.join().expect("it sends"), self.receiver.join().expect("it receives"))
    }
}
