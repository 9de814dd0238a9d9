use std::io::{PipeWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;

use super::*;
use crate::{Client, ClientConfig, wire};

/// A service on a thread.
struct Running {
    addr: SocketAddr,
    stop: PipeWriter,
    thread: JoinHandle<ServiceReport>,
}

impl Running {
    fn new(config: ServiceConfig) -> Self {
        Self::of(Service::bind(config).unwrap())
    }

    fn of(service: Service) -> Self {
        let addr = service.local_addr();
        let (reader, stop) = io::pipe().unwrap();
        Self { addr, stop, thread: std::thread::spawn(move || service.run(reader).unwrap()) }
    }

    fn stream(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        // So that a test fails instead of hanging.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn stop(self) -> ServiceReport {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

fn config() -> ServiceConfig {
    ServiceConfig { memory: Bytes(1 << 20), ..ServiceConfig::new("127.0.0.1:0".parse().unwrap()) }
}

fn asked(seqs: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seq in seqs {
        wire::put_request(&mut bytes, seq, 0, 64);
    }
    bytes
}

/// Reads to the end of the connection; the sequence numbers of the answers.
fn read_answers(stream: &mut TcpStream) -> Vec<u64> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let (mut seqs, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((answer, len)) = wire::answer(rest).unwrap() {
        assert!(answer.is_intact && wire::wrong_bytes(answer.seq, 64, answer.payload) == 0);
        assert_eq!(answer.standing.nth, seqs.len() as u64 + 1);
        seqs.push(answer.seq);
        rest = &rest[len..];
    }
    assert!(rest.is_empty());
    seqs
}

#[test]
fn a_half_closed_connection_gets_its_answers_then_ends() {
    let service = Running::new(config());
    let mut stream = service.stream();
    stream.write_all(&asked(0..100)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_answers(&mut stream), Vec::from_iter(0..100));
    let report = service.stop();
    assert_eq!((report.answered, report.connections, report.refused), (100, 1, 0));
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let service = Running::new(config());
    let client = Client::connect(service.addr, ClientConfig::default()).unwrap();
    let mut flipped = asked([7]);
    flipped[40] ^= 1;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &flipped, &[0; 1000]] {
        let mut stream = service.stream();
        stream.write_all(garbage).unwrap();
        let mut rest = Vec::new();
        // Closed with what was unread (a RST) or without (an EOF).
        let _ = stream.read_to_end(&mut rest).inspect_err(|e| assert_eq!(e.kind(), ErrorKind::ConnectionReset));
        assert!(rest.is_empty());
    }
    let mut stream = service.stream();
    stream.write_all(&[asked([5]), b"garbage".to_vec()].concat()).unwrap();
    assert_eq!(read_answers(&mut stream), [5], "what was asked well before is answered");
    assert!(client.finish().unwrap().is_clean());
    assert_eq!(service.stop().refused, 4);
}

#[test]
fn clients_that_vanish_or_never_read_harm_nobody() {
    let service = Running::new(ServiceConfig { memory: Bytes(0), ..config() });
    let mut vanishing = service.stream();
    vanishing.write_all(&asked([0])[..20]).unwrap();
    socket2::SockRef::from(&vanishing).set_linger(Some(Duration::ZERO)).unwrap();
    drop(vanishing);
    // Asks until the service has taken no more for a while (how long only decides how hard the test is), reads nothing.
    let deaf = service.stream();
    deaf.set_nonblocking(true).unwrap();
    let mut seq = 0;
    let mut pending = Vec::new();
    let mut stuck = 0;
    while stuck < 50 {
        if pending.is_empty() {
            pending = asked(seq..seq + 500);
            seq += 500;
        }
        match (&deaf).write(&pending) {
            Ok(len) => {
                pending.drain(..len);
                stuck = 0;
            }
            Err(_) => {
                stuck += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    let client = Client::connect(service.addr, ClientConfig::default()).unwrap();
    while client.snapshot().received < 20 {
        std::thread::yield_now();
    }
    assert!(client.finish().unwrap().is_clean());
    drop(deaf);
    assert_eq!(service.stop().connections, 3);
}

#[test]
fn more_connections_than_allowed_wait_for_their_turn() {
    let service = Running::new(ServiceConfig { max_connections: 1, ..config() });
    let mut first = service.stream();
    first.write_all(&asked([1])).unwrap();
    first.read_exact(&mut [0; wire::ANSWER_HEADER + 64]).unwrap();
    let mut second = service.stream();
    second.write_all(&asked([2])).unwrap();
    second.shutdown(Shutdown::Write).unwrap();
    drop(first);
    assert_eq!(read_answers(&mut second), [2]);
    assert_eq!(service.stop().connections, 2);
}

#[test]
fn a_flipped_bit_of_memory_is_told_to_the_client() {
    let mut service = Service::bind(config()).unwrap();
    service.memory.flip(200, 12_345);
    let service = Running::of(service);
    let client = Client::connect(service.addr, ClientConfig::default()).unwrap();
    while client.snapshot().memory_bad == 0 {
        std::thread::yield_now();
    }
    let report = client.finish().unwrap();
    assert_eq!((report.memory_bad, report.memory.bad, report.memory.pages), (1, 1, 256));
    assert!(!report.is_clean());
    assert_eq!(service.stop().memory.bad, 1);
}

#[test]
fn the_whole_memory_is_checked_and_written_while_it_serves() {
    let service = Running::new(ServiceConfig { check_per_second: Some(Bytes(64 << 20)), ..config() });
    let client = Client::connect(service.addr, ClientConfig::default()).unwrap();
    while client.snapshot().received < 20 {
        std::thread::yield_now();
    }
    let now = Instant::now();
    let (at, work) = client.work().unwrap();
    assert!(at <= now && work.written > 0 && work.writing_ns > 0, "{work:?}");
    assert!(client.longest_step_between(now - Duration::from_secs(60), now).is_some());
    let report = client.finish().unwrap();
    assert!(report.is_clean());
    assert!(service.stop().memory.checked > 0);
}

#[test]
fn an_address_that_is_taken_is_an_error_that_names_it() {
    let service = Running::new(config());
    let error = Service::bind(ServiceConfig::new(service.addr)).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen at {}", service.addr));
    service.stop();
}

#[test]
fn an_ipv6_wildcard_takes_ipv4() {
    let Ok(service) = Service::bind(ServiceConfig { listen: "[::]:0".parse().unwrap(), ..config() }) else {
        let _ = writeln!(io::stderr(), "SKIPPED: no IPv6 here");
        return;
    };
    let port = service.local_addr().port();
    let service = Running::of(service);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&asked([9])).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_answers(&mut stream), [9]);
    service.stop();
}
