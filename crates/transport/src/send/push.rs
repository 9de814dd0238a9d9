//! Turns files and memory into frames.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use godwit_model::Bytes;

use super::link::{Link, When};
use crate::choose::duplicates_are_worth_it;
use crate::duplicates::Known;
use crate::error::{StreamError, corrupt, io_error};
use crate::file::checked_path;
use crate::frame::{CHUNK, DATA, DUPLICATES, END, FILE, FORGET, MESSAGE, PAGES, REMEMBER, SYNC, ZERO};
use crate::hello::Features;
use crate::progress::Progress;
use crate::sink::PAGE;
use crate::squeeze::Squeezer;

const SIZE: usize = PAGE as usize;
/// Duplicates are looked for in so many chunks at the beginning, and then in so many of each round, to learn whether it
/// pays; where it pays, in all of them.
const LEARN_FIRST: u64 = 16;
const LEARN: u64 = 4;
const ROUND: u64 = 64;

#[derive(Debug)]
pub(super) struct Push {
    pub(super) link: Arc<Link>,
    pub(super) features: Features,
    squeezer: Squeezer,
    known: Known,
    looking: Looking,
    buffer: Vec<u8>,
    literals: Vec<u8>,
    files: u32,
    bytes: u64,
}

/// What looking for duplicates brings.
#[derive(Debug, Default)]
struct Looking {
    chunks: u64,
    seconds_a_page: f64,
    found: f64,
}

impl Looking {
    fn pays(&mut self, link: Option<f64>) -> bool {
        self.chunks += 1;
        self.chunks <= LEARN_FIRST
            || self.chunks % ROUND < LEARN
            || duplicates_are_worth_it(link, self.seconds_a_page, self.found)
    }

    fn learn(&mut self, start: Instant, pages: usize, found: usize) {
        let pages = pages.max(1) as f64;
        let weight = if self.chunks <= 1 { 1.0 } else { 0.25 };
        self.seconds_a_page += weight * (start.elapsed().as_secs_f64() / pages - self.seconds_a_page);
        self.found += weight * (found as f64 / pages - self.found);
    }
}

impl Push {
    pub(super) fn new(link: Arc<Link>, features: Features, slots: u32) -> Result<Self, StreamError> {
        let squeezer = Squeezer::new(link.options.compression, features)?;
        let slots = if features.has(Features::DUPLICATES) { slots } else { 0 };
        let (known, looking) = (Known::new(slots), Looking::default());
        let (buffer, literals) = (Vec::new(), Vec::new());
        Ok(Self { link, features, squeezer, known, looking, buffer, literals, files: 0, bytes: 0 })
    }

    pub(super) fn bytes(&self) -> Bytes {
        Bytes(self.bytes)
    }

    pub(super) fn pages(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        if !addr.is_multiple_of(PAGE) || !pages.len().is_multiple_of(SIZE) {
            return Err(corrupt(format!("{} bytes at {addr:#x} are no pages", pages.len())));
        }
        let grain = self.link.grain();
        for (n, chunk) in pages.chunks(grain).enumerate() {
            self.chunk(pid, addr + (n * grain) as u64, chunk)?;
        }
        self.bytes += pages.len() as u64;
        Ok(())
    }

    fn chunk(&mut self, pid: i32, addr: u64, chunk: &[u8]) -> Result<(), StreamError> {
        let (link, count) = (self.link.speed(), chunk.len() / SIZE);
        let mut head = Vec::with_capacity(64);
        head.extend(pid.to_le_bytes());
        head.extend(addr.to_le_bytes());
        head.extend((count as u16).to_le_bytes());
        let mut flags = 0;
        let mut literals = chunk;
        if self.features.has(Features::DUPLICATES) && self.looking.pays(link) {
            flags |= REMEMBER;
            let start = Instant::now();
            let mut bitmap = vec![0u8; count.div_ceil(8)];
            let mut slots: Vec<u8> = Vec::new();
            self.literals.clear();
            for (n, page) in chunk.chunks(SIZE).enumerate() {
                match self.known.find_or_keep(page) {
                    Some(slot) => {
                        bitmap[n / 8] |= 1 << (n % 8);
                        slots.extend(slot.to_le_bytes());
                    }
                    None => self.literals.extend_from_slice(page),
                }
            }
            let found = slots.len() / 4;
            self.looking.learn(start, count, found);
            if found > 0 {
                flags |= DUPLICATES;
                head.extend(bitmap);
                head.extend(slots);
                literals = &self.literals;
                Progress::add(&self.link.progress.duplicate, found * SIZE);
            }
        }
        let (method, body) = self.squeezer.squeeze(literals, link);
        let raw = (literals.len() as u32).to_le_bytes();
        self.link.put(PAGES, flags | method as u8, &[&head, &raw, body], When::Gathered)?;
        Progress::add(&self.link.progress.contents, chunk.len());
        Ok(())
    }

    pub(super) fn zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.range(ZERO, pid, addr, len)
    }

    pub(super) fn forget(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.range(FORGET, pid, addr, len)
    }

    fn range(&mut self, kind: u8, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        let parts: [&[u8]; 3] = [&pid.to_le_bytes(), &addr.to_le_bytes(), &len.to_le_bytes()];
        self.link.put(kind, 0, &parts, When::Gathered).map(drop)
    }

    pub(super) fn message(&mut self, message: &[u8]) -> Result<(), StreamError> {
        if !self.features.has(Features::MESSAGES) {
            return Err(corrupt("the receiver is of a release that takes no messages"));
        }
        if message.len() > CHUNK {
            return Err(corrupt(format!("a message of {} bytes is too long", message.len())));
        }
        let (method, body) = self.squeezer.squeeze(message, self.link.speed());
        let raw = (message.len() as u32).to_le_bytes();
        self.link.put(MESSAGE, method as u8, &[&raw, body], When::Gathered)?;
        Progress::add(&self.link.progress.contents, message.len());
        self.bytes += message.len() as u64;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), StreamError> {
        let number = self.link.put(SYNC, 0, &[], When::Now)?;
        self.link.confirmed(number)
    }

    pub(super) fn file(&mut self, path: &Path, name: &str) -> Result<(), StreamError> {
        checked_path(name)?;
        let name_length = u16::try_from(name.len()).ok().filter(|length| *length <= 4096);
        let name_length = name_length.ok_or_else(|| corrupt("a file name is too long"))?;
        let mut file = File::open(path).map_err(io_error(format!("open {name}")))?;
        let total = file.metadata().map_err(io_error(format!("look at {name}")))?.len();
        let mut head = total.to_le_bytes().to_vec();
        head.extend(name_length.to_le_bytes());
        head.extend(name.as_bytes());
        let (mut kind, mut left) = (FILE, total);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(self.link.grain(), 0);
        loop {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let content = &mut buffer[..want];
            file.read_exact(content).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => corrupt(format!("{name} became shorter while it was sent")),
                _ => io_error(format!("read {name}"))(e),
            })?;
            let (method, body) = self.squeezer.squeeze(content, self.link.speed());
            let raw = (want as u32).to_le_bytes();
            self.link.put(kind, method as u8, &[&head, &raw, body], When::Gathered)?;
            Progress::add(&self.link.progress.contents, want);
            left -= want as u64;
            if left == 0 {
                break;
            }
            (kind, head) = (DATA, Vec::new());
        }
        self.buffer = buffer;
        self.files += 1;
        self.bytes += total;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Bytes, StreamError> {
        let parts: [&[u8]; 2] = [&self.files.to_le_bytes(), &self.bytes.to_le_bytes()];
        let number = self.link.put(END, 0, &parts, When::Now)?;
        self.link.confirmed(number)?;
        self.link.close();
        Ok(Bytes(self.bytes))
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        // Nothing after `close`.
        self.link.cancel("the sender gave up");
    }
}
