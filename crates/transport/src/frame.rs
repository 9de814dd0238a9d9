//! Frames of version 2.
//!
//! ```text
//!   kind:u8 flags:u8 len:u32 number:u64  payload: len bytes  crc:u32      little-endian; CRC-32 of all before it
//!
//!   numbered, in order, kept until confirmed          not numbered, not repeated
//!   0x01 file    total:u64 name:u16+bytes content     0x80 alive
//!   0x02 data    content                              0x81 confirmed      number: frames that were taken in
//!   0x03 pages   pid:i32 addr:u64 count:u16           0x82 want           id:u64 pid:i32 addr:u64 len:u32
//!                [bitmap slot:u32 …] content          0x83 cancel         text
//!   0x04 zero    pid:i32 addr:u64 len:u64             0x84 bye
//!   0x05 forget  pid:i32 addr:u64 len:u64
//!   0x06 sync                                         content: raw:u32 bytes, by the method in the flags' lowest
//!   0x07 end     files:u32 bytes:u64                  two bits: 0 as it is, 1 LZ4 block, 2 Zstandard frame
//!   0x08 answer  id:u64 pid:i32 addr:u64 len:u32 content
//!   0x09 message content                              (only if both sides have that feature)
//! ```
//! A frame is refused before its payload is read if it is longer than [`LONGEST`]: nothing that arrives makes a side
//! allocate more.

use std::io;

use crate::error::{Broken, StreamError, corrupt, io_error};

/// The most contents in a frame.
pub(crate) const CHUNK: usize = 256 << 10;
/// The longest payload: contents that did not get smaller, and what stands before them.
pub(crate) const LONGEST: usize = CHUNK + (8 << 10);
pub(crate) const HEAD: usize = 14;

pub(crate) const FILE: u8 = 0x01;
pub(crate) const DATA: u8 = 0x02;
pub(crate) const PAGES: u8 = 0x03;
pub(crate) const ZERO: u8 = 0x04;
pub(crate) const FORGET: u8 = 0x05;
pub(crate) const SYNC: u8 = 0x06;
pub(crate) const END: u8 = 0x07;
pub(crate) const ANSWER: u8 = 0x08;
pub(crate) const MESSAGE: u8 = 0x09;
/// From here on frames have no place in the order.
pub(crate) const LOOSE: u8 = 0x80;
pub(crate) const ALIVE: u8 = 0x80;
pub(crate) const CONFIRMED: u8 = 0x81;
pub(crate) const WANT: u8 = 0x82;
pub(crate) const CANCEL: u8 = 0x83;
pub(crate) const BYE: u8 = 0x84;

/// Of pages: the receiver remembers those that are not duplicates, in order.
pub(crate) const REMEMBER: u8 = 0x10;
/// Of pages: a bitmap says which of them are duplicates, and slots of what.
pub(crate) const DUPLICATES: u8 = 0x20;
/// Of an answer: they are zero.
pub(crate) const IS_ZERO: u8 = 0x40;
/// Of an answer: there is no such memory.
pub(crate) const MISSING: u8 = 0x80;

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) number: u64,
}

/// A frame as it goes over the wire.
pub(crate) fn encode(kind: u8, flags: u8, number: u64, parts: &[&[u8]]) -> Vec<u8> {
    encode_into(Vec::new(), kind, flags, number, parts)
}

/// The same in the memory of another one.
pub(crate) fn encode_into(mut frame: Vec<u8>, kind: u8, flags: u8, number: u64, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(length <= LONGEST);
    frame.clear();
    frame.reserve(HEAD + length + 4);
    frame.extend([kind, flags]);
    frame.extend((length as u32).to_le_bytes());
    frame.extend(number.to_le_bytes());
    parts.iter().for_each(|part| frame.extend(*part));
    frame.extend(crc32fast::hash(&frame).to_le_bytes());
    frame
}

/// Reads a frame; its payload goes into `payload`, which is used again and again.
pub(crate) fn read(
    take: &mut dyn FnMut(&mut [u8]) -> Result<(), Broken>,
    payload: &mut Vec<u8>,
) -> Result<Head, Broken> {
    let mut head = [0; HEAD];
    take(&mut head)?;
    let mut at = Cursor::new(&head);
    let (kind, flags, length, number) =
        (|| Ok((at.u8()?, at.u8()?, at.u32()? as usize, at.u64()?)))().map_err(Broken::Link)?;
    if length > LONGEST {
        return Err(Broken::Link(corrupt(format!("a frame of {length} bytes came"))));
    }
    payload.resize(length, 0);
    take(payload)?;
    let mut crc = [0; 4];
    take(&mut crc)?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head);
    sum.update(payload);
    if sum.finalize().to_le_bytes() != crc {
        return Err(Broken::Link(corrupt("a frame arrived damaged")));
    }
    Ok(Head { kind, flags, number })
}

/// Takes numbers out of bytes.
#[derive(Debug)]
pub(crate) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], StreamError> {
        let (taken, left) = self.0.split_at_checked(n).ok_or_else(|| corrupt("a frame is too short"))?;
        self.0 = left;
        Ok(taken)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        Ok(self.bytes(N)?.try_into().expect("as long as asked for"))
    }
    pub(crate) fn u8(&mut self) -> Result<u8, StreamError> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16, StreamError> {
        self.array().map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self) -> Result<u32, StreamError> {
        self.array().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Result<u64, StreamError> {
        self.array().map(u64::from_le_bytes)
    }
    pub(crate) fn i32(&mut self) -> Result<i32, StreamError> {
        self.array().map(i32::from_le_bytes)
    }
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
    /// There is nothing more.
    pub(crate) fn end(self) -> Result<(), StreamError> {
        if self.0.is_empty() { Ok(()) } else { Err(corrupt("a frame is too long")) }
    }
}

/// Reads frames off a connection, and looks up when nothing comes.
#[derive(Debug)]
pub(crate) struct Buffered<R> {
    read: R,
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: FnMut(&mut [u8]) -> io::Result<usize>> Buffered<R> {
    pub(crate) fn new(read: R) -> Self {
        Self { read, bytes: vec![0; 64 << 10].into(), start: 0, end: 0 }
    }

    /// Fills `into`. `idle` is asked whenever nothing came for the connection's read time-out; it may give up.
    pub(crate) fn take(
        &mut self,
        mut into: &mut [u8],
        idle: &mut dyn FnMut() -> Result<(), Broken>,
        heard: &mut dyn FnMut(),
    ) -> Result<(), Broken> {
        while !into.is_empty() {
            if self.start < self.end {
                let n = into.len().min(self.end - self.start);
                into[..n].copy_from_slice(&self.bytes[self.start..self.start + n]);
                self.start += n;
                into = &mut into[n..];
                continue;
            }
            // Large payloads go to where they belong at once.
            let direct = into.len() >= self.bytes.len();
            let got = if direct { (self.read)(into) } else { (self.read)(&mut self.bytes) };
            match got {
                Ok(0) => {
                    let early = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(Broken::Link(io_error("the stream ended early")(early)));
                }
                Ok(n) => {
                    heard();
                    if direct {
                        into = &mut into[n..];
                    } else {
                        (self.start, self.end) = (0, n);
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => idle()?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Broken::Link(io_error("the connection broke")(e))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn reading(mut bytes: &[u8]) -> impl FnMut(&mut [u8]) -> Result<(), Broken> {
        move |into| bytes.read_exact(into).map_err(|e| Broken::Link(io_error("short")(e)))
    }

    proptest! {
        #[test]
        fn frames_come_back_and_damage_is_found(
            kind: u8, flags: u8, number: u64, payload in prop::collection::vec(any::<u8>(), 0..600),
            at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let (one, two) = payload.split_at(payload.len() / 2);
            let mut bytes = encode(kind, flags, number, &[one, two]);
            let mut got = Vec::new();
            let head = read(&mut reading(&bytes), &mut got).unwrap();
            prop_assert_eq!((head, &got), (Head { kind, flags, number }, &payload));
            let at = at.index(bytes.len());
            prop_assert!(read(&mut reading(&bytes[..at]), &mut got).is_err());
            bytes[at] ^= flip;
            prop_assert!(read(&mut reading(&bytes), &mut got).is_err());
        }

        #[test]
        fn chance_neither_passes_nor_allocates(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut payload = Vec::new();
            prop_assert!(read(&mut reading(&bytes), &mut payload).is_err());
            prop_assert!(payload.capacity() <= LONGEST);
        }
    }
}
