//! The workload: a TCP server that counts.
//!
//! `agent-counter PORT MIB PAGES_PER_MS`: answers every 8-byte number with that number and how many it has answered in all
//! its life, while it holds MIB of memory and dirties pages of it. The count is kept in that memory too, and an answer is
//! given only while both agree.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const PAGE: usize = 4096;

struct State {
    answered: u64,
    memory: Vec<u8>,
}

impl State {
    fn page(&mut self, number: u64) -> &mut [u8] {
        let pages = self.memory.len() / PAGE;
        let at = (number.wrapping_mul(7919) % pages as u64) as usize * PAGE;
        &mut self.memory[at..at + 8]
    }

    /// One more; none when the memory does not have the last count where it was put.
    fn count(&mut self) -> Option<u64> {
        let last = self.answered;
        if last > 0 && *self.page(last) != last.to_le_bytes() {
            return None;
        }
        self.answered += 1;
        let now = self.answered;
        self.page(now).copy_from_slice(&now.to_le_bytes());
        Some(now)
    }
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).map_while(|arg| arg.parse().ok()).collect();
    let [port, mib, pages_per_ms] = args[..] else { panic!("agent-counter PORT MIB PAGES_PER_MS") };
    let mut memory = vec![0u8; mib << 20];
    for (i, page) in memory.chunks_mut(PAGE).enumerate() {
        // Not one page like another, and not compressible to nothing.
        page[16..24].copy_from_slice(&(i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    let state = Arc::new(Mutex::new(State { answered: 0, memory }));
    let dirtied = Arc::clone(&state);
    thread::spawn(move || {
        let mut next = 0;
        loop {
            {
                let memory = &mut dirtied.lock().expect("no panic").memory;
                for _ in 0..pages_per_ms {
                    next = (next + 7919) % (memory.len() / PAGE);
                    memory[next * PAGE + 32] = memory[next * PAGE + 32].wrapping_add(1);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    let listener = TcpListener::bind(("0.0.0.0", port as u16)).expect("a free port");
    for stream in listener.incoming().flatten() {
        let state = Arc::clone(&state);
        thread::spawn(move || serve(stream, &state));
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    stream.set_nodelay(true).expect("nodelay");
    let mut number = [0; 8];
    while stream.read_exact(&mut number).is_ok() {
        let Some(answered) = state.lock().expect("no panic").count() else { return };
        if stream.write_all(&[number, answered.to_le_bytes()].concat()).is_err() {
            return;
        }
    }
}
