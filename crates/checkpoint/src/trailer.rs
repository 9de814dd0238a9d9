//! The digest of the whole file, in a frame that zstd passes over.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// One of the sixteen numbers that begin a skippable frame (RFC 8878, 3.1.2).
const MAGIC: u32 = 0x184D_2A5C;
/// Length of the frame's content.
const CONTENT: u32 = 32;
/// Length of the frame.
pub(crate) const LENGTH: u64 = 8 + CONTENT as u64;

pub(crate) fn frame(digest: &[u8]) -> Vec<u8> {
    [&MAGIC.to_le_bytes()[..], &CONTENT.to_le_bytes(), digest].concat()
}

/// The digest in a frame; none if it is no such frame.
pub(crate) fn digest(frame: &[u8]) -> Option<&[u8]> {
    let rest = frame.strip_prefix(&MAGIC.to_le_bytes())?.strip_prefix(&CONTENT.to_le_bytes())?;
    (rest.len() == CONTENT as usize).then_some(rest)
}

/// Digests what goes through, and counts it.
pub(crate) struct Digesting<T> {
    pub(crate) inner: T,
    hash: Sha256,
    pub(crate) bytes: u64,
}

impl<T> Digesting<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    pub(crate) fn digest(&self) -> Vec<u8> {
        self.hash.clone().finalize().to_vec()
    }

    pub(crate) fn hex(&self) -> String {
        hex(&self.digest())
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.hash.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of some bytes, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
