//! The receiving side.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use godwit_model::Bytes;

use super::{CHUNK, END, FILE, FORGET, PAGE, PAGES, PageSink, SYNC, StreamError, ZERO, corrupt, io_error};
use crate::file::checked_name;

/// Receives what a sender of version 1 sends; see the module.
#[derive(Debug)]
pub(crate) struct Receiver<'a, S> {
    stream: &'a mut S,
    dir: &'a Path,
    buffer: Vec<u8>,
    files: u32,
    bytes: u64,
}

impl<'a, S: Read + Write> Receiver<'a, S> {
    /// Files go into `dir`, which must exist and have none of their names yet.
    pub(crate) fn new(stream: &'a mut S, dir: &'a Path) -> Self {
        Self { stream, dir, buffer: vec![0; CHUNK], files: 0, bytes: 0 }
    }

    /// Receives everything after the hello; returns the bytes of its contents.
    pub(crate) fn run(mut self, pages: &mut dyn PageSink) -> Result<Bytes, StreamError> {
        loop {
            let mut kind = [0];
            self.take(&mut kind)?;
            match kind[0] {
                FILE => self.file()?,
                PAGES => self.pages(pages)?,
                ZERO | FORGET => {
                    let (pid, addr, len) = self.range()?;
                    if kind[0] == ZERO { pages.zero(pid, addr, len)? } else { pages.forget(pid, addr, len)? }
                }
                SYNC => {
                    let mut answer = [SYNC; 9];
                    self.take(&mut answer[1..])?;
                    self.answer(&answer)?;
                }
                END => break,
                other => return Err(corrupt(format!("a frame of unknown kind {other}"))),
            }
        }
        let mut end = [0; 12];
        self.take(&mut end)?;
        let (files, bytes) = (le_u32(&end[..4]), le_u64(&end[4..]));
        if (files, bytes) != (self.files, self.bytes) {
            let came = format!("{} files and {} bytes came", self.files, self.bytes);
            return Err(corrupt(format!("{came}, {files} and {bytes} were sent")));
        }
        self.answer(&[END])?;
        Ok(Bytes(self.bytes))
    }

    fn take(&mut self, into: &mut [u8]) -> Result<(), StreamError> {
        self.stream.read_exact(into).map_err(io_error("the stream ended early"))
    }

    fn answer(&mut self, answer: &[u8]) -> Result<(), StreamError> {
        self.stream.write_all(answer).and_then(|()| self.stream.flush()).map_err(io_error("the sender is gone"))
    }

    fn check(&mut self, crc: crc32fast::Hasher, what: &str) -> Result<(), StreamError> {
        let mut said = [0; 4];
        self.take(&mut said)?;
        if le_u32(&said) == crc.finalize() { Ok(()) } else { Err(corrupt(format!("{what} arrived damaged"))) }
    }

    fn pages(&mut self, sink: &mut dyn PageSink) -> Result<(), StreamError> {
        let mut head = [0; 16];
        self.take(&mut head)?;
        let (pid, addr, len) = (le_u32(&head[..4]) as i32, le_u64(&head[4..12]), le_u32(&head[12..]) as usize);
        if !addr.is_multiple_of(PAGE) || !(len as u64).is_multiple_of(PAGE) || len > CHUNK {
            return Err(corrupt(format!("{len} bytes at {addr:#x} are no pages")));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        self.take(&mut buffer[..len])?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        crc.update(&buffer[..len]);
        self.check(crc, "memory")?;
        sink.pages(pid, addr, &buffer[..len])?;
        self.buffer = buffer;
        self.bytes += len as u64;
        Ok(())
    }

    fn range(&mut self) -> Result<(i32, u64, u64), StreamError> {
        let mut head = [0; 20];
        self.take(&mut head)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        self.check(crc, "a range of memory")?;
        let (addr, len) = (le_u64(&head[4..12]), le_u64(&head[12..]));
        if !addr.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) || addr.checked_add(len).is_none() {
            return Err(corrupt(format!("{len} bytes at {addr:#x} are no pages")));
        }
        Ok((le_u32(&head[..4]) as i32, addr, len))
    }

    fn file(&mut self) -> Result<(), StreamError> {
        let mut name_length = [0; 2];
        self.take(&mut name_length)?;
        let mut name = vec![0; usize::from(u16::from_le_bytes(name_length))];
        self.take(&mut name)?;
        let mut length = [0; 8];
        self.take(&mut length)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&name_length);
        crc.update(&name);
        crc.update(&length);
        let name = String::from_utf8(name).map_err(|_| corrupt("a file name is not UTF-8"))?;
        checked_name(&name)?;
        let length = le_u64(&length);
        let mut file = File::create_new(self.dir.join(&name)).map_err(io_error(format!("create {name}")))?;
        let full = || io_error(format!("write {name} (is the target's memory or disk full?)"));
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = length;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.take(&mut buffer[..want])?;
            crc.update(&buffer[..want]);
            file.write_all(&buffer[..want]).map_err(full())?;
            left -= want as u64;
        }
        self.buffer = buffer;
        self.check(crc, &name)?;
        self.files += 1;
        self.bytes += length;
        Ok(())
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
}

fn le_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}
