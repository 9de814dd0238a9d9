//! What source and target tell each other: one change or a piece of a file each.
//!
//! ```text
//!   place  number:u16                                the changes that follow are in this place
//!   remove name
//!   dir    name meta xattrs empty:u8
//!   file   name meta xattrs size:u64                 then pieces, then `done`
//!   piece  offset:u64 bytes                          of the file that was begun last; what no piece brings is a hole
//!   done
//!   link   name to
//!   symlink name meta target
//!   special name meta device:u64
//!   end                                              of a sync
//! ```
//! A tag of one byte first; numbers little-endian; names and byte strings with their length (u32) before them.

use crate::error::{LayerError, Result};
use crate::tree::{Instant, Meta, Name};

/// The most bytes that a message has.
pub const LARGEST: usize = (128 << 10) + (64 << 10);
/// The most bytes of a file in one message. Names, links and attributes have room beside it.
pub(crate) const PIECE: usize = 128 << 10;

/// Extended attributes: names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Place(u16),
    Remove(Name),
    Dir { name: Name, meta: Meta, xattrs: Xattrs, empty: bool },
    File { name: Name, meta: Meta, xattrs: Xattrs, size: u64 },
    Piece { offset: u64, bytes: &'a [u8] },
    Done,
    Link { name: Name, to: Name },
    Symlink { name: Name, meta: Meta, target: Vec<u8> },
    Special { name: Name, meta: Meta, device: u64 },
    End,
}

struct Writer<'o>(&'o mut Vec<u8>);

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend((bytes.len() as u32).to_le_bytes());
        self.0.extend(bytes);
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn meta(&mut self, meta: &Meta) -> &mut Self {
        for number in [meta.mode, meta.uid, meta.gid, meta.modified.nanos] {
            self.0.extend(number.to_le_bytes());
        }
        self.number(meta.modified.seconds as u64)
    }

    fn xattrs(&mut self, xattrs: &Xattrs) -> &mut Self {
        self.0.extend((xattrs.len() as u32).to_le_bytes());
        for (name, value) in xattrs {
            self.bytes(name).bytes(value);
        }
        self
    }
}

impl<'a> Message<'a> {
    /// Its bytes, in the place of what is in `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        let tag = match self {
            Self::Place(_) => 1,
            Self::Remove(_) => 2,
            Self::Dir { .. } => 3,
            Self::File { .. } => 4,
            Self::Piece { .. } => 5,
            Self::Done => 6,
            Self::Link { .. } => 7,
            Self::Symlink { .. } => 8,
            Self::Special { .. } => 9,
            Self::End => 10,
        };
        out.push(tag);
        let mut to = Writer(out);
        match self {
            Self::Place(number) => to.0.extend(number.to_le_bytes()),
            Self::Remove(name) => drop(to.bytes(name)),
            Self::Dir { name, meta, xattrs, empty } => {
                to.bytes(name).meta(meta).xattrs(xattrs).0.push(u8::from(*empty));
            }
            Self::File { name, meta, xattrs, size } => drop(to.bytes(name).meta(meta).xattrs(xattrs).number(*size)),
            Self::Piece { offset, bytes } => drop(to.number(*offset).bytes(bytes)),
            Self::Link { name, to: other } => drop(to.bytes(name).bytes(other)),
            Self::Symlink { name, meta, target } => drop(to.bytes(name).meta(meta).bytes(target)),
            Self::Special { name, meta, device } => drop(to.bytes(name).meta(meta).number(*device)),
            Self::Done | Self::End => {}
        }
    }

    /// Understands bytes from the other side.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self> {
        let Some((tag, rest)) = bytes.split_first() else { return Err(LayerError::Message("is empty")) };
        let mut from = Reader(rest);
        let message = match tag {
            1 => Self::Place(u16::from_le_bytes(from.array()?)),
            2 => Self::Remove(from.name()?),
            3 => Self::Dir {
                name: from.name()?,
                meta: from.meta()?,
                xattrs: from.xattrs()?,
                empty: from.array()? != [0],
            },
            4 => Self::File { name: from.name()?, meta: from.meta()?, xattrs: from.xattrs()?, size: from.number()? },
            5 => Self::Piece { offset: from.number()?, bytes: from.bytes()? },
            6 => Self::Done,
            7 => Self::Link { name: from.name()?, to: from.name()? },
            8 => Self::Symlink { name: from.name()?, meta: from.meta()?, target: from.bytes()?.to_vec() },
            9 => Self::Special { name: from.name()?, meta: from.meta()?, device: from.number()? },
            10 => Self::End,
            _ => return Err(LayerError::Message("is of a kind that this version does not know")),
        };
        if from.0.is_empty() { Ok(message) } else { Err(LayerError::Message("is too long")) }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(LayerError::Message("is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as long as was asked for"))
    }

    fn number(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn small(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.small()? as usize;
        self.take(n)
    }

    /// Plain: no empty component, none that leads upwards, no NUL.
    fn name(&mut self) -> Result<Name> {
        let name = self.bytes()?;
        let is_bad = |part: &[u8]| part.is_empty() || part == b"." || part == b".." || part.contains(&0);
        if !name.is_empty() && name.split(|byte| *byte == b'/').any(is_bad) {
            return Err(LayerError::Message("has a name that leads astray"));
        }
        Ok(name.to_vec())
    }

    fn meta(&mut self) -> Result<Meta> {
        let [mode, uid, gid, nanos] = [self.small()?, self.small()?, self.small()?, self.small()?];
        Ok(Meta { mode, uid, gid, modified: Instant { nanos, seconds: self.number()? as i64 } })
    }

    fn xattrs(&mut self) -> Result<Xattrs> {
        let n = self.small()?;
        (0..n).map(|_| Ok((self.bytes()?.to_vec(), self.bytes()?.to_vec()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = Name> {
        vec(vec(any::<u8>().prop_filter("no part of a name", |b| *b != 0 && *b != b'/' && *b != b'.'), 1..6), 1..4)
            .prop_map(|parts| parts.join(&b'/'))
    }

    fn message() -> impl Strategy<Value = Message<'static>> {
        let meta = (any::<[u32; 4]>(), any::<i64>()).prop_map(|([mode, uid, gid, nanos], seconds)| Meta {
            mode,
            uid,
            gid,
            modified: Instant { seconds, nanos },
        });
        let xattrs = vec((vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9)), 0..3);
        prop_oneof![
            any::<u16>().prop_map(Message::Place),
            name().prop_map(Message::Remove),
            (name(), meta.clone(), xattrs.clone(), any::<bool>())
                .prop_map(|(name, meta, xattrs, empty)| Message::Dir { name, meta, xattrs, empty }),
            (name(), meta.clone(), xattrs.clone(), any::<u64>()).prop_map(|(name, meta, xattrs, size)| Message::File {
                name,
                meta,
                xattrs,
                size
            }),
            any::<u64>().prop_map(|offset| Message::Piece { offset, bytes: b"some bytes" }),
            Just(Message::Done),
            (name(), name()).prop_map(|(name, to)| Message::Link { name, to }),
            (name(), meta.clone(), vec(any::<u8>(), 0..9)).prop_map(|(name, meta, target)| Message::Symlink {
                name,
                meta,
                target
            }),
            (name(), meta, any::<u64>()).prop_map(|(name, meta, device)| Message::Special { name, meta, device }),
            Just(Message::End),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in message()) {
            let mut bytes = Vec::new();
            message.write(&mut bytes);
            prop_assert_eq!(Message::read(&bytes).unwrap(), message);
            bytes.push(0);
            prop_assert!(Message::read(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_understood_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Message::read(&bytes);
        }

        #[test]
        fn a_message_cut_short_is_refused(message in message(), cut in 1usize..30) {
            let mut bytes = Vec::new();
            message.write(&mut bytes);
            bytes.truncate(bytes.len().saturating_sub(cut));
            prop_assert!(Message::read(&bytes).is_err());
        }
    }

    #[test]
    fn names_that_lead_astray_are_refused() {
        for bad in ["../x", "a/../b", "/etc/passwd", "a//b", "a/.", "a/", "x\0y"] {
            let mut bytes = Vec::new();
            Message::Remove(bad.into()).write(&mut bytes);
            assert!(Message::read(&bytes).unwrap_err().to_string().contains("leads astray"), "{bad:?}");
        }
    }
}
