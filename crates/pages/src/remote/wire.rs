//! The frames; see the module above.

use std::io::{self, Read, Write};
use std::ops::Range;

use super::{Ranges, broken};
use crate::PAGE;

const MAGIC: &[u8; 6] = b"GWPAGE";
const VERSION: u8 = 2;
/// More than a process has of ranges, less than fills the memory.
const MOST_RANGES: u32 = 1 << 24;
/// The most that a frame carries.
pub(super) const MOST_BYTES: u32 = 1 << 20;

const WANT: u8 = 1;
const TOOK: u8 = 2;
const DONE: u8 = 3;
const FLOW: u8 = 4;

const PAGES: u8 = 1;
const ZERO: u8 = 2;
const FAILED: u8 = 3;

/// What the target says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Want { pid: i32, addr: u64 },
    Took(u32),
    Done,
    Flow,
}

/// What the source says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Pages { pid: i32, addr: u64, bytes: Vec<u8> },
    Zero { pid: i32, range: Range<u64> },
    Failed(String),
}

fn number<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn pid(from: &mut impl Read) -> io::Result<i32> {
    number(from).map(i32::from_le_bytes)
}

fn word(from: &mut impl Read) -> io::Result<u32> {
    number(from).map(u32::from_le_bytes)
}

fn long(from: &mut impl Read) -> io::Result<u64> {
    number(from).map(u64::from_le_bytes)
}

/// A range of whole pages.
fn range(addr: u64, len: u64) -> io::Result<Range<u64>> {
    let end = addr.checked_add(len).filter(|_| addr.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && len > 0);
    Ok(addr..end.ok_or_else(|| broken(format!("{len} bytes at {addr:#x} are no pages")))?)
}

pub(super) fn write_hello(to: &mut impl Write, missing: &Ranges) -> io::Result<()> {
    let mut frame = MAGIC.to_vec();
    frame.push(VERSION);
    frame.extend((missing.len() as u32).to_le_bytes());
    for (pid, range) in missing {
        frame.extend(pid.to_le_bytes());
        frame.extend(range.start.to_le_bytes());
        frame.extend((range.end - range.start).to_le_bytes());
    }
    to.write_all(&frame)
}

pub(super) fn read_hello(from: &mut impl Read) -> io::Result<Ranges> {
    let magic: [u8; 6] = number(from)?;
    let [version] = number(from)?;
    if &magic != MAGIC || version != VERSION {
        return Err(broken(format!("the peer does not ask for pages in version {VERSION}")));
    }
    let count = word(from)?;
    if count > MOST_RANGES {
        return Err(broken(format!("{count} ranges are missing, more than any process has")));
    }
    let mut missing = Vec::new();
    for _ in 0..count {
        let pid = pid(from)?;
        let (addr, len) = (long(from)?, long(from)?);
        missing.push((pid, range(addr, len)?));
    }
    Ok(missing)
}

impl Ask {
    pub(super) fn write(self, to: &mut impl Write) -> io::Result<()> {
        let mut frame = Vec::new();
        match self {
            Self::Want { pid, addr } => {
                frame.push(WANT);
                frame.extend(pid.to_le_bytes());
                frame.extend(addr.to_le_bytes());
            }
            Self::Took(len) => {
                frame.push(TOOK);
                frame.extend(len.to_le_bytes());
            }
            Self::Done => frame.push(DONE),
            Self::Flow => frame.push(FLOW),
        }
        to.write_all(&frame)
    }

    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let [kind] = number(from)?;
        match kind {
            WANT => {
                let (pid, addr) = (pid(from)?, long(from)?);
                range(addr, PAGE)?;
                Ok(Self::Want { pid, addr })
            }
            TOOK => word(from).map(Self::Took),
            DONE => Ok(Self::Done),
            FLOW => Ok(Self::Flow),
            other => Err(broken(format!("unknown frame {other}"))),
        }
    }
}

pub(super) fn write_pages(to: &mut impl Write, pid: i32, addr: u64, bytes: &[u8]) -> io::Result<()> {
    let mut head = vec![PAGES];
    head.extend(pid.to_le_bytes());
    head.extend(addr.to_le_bytes());
    head.extend((bytes.len() as u32).to_le_bytes());
    to.write_all(&head)?;
    to.write_all(bytes)?;
    to.write_all(&crc(pid, addr, bytes).to_le_bytes())
}

pub(super) fn write_zero(to: &mut impl Write, pid: i32, range: &Range<u64>) -> io::Result<()> {
    let mut frame = vec![ZERO];
    frame.extend(pid.to_le_bytes());
    frame.extend(range.start.to_le_bytes());
    frame.extend(((range.end - range.start) as u32).to_le_bytes());
    to.write_all(&frame)
}

pub(super) fn write_failed(to: &mut impl Write, why: &str) -> io::Result<()> {
    let mut frame = vec![FAILED];
    frame.extend((why.len() as u32).to_le_bytes());
    frame.extend(why.as_bytes());
    to.write_all(&frame)
}

impl Answer {
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let [kind] = number(from)?;
        match kind {
            PAGES | ZERO => {
                let (pid, addr, len) = (pid(from)?, long(from)?, word(from)?);
                let range = range(addr, u64::from(len))?;
                if kind == ZERO {
                    return Ok(Self::Zero { pid, range });
                }
                if len > MOST_BYTES {
                    return Err(broken(format!("a frame of {len} bytes")));
                }
                let mut bytes = vec![0; len as usize];
                from.read_exact(&mut bytes)?;
                if word(from)? != crc(pid, addr, &bytes) {
                    return Err(broken(format!("pages at {addr:#x} were damaged on their way")));
                }
                Ok(Self::Pages { pid, addr, bytes })
            }
            FAILED => {
                let mut text = vec![0; word(from)?.min(4096) as usize];
                from.read_exact(&mut text)?;
                Ok(Self::Failed(String::from_utf8_lossy(&text).into_owned()))
            }
            other => Err(broken(format!("unknown frame {other}"))),
        }
    }
}

/// Of everything in the frame that says what and where.
fn crc(pid: i32, addr: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&pid.to_le_bytes());
    crc.update(&addr.to_le_bytes());
    crc.update(bytes);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(pid in any::<i32>(), page in 0u64..1 << 40, pages in 1usize..4, byte in any::<u8>()) {
            let (addr, bytes) = (page * PAGE, vec![byte; pages * PAGE as usize]);
            let range = addr..addr + bytes.len() as u64;
            let mut wire = Vec::new();
            let missing = vec![(pid, range.clone())];
            write_hello(&mut wire, &missing).unwrap();
            for ask in [Ask::Want { pid, addr }, Ask::Took(7), Ask::Flow, Ask::Done] {
                ask.write(&mut wire).unwrap();
            }
            let mut from = &wire[..];
            prop_assert_eq!(read_hello(&mut from).unwrap(), missing);
            prop_assert_eq!(Ask::read(&mut from).unwrap(), Ask::Want { pid, addr });
            prop_assert_eq!(Ask::read(&mut from).unwrap(), Ask::Took(7));
            prop_assert_eq!(Ask::read(&mut from).unwrap(), Ask::Flow);
            prop_assert_eq!(Ask::read(&mut from).unwrap(), Ask::Done);

            let mut wire = Vec::new();
            write_pages(&mut wire, pid, addr, &bytes).unwrap();
            write_zero(&mut wire, pid, &range).unwrap();
            write_failed(&mut wire, "gone").unwrap();
            let mut from = &wire[..];
            prop_assert_eq!(Answer::read(&mut from).unwrap(), Answer::Pages { pid, addr, bytes });
            prop_assert_eq!(Answer::read(&mut from).unwrap(), Answer::Zero { pid, range });
            prop_assert_eq!(Answer::read(&mut from).unwrap(), Answer::Failed("gone".into()));
        }

        #[test]
        fn bytes_that_are_no_frames_are_errors_and_take_no_memory(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_hello(&mut &bytes[..]);
            let _ = Ask::read(&mut &bytes[..]);
            let _ = Answer::read(&mut &bytes[..]);
        }
    }

    #[test]
    fn damage_is_found() {
        let mut wire = Vec::new();
        write_pages(&mut wire, 1, 0x1000, &[7; 4096]).unwrap();
        wire[100] ^= 1;
        assert!(Answer::read(&mut &wire[..]).unwrap_err().to_string().contains("damaged"));
    }
}
