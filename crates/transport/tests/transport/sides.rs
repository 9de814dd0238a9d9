//! What the tests send, and where it goes.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use godwit_model::Bytes;
use godwit_transport::{Dial, Options, PAGE, PageSink, Peer, Receiver, Sender, StreamError};

pub(crate) const SIZE: usize = PAGE as usize;

/// Pages by process and address; `None` is zero.
#[derive(Debug, Default, PartialEq, Clone)]
pub(crate) struct Memory(pub(crate) BTreeMap<(i32, u64), Option<Vec<u8>>>);

impl PageSink for Memory {
    fn pages(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        for (n, page) in pages.chunks(SIZE).enumerate() {
            assert_eq!(page.len(), SIZE);
            self.0.insert((pid, addr + n as u64 * PAGE), Some(page.to_vec()));
        }
        Ok(())
    }
    fn zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        (addr..addr + len).step_by(SIZE).for_each(|addr| _ = self.0.insert((pid, addr), None));
        Ok(())
    }
    fn forget(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.0.retain(|(p, a), _| *p != pid || !(addr..addr + len).contains(a));
        Ok(())
    }
}

/// Memory, and messages in their order.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    memory: Memory,
    messages: Vec<Vec<u8>>,
}

impl PageSink for Sink {
    fn pages(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        self.memory.pages(pid, addr, pages)
    }
    fn zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.memory.zero(pid, addr, len)
    }
    fn forget(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.memory.forget(pid, addr, len)
    }
    fn message(&mut self, message: &[u8]) -> Result<(), StreamError> {
        self.messages.push(message.to_vec());
        Ok(())
    }
}

/// What arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) bytes: Bytes,
    pub(crate) memory: Memory,
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
    };
    fs::read_dir(dir).unwrap().map(read).collect()
}

/// A receiver in a thread of its own.
pub(crate) fn receiving(receiver: impl FnOnce(&Path) -> Receiver) -> JoinHandle<Result<Arrived, StreamError>> {
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver(dir.path());
    thread::spawn(move || {
        let mut sink = Sink::default();
        let bytes = receiver.run(&mut sink)?;
        Ok(Arrived { bytes, memory: sink.memory, messages: sink.messages, files: files(dir.path()) })
    })
}

pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) fn dialling(address: SocketAddr) -> impl Dial + 'static {
    move |within: Duration| TcpStream::connect_timeout(&address, within)
}

/// Waits as little as a busy machine allows.
pub(crate) fn quick() -> Options {
    Options {
        heartbeat: Duration::from_millis(20),
        stall: Duration::from_secs(3),
        resume: Duration::from_secs(20),
        connect: Duration::from_secs(10),
        ..Options::default()
    }
}

/// Memory of every kind: each page different, noise, duplicates; a page is a few numbers.
pub(crate) fn page(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let noise = seed.is_multiple_of(3);
    (0..SIZE)
        .map(|n| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if noise { state as u8 } else { (seed as u8).wrapping_add((n / 64) as u8) }
        })
        .collect()
}

pub(crate) fn pages(seeds: impl IntoIterator<Item = u64>) -> Vec<u8> {
    seeds.into_iter().flat_map(page).collect()
}

/// Some of everything; what should be there afterwards.
pub(crate) fn send_everything(mut sender: Sender) -> Result<Arrived, StreamError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("core-1.img"), b"some bytes of an image").unwrap();
    fs::write(dir.path().join("empty.img"), b"").unwrap();
    fs::write(dir.path().join("pages-1.img"), pages((0..150).map(|n| n * 7))).unwrap();
    fs::write(dir.path().join("dump.log"), b"not this one").unwrap();
    let mut memory = Memory::default();
    let first = pages(0..300);
    sender.pages(1, 0x10_0000, &first)?;
    memory.pages(1, 0x10_0000, &first)?;
    // Much of it was there before, in other places.
    let again = pages((0..200).map(|n| if n % 5 == 0 { 1000 + n } else { n }));
    sender.pages(2, 0x7fff_0000_0000, &again)?;
    memory.pages(2, 0x7fff_0000_0000, &again)?;
    sender.sync()?;
    sender.zero(1, 0x20_0000, 16 * PAGE)?;
    memory.zero(1, 0x20_0000, 16 * PAGE)?;
    sender.forget(1, 0x10_0000, 3 * PAGE)?;
    memory.forget(1, 0x10_0000, 3 * PAGE)?;
    sender.pages(1, 0x11_0000, &page(5))?;
    memory.pages(1, 0x11_0000, &page(5))?;
    let messages = vec![Vec::new(), b"a message".to_vec(), vec![7; 256 << 10], pages(0..40)];
    if sender.carries_messages() {
        messages.iter().try_for_each(|message| sender.message(message))?;
        assert!(sender.message(&vec![0; (256 << 10) + 1]).is_err(), "longer than a frame");
    }
    sender.dir(dir.path(), |name| !name.ends_with(".log"))?;
    let bytes = sender.finish()?;
    let mut sent = files(dir.path());
    sent.remove("dump.log");
    Ok(Arrived { bytes, memory, messages, files: sent })
}

/// Sends some of everything, and checks that it arrived.
pub(crate) fn check_everything(sender: Sender, receiver: JoinHandle<Result<Arrived, StreamError>>) {
    let sent = send_everything(sender).unwrap();
    let arrived = receiver.join().unwrap().unwrap();
    assert_eq!(arrived.bytes, sent.bytes);
    assert!(arrived.memory == sent.memory, "other memory arrived than was sent");
    assert!(arrived.messages == sent.messages, "other messages arrived than were sent");
    assert!(arrived.files == sent.files, "other files arrived than were sent");
}

pub(crate) fn plain() -> Peer {
    Peer::Plain
}
