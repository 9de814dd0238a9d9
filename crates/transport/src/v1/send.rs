//! The sending side.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use godwit_model::Bytes;

use super::{CHUNK, END, FILE, FORGET, MAGIC, PAGE, PAGES, SYNC, StreamError, VERSION, ZERO, corrupt, io_error};

/// Sends frames; see the module.
#[derive(Debug)]
pub(crate) struct Sender<S> {
    stream: S,
    buffer: Vec<u8>,
    files: u32,
    bytes: u64,
    syncs: u64,
}

impl<S: Read + Write> Sender<S> {
    /// Says hello.
    pub(crate) fn new(mut stream: S) -> Result<Self, StreamError> {
        let mut hello = MAGIC.to_vec();
        hello.push(VERSION);
        stream.write_all(&hello).map_err(io_error("the connection broke at its start"))?;
        Ok(Self { stream, buffer: vec![0; CHUNK], files: 0, bytes: 0, syncs: 0 })
    }

    /// What it has sent so far: contents, without frames.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes(self.bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.stream.write_all(bytes).map_err(io_error("the connection broke while sending"))
    }

    /// Whole pages of a process.
    pub(crate) fn pages(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        debug_assert!(addr.is_multiple_of(PAGE) && (pages.len() as u64).is_multiple_of(PAGE));
        for (n, part) in pages.chunks(CHUNK).enumerate() {
            let mut head = vec![PAGES];
            head.extend(pid.to_le_bytes());
            head.extend((addr + (n * CHUNK) as u64).to_le_bytes());
            head.extend((part.len() as u32).to_le_bytes());
            let mut crc = crc32fast::Hasher::new();
            crc.update(&head[1..]);
            crc.update(part);
            self.put(&head)?;
            self.put(part)?;
            self.put(&crc.finalize().to_le_bytes())?;
        }
        self.bytes += pages.len() as u64;
        Ok(())
    }

    /// So many bytes of a process are zero.
    pub(crate) fn zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.range(ZERO, pid, addr, len)
    }

    /// Nothing is mapped there any more in a process.
    pub(crate) fn forget(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.range(FORGET, pid, addr, len)
    }

    fn range(&mut self, kind: u8, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        let mut frame = vec![kind];
        frame.extend(pid.to_le_bytes());
        frame.extend(addr.to_le_bytes());
        frame.extend(len.to_le_bytes());
        frame.extend(crc32fast::hash(&frame[1..]).to_le_bytes());
        self.put(&frame)
    }

    /// Waits until the receiver has taken in everything so far.
    pub(crate) fn sync(&mut self) -> Result<(), StreamError> {
        self.syncs += 1;
        let mut frame = vec![SYNC];
        frame.extend(self.syncs.to_le_bytes());
        self.put(&frame)?;
        self.stream.flush().map_err(io_error("the connection broke while sending"))?;
        let mut answer = [0; 9];
        self.stream.read_exact(&mut answer).map_err(io_error("the receiver does not confirm"))?;
        if answer[..] == frame[..] { Ok(()) } else { Err(corrupt("the receiver confirmed something else")) }
    }

    /// One file, under a name.
    pub(crate) fn file(&mut self, path: &Path, name: &str) -> Result<(), StreamError> {
        let mut file = File::open(path).map_err(io_error(format!("open {name}")))?;
        let length = file.metadata().map_err(io_error(format!("look at {name}")))?.len();
        let name_length = u16::try_from(name.len()).map_err(|_| corrupt("a file name is too long"))?;
        let mut head = vec![FILE];
        head.extend(name_length.to_le_bytes());
        head.extend(name.as_bytes());
        head.extend(length.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[1..]);
        self.put(&head)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = length;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = file.read(&mut buffer[..want]).map_err(io_error(format!("read {name}")))?;
            if got == 0 {
                return Err(corrupt(format!("{name} became shorter while it was sent")));
            }
            crc.update(&buffer[..got]);
            self.put(&buffer[..got])?;
            left -= got as u64;
        }
        self.buffer = buffer;
        self.put(&crc.finalize().to_le_bytes())?;
        self.files += 1;
        self.bytes += length;
        Ok(())
    }

    /// Ends the stream; returns what was sent when the receiver has confirmed all of it.
    pub(crate) fn finish(mut self) -> Result<Bytes, StreamError> {
        let mut end = vec![END];
        end.extend(self.files.to_le_bytes());
        end.extend(self.bytes.to_le_bytes());
        self.put(&end)?;
        self.stream.flush().map_err(io_error("the connection broke while sending"))?;
        let mut answer = [0];
        self.stream.read_exact(&mut answer).map_err(io_error("the receiver does not confirm"))?;
        if answer[0] == END { Ok(Bytes(self.bytes)) } else { Err(corrupt("the receiver refused")) }
    }
}
