//! The protocol: fixed-size little-endian frames over TCP, answers in the order of the requests.
//!
//! ```text
//!   request                                    answer
//!   offset  bytes                              offset  bytes
//!    0       4  magic "GWq1"                    0       4  magic "GWa2"
//!    4       4  length of the payload           4       4  length of the payload
//!    8       8  sequence number                 8       8  sequence number   } of the
//!   16       8  client's clock, ns             16       8  client's clock    } request
//!   24       8  checksum of all the rest       24       8  nth answer of this connection, from 1
//!   32       …  payload                        32       8  nth answer of this service, from 1
//!                                              40       8  number of this run of the service
//!                                              48       8  memory: pages in all
//!                                              56       8  memory: pages checked since the start
//!                                              64       8  memory: pages found bad since the start
//!                                              72       8  work: pages written since the start
//!                                              80       8  work: how long that took, ns
//!                                              88      32  work: the longest two steps since the answer
//!                                                          before, each: how long it took, ns, and how
//!                                                          long ago it ended, ns
//!                                             120       8  checksum of all the rest
//!                                             128       …  payload
//! ```
//!
//! The payload of a request follows from its sequence number, that of the answer from the request's payload: the client
//! can check every byte of it without having kept any. All payloads of a connection have the same length, at most
//! [`MAX_PAYLOAD`]. Whoever reads something that is no frame closes the connection: after that there is no telling
//! where the next frame would begin.

use crate::digest::{Digest, word};
use crate::{SlowStep, Verdict, Work};

/// The longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;
/// Bytes of a request before its payload.
pub const REQUEST_HEADER: usize = 32;
/// Bytes of an answer before its payload.
pub const ANSWER_HEADER: usize = 128;

const REQUEST_MAGIC: [u8; 4] = *b"GWq1";
const ANSWER_MAGIC: [u8; 4] = *b"GWa2";
const REQUEST_SEED: u64 = 0x676f_6477_6974_0001;
const ANSWER_SEED: u64 = 0x676f_6477_6974_0002;

/// What is read is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It does not begin as one.
    #[error("no frame of this protocol")]
    Magic,
    /// Its payload would be longer than [`MAX_PAYLOAD`].
    #[error("a payload of {0} bytes, more than allowed")]
    TooLong(usize),
    /// A request's checksum is wrong.
    #[error("a request with a wrong checksum")]
    Checksum,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The client's number for it.
    pub seq: u64,
    /// The client's clock when it was sent, in ns since whatever the client likes.
    pub clock_ns: u64,
    /// Its payload.
    pub payload: &'a [u8],
}

/// What the service says of itself in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The how manieth answer of this connection it is, from 1; in a datagram the same as `total`.
    pub nth: u64,
    /// The how manieth answer of this service it is, from 1.
    pub total: u64,
    /// A number that is another one each time a service is started (not when it is restored).
    pub run: u64,
    /// How its memory is.
    pub memory: Verdict,
    /// How it gets on with its work.
    pub work: Work,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The request's number.
    pub seq: u64,
    /// The request's clock.
    pub clock_ns: u64,
    /// What the service says of itself.
    pub standing: Standing,
    /// Whether its checksum is right.
    pub is_intact: bool,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Appends the request with that number and a payload of `len` bytes (at most [`MAX_PAYLOAD`] are sent).
pub fn put_request(out: &mut Vec<u8>, seq: u64, clock_ns: u64, len: usize) {
    let start = out.len();
    let len = len.min(MAX_PAYLOAD);
    out.extend(REQUEST_MAGIC);
    out.extend((len as u32).to_le_bytes());
    for field in [seq, clock_ns, 0] {
        out.extend(field.to_le_bytes());
    }
    out.extend(stream(REQUEST_SEED ^ seq).take(len));
    seal(&mut out[start..], REQUEST_HEADER);
}

/// Reads the request at the start of `bytes`, and how many bytes it takes; `Ok(None)` while it is not whole.
///
/// # Errors
/// When this is no request.
pub fn request(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, WireError> {
    let Some(frame) = frame(bytes, REQUEST_MAGIC, REQUEST_HEADER)? else { return Ok(None) };
    if !is_sealed(frame, REQUEST_HEADER) {
        return Err(WireError::Checksum);
    }
    let request = Request { seq: field(frame, 8), clock_ns: field(frame, 16), payload: &frame[REQUEST_HEADER..] };
    Ok(Some((request, frame.len())))
}

/// Appends the answer to a request.
pub fn put_answer(out: &mut Vec<u8>, request: &Request<'_>, standing: &Standing) {
    let start = out.len();
    out.extend(ANSWER_MAGIC);
    out.extend((request.payload.len() as u32).to_le_bytes());
    let Standing { nth, total, run, memory, work } = *standing;
    let told = [nth, total, run, memory.pages, memory.checked, memory.bad, work.written, work.writing_ns];
    let slow = work.slow.iter().flat_map(|step| [step.took_ns, step.ago_ns]);
    for field in [request.seq, request.clock_ns].into_iter().chain(told).chain(slow).chain([0]) {
        out.extend(field.to_le_bytes());
    }
    out.extend(request.payload.iter().zip(stream(ANSWER_SEED)).map(|(byte, key)| byte ^ key));
    seal(&mut out[start..], ANSWER_HEADER);
}

/// Reads the answer at the start of `bytes`, and how many bytes it takes; `Ok(None)` while it is not whole. A wrong
/// checksum is told in the answer, not refused: what of it is right is still worth knowing.
///
/// # Errors
/// When this is no answer.
pub fn answer(bytes: &[u8]) -> Result<Option<(Answer<'_>, usize)>, WireError> {
    let Some(frame) = frame(bytes, ANSWER_MAGIC, ANSWER_HEADER)? else { return Ok(None) };
    let memory = Verdict { pages: field(frame, 48), checked: field(frame, 56), bad: field(frame, 64) };
    let slow = [88, 104].map(|at| SlowStep { took_ns: field(frame, at), ago_ns: field(frame, at + 8) });
    let work = Work { written: field(frame, 72), writing_ns: field(frame, 80), slow };
    let standing = Standing { nth: field(frame, 24), total: field(frame, 32), run: field(frame, 40), memory, work };
    let answer = Answer {
        seq: field(frame, 8),
        clock_ns: field(frame, 16),
        standing,
        is_intact: is_sealed(frame, ANSWER_HEADER),
        payload: &frame[ANSWER_HEADER..],
    };
    Ok(Some((answer, frame.len())))
}

/// How many bytes of the payload are not what the answer to request `seq` with a payload of `len` bytes has; missing and
/// surplus ones included.
pub fn wrong_bytes(seq: u64, len: usize, payload: &[u8]) -> u64 {
    let expected = stream(REQUEST_SEED ^ seq).zip(stream(ANSWER_SEED)).map(|(byte, key)| byte ^ key);
    let differing = payload.iter().zip(expected.take(len)).filter(|(got, wanted)| *got != wanted).count();
    (differing + payload.len().abs_diff(len)) as u64
}

fn stream(seed: u64) -> impl Iterator<Item = u8> {
    (0..).flat_map(move |nth| word(seed, nth).to_le_bytes())
}

/// The frame at the start of `bytes`, once it is whole. A wrong beginning is refused as early as it shows.
fn frame(bytes: &[u8], magic: [u8; 4], header: usize) -> Result<Option<&[u8]>, WireError> {
    let known = bytes.len().min(4);
    if bytes[..known] != magic[..known] {
        return Err(WireError::Magic);
    }
    let Some(len) = bytes.get(4..8).and_then(|b| b.first_chunk::<4>()) else { return Ok(None) };
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_PAYLOAD {
        return Err(WireError::TooLong(len));
    }
    Ok(bytes.get(..header + len))
}

fn field(frame: &[u8], at: usize) -> u64 {
    frame[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The checksum of a frame: the last field of its header, over everything else.
fn checksum(frame: &[u8], header: usize) -> u64 {
    let mut digest = Digest::new(ANSWER_SEED);
    digest.bytes(&frame[..header - 8]);
    digest.bytes(&frame[header..]);
    digest.finish()
}

fn seal(frame: &mut [u8], header: usize) {
    let sum = checksum(frame, header);
    frame[header - 8..header].copy_from_slice(&sum.to_le_bytes());
}

fn is_sealed(frame: &[u8], header: usize) -> bool {
    field(frame, header - 8) == checksum(frame, header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn standing() -> impl Strategy<Value = Standing> {
        any::<([u64; 6], [u64; 6])>().prop_map(|([nth, total, run, pages, checked, bad], work)| Standing {
            nth,
            total,
            run,
            memory: Verdict { pages, checked, bad },
            work: Work {
                written: work[0],
                writing_ns: work[1],
                slow: [2, 4].map(|n| SlowStep { took_ns: work[n], ago_ns: work[n + 1] }),
            },
        })
    }

    proptest! {
        #[test]
        fn what_is_put_is_read_and_every_byte_counts(
            seq: u64, clock: u64, len in 0usize..300, standing in standing(), at: prop::sample::Index, change in 1u8..,
        ) {
            let mut asked = Vec::new();
            put_request(&mut asked, seq, clock, len);
            let (read, taken) = request(&asked).unwrap().unwrap();
            prop_assert_eq!((read.seq, read.clock_ns, read.payload.len(), taken), (seq, clock, len, asked.len()));
            let mut told = Vec::new();
            put_answer(&mut told, &read, &standing);
            let (back, taken) = answer(&told).unwrap().unwrap();
            prop_assert_eq!((back.seq, back.clock_ns, back.standing, taken), (seq, clock, standing, told.len()));
            prop_assert!(back.is_intact);
            prop_assert_eq!(wrong_bytes(seq, len, back.payload), 0);
            for cut in 0..asked.len() {
                prop_assert_eq!(request(&asked[..cut]), Ok(None));
            }

            let flip = at.index(asked.len());
            asked[flip] ^= change;
            prop_assert!(!matches!(request(&asked), Ok(Some(_))), "request, byte {}", flip);
            let flip = at.index(told.len());
            told[flip] ^= change;
            prop_assert!(!matches!(answer(&told), Ok(Some((a, _))) if a.is_intact), "answer, byte {}", flip);
            if flip >= ANSWER_HEADER {
                prop_assert_eq!(wrong_bytes(seq, len, &told[ANSWER_HEADER..]), 1);
            }
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (request(&noise), answer(&noise));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_at_once() {
        assert_eq!(request(b"GET / HTTP/1.1"), Err(WireError::Magic));
        assert_eq!(request(b"G"), Ok(None));
        assert_eq!(request(b"GE"), Err(WireError::Magic));
        assert_eq!(request(b"GWq1\xff\xff\xff\x7f"), Err(WireError::TooLong(0x7fff_ffff)));
        assert_eq!(answer(b"GWq1"), Err(WireError::Magic));
    }

    #[test]
    fn missing_and_surplus_bytes_are_wrong() {
        assert_eq!(wrong_bytes(1, 10, &[]), 10);
        let mut asked = Vec::new();
        put_request(&mut asked, 1, 0, 12);
        let mut told = Vec::new();
        put_answer(&mut told, &request(&asked).unwrap().unwrap().0, &Standing::default());
        assert_eq!(wrong_bytes(1, 10, &told[ANSWER_HEADER..]), 2);
        assert!(wrong_bytes(2, 12, &told[ANSWER_HEADER..]) > 6);
    }
}
