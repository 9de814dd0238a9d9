use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use proptest::prelude::*;

use super::*;

/// Pages by process and address; `None` is zero.
#[derive(Debug, Default, PartialEq)]
struct Memory(BTreeMap<(i32, u64), Option<u8>>);

impl PageSink for Memory {
    fn pages(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        for (n, page) in pages.chunks(PAGE as usize).enumerate() {
            assert!(page.iter().all(|byte| *byte == page[0]));
            self.0.insert((pid, addr + n as u64 * PAGE), Some(page[0]));
        }
        Ok(())
    }
    fn zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        (addr..addr + len).step_by(PAGE as usize).for_each(|addr| _ = self.0.insert((pid, addr), None));
        Ok(())
    }
    fn forget(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.0.retain(|(p, a), _| *p != pid || !(addr..addr + len).contains(a));
        Ok(())
    }
}

/// What a sender would put on the wire; it is told what it wants to hear.
#[derive(Default)]
struct Wire {
    sent: Vec<u8>,
    answers: Vec<u8>,
}
impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = into.len().min(self.answers.len());
        into[..n].copy_from_slice(&self.answers[..n]);
        self.answers.drain(..n);
        Ok(n)
    }
}
impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sent.extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn page(byte: u8) -> Vec<u8> {
    vec![byte; PAGE as usize]
}

/// A stream with everything in it.
fn everything() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("core.img"), b"some bytes").unwrap();
    fs::write(dir.path().join("dump.log"), b"not this one").unwrap();
    let mut wire = Wire { answers: vec![END], ..Wire::default() };
    let mut sender = Sender::new(&mut wire).unwrap();
    sender.pages(7, 0x1000, &[page(1), page(2)].concat()).unwrap();
    sender.zero(7, 0x8000, 2 * PAGE).unwrap();
    sender.forget(7, 0x2000, PAGE).unwrap();
    sender.dir(dir.path(), |name| !name.ends_with(".log")).unwrap();
    sender.finish().unwrap();
    wire.sent
}

fn receive(bytes: &[u8]) -> Result<(Memory, Vec<String>), StreamError> {
    let to = tempfile::tempdir().unwrap();
    let mut memory = Memory::default();
    let mut replay = Replay(bytes);
    Receiver::new(&mut replay, to.path()).run(&mut memory)?;
    let names = fs::read_dir(to.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    Ok((memory, names))
}

struct Replay<'a>(&'a [u8]);
impl Read for Replay<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(into)
    }
}
impl Write for Replay<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn files_and_memory_arrive_whole_and_in_order() {
    let from = tempfile::tempdir().unwrap();
    let big = vec![7u8; 3 * CHUNK + 5];
    fs::write(from.path().join("pages-1.img"), &big).unwrap();
    fs::write(from.path().join("empty"), b"").unwrap();
    let to = tempfile::tempdir().unwrap();
    let (a, mut b) = UnixStream::pair().unwrap();
    let dir = to.path().to_owned();
    let receiver = thread::spawn(move || {
        let mut memory = Memory::default();
        Receiver::new(&mut b, &dir).run(&mut memory).map(|bytes| (bytes, memory))
    });
    let mut sender = Sender::new(a).unwrap();
    let pages: Vec<u8> = (0..300).flat_map(|n| page(n as u8)).collect();
    sender.pages(1, 0x10_000, &pages).unwrap();
    sender.sync().unwrap();
    sender.pages(1, 0x11_000, &page(9)).unwrap();
    sender.dir(from.path(), |_| true).unwrap();
    let sent = sender.finish().unwrap();
    let (received, memory) = receiver.join().unwrap().unwrap();
    assert_eq!(sent, received);
    assert_eq!(memory.0.len(), 300);
    assert_eq!(memory.0[&(1, 0x10_000)], Some(0));
    assert_eq!(memory.0[&(1, 0x11_000)], Some(9), "the later one counts");
    assert_eq!(fs::read(to.path().join("pages-1.img")).unwrap(), big);
    assert_eq!(fs::read(to.path().join("empty")).unwrap(), b"");
}

#[test]
fn zero_and_forgotten_ranges_arrive_and_unwanted_files_stay() {
    let (memory, names) = receive(&everything()).unwrap();
    assert_eq!(memory.0, BTreeMap::from([((7, 0x1000), Some(1)), ((7, 0x8000), None), ((7, 0x9000), None)]));
    assert_eq!(names, ["core.img"]);
}

#[test]
fn a_name_that_leaves_the_directory_is_refused() {
    let mut bytes = b"GWMIG\x01\x01\x09\x00../../etc".to_vec();
    bytes.extend(0u64.to_le_bytes());
    let error = receive(&bytes).unwrap_err().to_string();
    assert!(error.contains("no plain file name"), "{error}");
}

#[test]
fn another_version_is_named() {
    assert!(matches!(receive(b"GWMIG\x02").unwrap_err(), StreamError::Version { theirs: 2 }));
}

#[test]
fn pages_are_refused_where_only_files_are_expected() {
    let to = tempfile::tempdir().unwrap();
    let sent = everything();
    let error = Receiver::new(&mut Replay(&sent), to.path()).run(&mut NoPages).unwrap_err();
    assert!(error.to_string().contains("only files"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_truncated_or_damaged_stream_never_passes(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut sent = everything();
        let at = at.index(sent.len());
        prop_assert!(receive(&sent[..at]).is_err());
        sent[at] ^= flip;
        prop_assert!(receive(&sent).is_err());
    }
}
