//! 1 GiB of memory from a sender to a receiver over loopback: in the clear, by TLS, compressed, with duplicates.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use godwit_transport::{Authority, Compression, Options, PAGE, PageSink, Peer, Receiver, Sender, StreamError};

const TOTAL: u64 = 1 << 30;
const CHUNK: usize = 1 << 20;

/// Takes everything, keeps nothing.
struct Nowhere;
impl PageSink for Nowhere {
    fn pages(&mut self, _: i32, _: u64, _: &[u8]) -> Result<(), StreamError> {
        Ok(())
    }
    fn zero(&mut self, _: i32, _: u64, _: u64) -> Result<(), StreamError> {
        Ok(())
    }
    fn forget(&mut self, _: i32, _: u64, _: u64) -> Result<(), StreamError> {
        Ok(())
    }
}

/// Half noise, half text: as memory often is. `pages` different ones.
fn memory(pages: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut memory = vec![0; 64 * CHUNK];
    for (n, page) in memory.chunks_mut(PAGE as usize).enumerate() {
        state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(n as u64 % pages + 1);
        for (at, byte) in page.iter_mut().enumerate() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = if at < PAGE as usize / 2 { state as u8 } else { b"the same words again "[at % 21] };
        }
    }
    std::hint::black_box(state);
    memory
}

fn carry(memory: &[u8], peers: &(Peer, Peer), options: &Options) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let dir = tempfile::tempdir().expect("a directory");
    let receiver = Receiver::listen(listener, peers.1.clone(), options.clone(), dir.path());
    let receiving = thread::spawn(move || receiver.run(&mut Nowhere));
    let dial = move |within: Duration| TcpStream::connect_timeout(&address, within);
    let mut sender = Sender::open(dial, peers.0.clone(), options.clone()).expect("a session");
    for chunk in memory.chunks(CHUNK).cycle().take(TOTAL as usize / CHUNK) {
        sender.pages(1, 0, chunk).expect("it is sent");
    }
    let sent = sender.finish().expect("it is confirmed");
    assert_eq!(sent, receiving.join().expect("no panic").expect("it is received"));
}

fn throughput(c: &mut Criterion) {
    let authority = Authority::new().expect("an authority");
    let node = |own: &str, name: &str| Peer::Node {
        own: Arc::new(authority.issue(own).expect("credentials")),
        name: name.into(),
    };
    let (plain, tls) = ((Peer::Plain, Peer::Plain), (node("a", "b"), node("b", "a")));
    // More different pages than either side remembers, and fewer.
    let (different, alike) = (memory(u64::MAX), memory(1000));
    let of = |compression, duplicates| Options { compression, duplicates, ..Options::default() };
    let mut group = c.benchmark_group("transport");
    group.sample_size(10).throughput(Throughput::Bytes(TOTAL));
    for (name, memory, peers, options) in [
        ("plain", &different, &plain, of(Compression::Off, false)),
        ("tls", &different, &tls, of(Compression::Off, false)),
        ("tls, auto", &different, &tls, of(Compression::Auto, true)),
        ("tls, lz4", &different, &tls, of(Compression::Lz4, false)),
        ("tls, zstd", &different, &tls, of(Compression::Zstd, false)),
        ("tls, duplicates", &alike, &tls, of(Compression::Off, true)),
    ] {
        group.bench_function(name, |b| b.iter(|| carry(memory, peers, &options)));
    }
    group.finish();
}

criterion_group!(benches, throughput);
criterion_main!(benches);
