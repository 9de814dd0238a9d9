//! Contents, smaller.

use std::fmt;
use std::time::Instant;

use crate::choose::{Measured, Method, choose};
use crate::error::{StreamError, corrupt};
use crate::frame::CHUNK;
use crate::hello::Features;
use crate::options::Compression;

/// What a method is tried with.
const SAMPLE: usize = 16 << 10;
/// Less than that is not worth the trouble.
const LEAST: usize = 512;
/// What does not become smaller than that goes as it is.
const SMALLER: f64 = 0.95;
/// A method is tried each so many chunks at first, and less and less often while it does not pay.
const TRY_FIRST: u32 = 8;
const TRY_LAST: u32 = 256;

/// Makes contents smaller where it pays.
pub(crate) struct Squeezer {
    mode: Compression,
    features: Features,
    zstd: zstd::bulk::Compressor<'static>,
    measured: [Option<Measured>; 2],
    out: Vec<u8>,
    /// Chunks until the methods are tried again, and how many it were last time.
    until_try: u32,
    between_tries: u32,
    /// Chunks that go as they are since the last ones did not get smaller, and how many it were last time.
    rest: u32,
    rested: u32,
}

impl fmt::Debug for Squeezer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Squeezer").field("mode", &self.mode).field("measured", &self.measured).finish_non_exhaustive()
    }
}

impl Squeezer {
    pub(crate) fn new(mode: Compression, features: Features) -> Result<Self, StreamError> {
        let zstd = zstd::bulk::Compressor::new(1).map_err(crate::error::io_error("start Zstandard"))?;
        let (measured, out, between_tries) = ([None; 2], Vec::new(), TRY_FIRST);
        Ok(Self { mode, features, zstd, measured, out, until_try: 0, between_tries, rest: 0, rested: 0 })
    }

    /// By which method, and the bytes after it. `link` is its speed, bytes a second, if it is known.
    pub(crate) fn squeeze<'a>(&'a mut self, contents: &'a [u8], link: Option<f64>) -> (Method, &'a [u8]) {
        let method = self.pick(contents, link);
        if method == Method::Raw || contents.len() < LEAST {
            return (Method::Raw, contents);
        }
        let ratio = self.run(method, contents);
        if ratio < SMALLER {
            self.rested = 0;
            return (method, &self.out);
        }
        // It is not tried by another method: what LZ4 leaves alone is mostly compressed or encrypted already.
        self.rested = (self.rested * 2).clamp(1, 32);
        self.rest = self.rested;
        (Method::Raw, contents)
    }

    fn pick(&mut self, contents: &[u8], link: Option<f64>) -> Method {
        let may = |feature, method| if self.features.has(feature) { method } else { Method::Raw };
        match self.mode {
            Compression::Off => return Method::Raw,
            Compression::Lz4 => return may(Features::LZ4, Method::Lz4),
            Compression::Zstd => return may(Features::ZSTD, Method::Zstd),
            Compression::Auto => {}
        }
        if link.is_none() {
            return Method::Raw;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return Method::Raw;
        }
        let tries = self.until_try == 0 && contents.len() >= LEAST;
        if tries {
            let middle = contents.len().saturating_sub(SAMPLE) / 2;
            let sample = &contents[middle..contents.len().min(middle + SAMPLE)];
            if self.run(Method::Lz4, sample) < SMALLER {
                self.run(Method::Zstd, sample);
            }
        }
        let of = |feature, n: usize| self.measured[n].filter(|_| self.features.has(feature));
        let chosen = choose(link, of(Features::LZ4, 0), of(Features::ZSTD, 1));
        if tries {
            self.between_tries = if chosen == Method::Raw { (self.between_tries * 2).min(TRY_LAST) } else { TRY_FIRST };
            self.until_try = self.between_tries;
        }
        self.until_try = self.until_try.saturating_sub(1);
        chosen
    }

    /// Leaves what came out in `out`; returns how much smaller it is, and takes note.
    fn run(&mut self, method: Method, contents: &[u8]) -> f64 {
        let start = Instant::now();
        let bound =
            lz4_flex::block::get_maximum_output_size(contents.len()).max(contents.len() + (contents.len() >> 7) + 128);
        self.out.resize(bound, 0);
        let made = match method {
            Method::Raw => return 1.0,
            Method::Lz4 => lz4_flex::block::compress_into(contents, &mut self.out).ok(),
            Method::Zstd => self.zstd.compress_to_buffer(contents, &mut self.out[..]).ok(),
        };
        let Some(made) = made else { return 1.0 };
        self.out.truncate(made);
        let ratio = made as f64 / contents.len() as f64;
        let speed = contents.len() as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let measured = &mut self.measured[method as usize - 1];
        *measured = Some(match *measured {
            None => Measured { speed, ratio },
            Some(m) => Measured { speed: 0.75 * m.speed + 0.25 * speed, ratio: 0.75 * m.ratio + 0.25 * ratio },
        });
        ratio
    }
}

/// Makes contents what they were.
pub(crate) struct Expander {
    zstd: zstd::bulk::Decompressor<'static>,
    out: Vec<u8>,
}

impl fmt::Debug for Expander {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expander").finish_non_exhaustive()
    }
}

impl Expander {
    pub(crate) fn new() -> Result<Self, StreamError> {
        let zstd = zstd::bulk::Decompressor::new().map_err(crate::error::io_error("start Zstandard"))?;
        Ok(Self { zstd, out: Vec::new() })
    }

    /// Exactly `length` bytes, or an error.
    pub(crate) fn expand<'a>(&'a mut self, flags: u8, length: usize, bytes: &'a [u8]) -> Result<&'a [u8], StreamError> {
        if length > CHUNK {
            return Err(corrupt(format!("contents of {length} bytes in one frame")));
        }
        let method = Method::from_flags(flags).ok_or_else(|| corrupt("contents of an unknown method"))?;
        self.out.resize(length, 0);
        let made = match method {
            Method::Raw if bytes.len() == length => return Ok(bytes),
            Method::Raw => bytes.len(),
            Method::Lz4 => lz4_flex::block::decompress_into(bytes, &mut self.out)
                .map_err(|e| corrupt(format!("contents by LZ4: {e}")))?,
            Method::Zstd => self
                .zstd
                .decompress_to_buffer(bytes, &mut self.out[..])
                .map_err(|e| corrupt(format!("contents by Zstandard: {e}")))?,
        };
        if made == length {
            Ok(&self.out)
        } else {
            Err(corrupt(format!("{made} bytes of contents, {length} were said")))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(n: usize) -> Vec<u8> {
        (0..n).map(|i| b"the same words again "[i % 21] ^ u8::from(i % 97 == 0)).collect()
    }

    fn noise(n: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect()
    }

    #[test]
    fn on_a_slow_link_text_gets_smaller_and_noise_is_left_alone() {
        let mut squeezer = Squeezer::new(Compression::Auto, Features::ALL).unwrap();
        let (text, noise) = (text(CHUNK), noise(CHUNK));
        assert_eq!(squeezer.squeeze(&text, None).0, Method::Raw, "nothing is known of the link");
        let (method, bytes) = squeezer.squeeze(&text, Some(1e5));
        assert!(method != Method::Raw && bytes.len() < CHUNK / 4);
        let methods: Vec<_> = (0..40).map(|_| squeezer.squeeze(&noise, Some(1e5)).0).collect();
        assert!(methods.iter().all(|method| *method == Method::Raw));
        assert!(squeezer.rested >= 1, "it was noticed");
    }

    #[test]
    fn on_a_link_faster_than_any_method_nothing_is_compressed() {
        let mut squeezer = Squeezer::new(Compression::Auto, Features::ALL).unwrap();
        let text = text(CHUNK);
        assert!((0..40).all(|_| squeezer.squeeze(&text, Some(1e13)).0 == Method::Raw));
        assert_eq!(squeezer.between_tries, 32, "it is tried less and less often");
    }

    #[test]
    fn only_what_both_sides_have_is_used() {
        for mode in [Compression::Auto, Compression::Lz4, Compression::Zstd] {
            let mut squeezer = Squeezer::new(mode, Features(0)).unwrap();
            assert_eq!(squeezer.squeeze(&text(CHUNK), Some(1e5)).0, Method::Raw);
        }
    }

    proptest! {
        #[test]
        fn contents_come_back(contents in prop::collection::vec(0u8..4, 0..5000), lz4: bool) {
            let mode = if lz4 { Compression::Lz4 } else { Compression::Zstd };
            let mut squeezer = Squeezer::new(mode, Features::ALL).unwrap();
            let (method, bytes) = squeezer.squeeze(&contents, None);
            let mut expander = Expander::new().unwrap();
            prop_assert_eq!(expander.expand(method as u8, contents.len(), bytes).unwrap(), &contents[..]);
            prop_assert!(expander.expand(method as u8, contents.len() + 1, bytes).is_err());
        }

        #[test]
        fn chance_neither_panics_nor_passes_for_longer_than_said(
            bytes in prop::collection::vec(any::<u8>(), 0..300), flags: u8, length in 0usize..CHUNK * 2,
        ) {
            let mut expander = Expander::new().unwrap();
            if let Ok(made) = expander.expand(flags, length, &bytes) {
                prop_assert_eq!(made.len(), length);
            }
            prop_assert!(expander.out.capacity() <= CHUNK);
        }
    }
}
