//! The workload of the tests and benchmarks: a TCP server that counts.
//!
//! `counter PORT MIB PAGES_PER_MS [raw | ping]`: answers every 8-byte number with that number and how many it has
//! answered in all its life, while it holds MIB of memory and dirties pages of it. `raw` and `ping` open a socket
//! that CRIU cannot dump.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

static ANSWERED: AtomicU64 = AtomicU64::new(0);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize| args[i].parse::<usize>().expect("a number");
    let (port, mib, pages_per_ms) = (number(1), number(2), number(3));
    let inet = |kind, protocol| socket(AddressFamily::Inet, kind, SockFlag::empty(), protocol).expect("a socket");
    let _kept = match args.get(4).map(String::as_str) {
        Some("raw") => Some(inet(SockType::Raw, SockProtocol::Icmp)),
        Some("ping") => Some(inet(SockType::Datagram, SockProtocol::Icmp)),
        _ => None,
    };
    let mut memory = vec![0u8; mib << 20];
    for (i, page) in memory.chunks_mut(4096).enumerate() {
        // Not one page like another, and not compressible to nothing.
        page[..8].copy_from_slice(&(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    std::thread::spawn(move || {
        let pages = (memory.len() / 4096).max(1);
        let mut next = 0;
        while pages_per_ms > 0 && !memory.is_empty() {
            for _ in 0..pages_per_ms {
                next = (next + 7919) % pages;
                memory[next * 4096 + 16] = memory[next * 4096 + 16].wrapping_add(1);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Kept to the end of the process.
        std::mem::forget(memory);
    });
    let listener = TcpListener::bind(("0.0.0.0", port as u16)).expect("a free port");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(stream));
    }
}

fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("nodelay");
    let mut number = [0; 8];
    while stream.read_exact(&mut number).is_ok() {
        let answered = ANSWERED.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = [number, answered.to_le_bytes()].concat();
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}
