//! How two sides agree: which version, which features, which session, where it goes on.
//!
//! ```text
//!   caller   "GWMIG" 2:u8 len:u16 { min:u8 max:u8 features:u32 session:16 resumes:u8 slots:u32 … } crc:u32
//!   called   "GWMIG" 2:u8 len:u16 { status:u8 version:u8 features:u32 received:u64 slots:u32 text … } crc:u32
//! ```
//! What follows the known fields is left for later releases and ignored. A receiver of version 1 closes on reading the 2;
//! a first byte of 1 begins a stream of version 1, which has no answer.

use crate::error::{StreamError, corrupt};
use crate::frame::Cursor;

pub(crate) const MAGIC: &[u8; 5] = b"GWMIG";
/// What stands where version 1 had its version: the hello that agrees.
pub(crate) const AGREES: u8 = 2;
/// The newest version of this release.
pub(crate) const NEWEST: u8 = 2;
/// The oldest one that has this hello.
pub(crate) const OLDEST: u8 = 2;
/// A hello is never longer.
const LONGEST: usize = 1024;

/// What both sides can do beyond the frames that every release of version 2 has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features(pub(crate) u32);

impl Features {
    pub(crate) const LZ4: Self = Self(1);
    pub(crate) const ZSTD: Self = Self(2);
    pub(crate) const DUPLICATES: Self = Self(4);
    pub(crate) const REQUESTS: Self = Self(8);
    pub(crate) const MESSAGES: Self = Self(16);
    pub(crate) const ALL: Self = Self(31);

    pub(crate) fn has(self, feature: Self) -> bool {
        self.0 & feature.0 == feature.0
    }
    pub(crate) fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The name of a session: chance, so that nobody takes up another one's.
pub(crate) type SessionId = [u8; 16];

/// What the caller says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) min: u8,
    pub(crate) max: u8,
    pub(crate) features: Features,
    pub(crate) session: SessionId,
    pub(crate) resumes: bool,
    /// How many pages it would remember.
    pub(crate) slots: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Welcome = 0,
    /// No version in common; `version` is the newest that the called side has.
    Version = 1,
    /// The text says why.
    Refused = 2,
}

/// What the called side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) version: u8,
    pub(crate) features: Features,
    /// How many frames it has taken in.
    pub(crate) received: u64,
    pub(crate) slots: u32,
    pub(crate) text: String,
}

/// The version to speak, if there is one.
pub(crate) fn agree(ours: (u8, u8), theirs: (u8, u8)) -> Option<u8> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0.max(theirs.0)).then_some(newest)
}

fn wrapped(body: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(AGREES);
    bytes.extend((body.len() as u16).to_le_bytes());
    bytes.extend(body);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Reads one after its first six bytes.
fn unwrapped(take: &mut dyn FnMut(&mut [u8]) -> Result<(), StreamError>) -> Result<Vec<u8>, StreamError> {
    let mut len = [0; 2];
    take(&mut len)?;
    let length = usize::from(u16::from_le_bytes(len));
    if length > LONGEST {
        return Err(corrupt(format!("a hello of {length} bytes")));
    }
    let mut body = vec![0; length];
    take(&mut body)?;
    let mut crc = [0; 4];
    take(&mut crc)?;
    let mut of = MAGIC.to_vec();
    of.push(AGREES);
    of.extend(len);
    of.extend(&body);
    if crc32fast::hash(&of).to_le_bytes() == crc { Ok(body) } else { Err(corrupt("the hello arrived damaged")) }
}

impl Call {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.min, self.max];
        body.extend(self.features.0.to_le_bytes());
        body.extend(self.session);
        body.push(self.resumes.into());
        body.extend(self.slots.to_le_bytes());
        wrapped(&body)
    }

    /// Reads one whose first six bytes are read already.
    pub(crate) fn read(take: &mut dyn FnMut(&mut [u8]) -> Result<(), StreamError>) -> Result<Self, StreamError> {
        let body = unwrapped(take)?;
        let mut at = Cursor::new(&body);
        Ok(Self {
            min: at.u8()?,
            max: at.u8()?,
            features: Features(at.u32()?),
            session: at.array()?,
            resumes: at.u8()? != 0,
            slots: at.u32()?,
        })
    }
}

impl Answer {
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        let (status, version, features) = (Status::Refused, NEWEST, Features(0));
        Self { status, version, features, received: 0, slots: 0, text: text.into() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.status as u8, self.version];
        body.extend(self.features.0.to_le_bytes());
        body.extend(self.received.to_le_bytes());
        body.extend(self.slots.to_le_bytes());
        let mut end = self.text.len().min(LONGEST / 2);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        body.extend((end as u16).to_le_bytes());
        body.extend(&self.text.as_bytes()[..end]);
        wrapped(&body)
    }

    pub(crate) fn read(take: &mut dyn FnMut(&mut [u8]) -> Result<(), StreamError>) -> Result<Self, StreamError> {
        let mut start = [0; 6];
        take(&mut start)?;
        if &start[..5] != MAGIC || start[5] != AGREES {
            return Err(corrupt("what answers is no receiver of a migration"));
        }
        let body = unwrapped(take)?;
        let mut at = Cursor::new(&body);
        let status = match at.u8()? {
            0 => Status::Welcome,
            1 => Status::Version,
            _ => Status::Refused,
        };
        let (version, features, received, slots) = (at.u8()?, Features(at.u32()?), at.u64()?, at.u32()?);
        let length = usize::from(at.u16()?);
        let text = String::from_utf8_lossy(at.bytes(length)?).into_owned();
        Ok(Self { status, version, features, received, slots, text })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::error::io_error;

    fn taking(mut bytes: &[u8]) -> impl FnMut(&mut [u8]) -> Result<(), StreamError> {
        move |into| bytes.read_exact(into).map_err(io_error("short"))
    }

    #[test]
    fn versions_agree_on_the_newest_in_common() {
        assert_eq!(agree((1, 2), (2, 3)), Some(2));
        assert_eq!(agree((2, 2), (2, 9)), Some(2));
        assert_eq!(agree((1, 3), (1, 2)), Some(2));
        assert_eq!(agree((1, 1), (2, 3)), None);
        assert_eq!(agree((3, 4), (1, 2)), None);
    }

    #[test]
    fn what_a_later_release_adds_is_ignored() {
        let call = Call { min: 2, max: 3, features: Features(0xffff), session: [7; 16], resumes: true, slots: 9 };
        let mut body = call.encode()[8..8 + 27].to_vec();
        body.extend(b"of a later release");
        assert_eq!(Call::read(&mut taking(&wrapped(&body)[6..])).unwrap(), call);
    }

    proptest! {
        #[test]
        fn hellos_come_back_and_damage_is_found(
            numbers in any::<(u8, u8, u32, [u8; 16], bool, u32)>(), received in any::<u64>(), text in ".{0,900}",
            at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let (min, max, features, session, resumes, slots) = numbers;
            let call = Call { min, max, features: Features(features), session, resumes, slots };
            let bytes = call.encode();
            prop_assert_eq!(&Call::read(&mut taking(&bytes[6..])).unwrap(), &call);
            let answer = Answer { status: Status::Refused, version: max, features: Features(features), received, slots, text };
            let answered = answer.encode();
            let again = Answer::read(&mut taking(&answered)).unwrap();
            prop_assert!(answer.text.starts_with(&again.text) && again.received == received);
            for mut damaged in [bytes, answered] {
                let at = at.index(damaged.len());
                prop_assert!(Answer::read(&mut taking(&damaged[..at])).is_err());
                damaged[at] ^= flip;
                prop_assert!(Answer::read(&mut taking(&damaged)).is_err());
                prop_assert!(at < 6 || Call::read(&mut taking(&damaged[6..])).is_err());
            }
        }
    }
}
