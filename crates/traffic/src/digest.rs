//! Checksums and pseudo-random words; not cryptographic.

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The nth word of the stream with that seed (splitmix64, Steele et al. 2014, doi 10.1145/2714064.2660195).
pub(crate) fn word(seed: u64, nth: u64) -> u64 {
    let mut z = seed.wrapping_add(nth.wrapping_add(1).wrapping_mul(ODD));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A running checksum over 64-bit words. Each step is a bijection of both the state and the word, so that any change
/// within one word is always seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(ODD);
        self.0 = mixed ^ (mixed >> 32);
    }

    pub(crate) fn words(&mut self, words: &[u64]) {
        words.iter().for_each(|w| self.word(*w));
    }

    /// Bytes, zero-padded to words; their number counts too.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(bytes: &[u8]) -> u64 {
        let mut digest = Digest::new(1);
        digest.bytes(bytes);
        digest.finish()
    }

    proptest! {
        #[test]
        fn a_changed_byte_changes_the_digest(
            mut bytes in proptest::collection::vec(any::<u8>(), 1..300), at: prop::sample::Index, change in 1u8..,
        ) {
            let before = of(&bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert_ne!(before, of(&bytes));
        }
    }

    #[test]
    fn trailing_zeros_count() {
        assert_ne!(of(&[1]), of(&[1, 0]));
        assert_ne!(of(&[]), of(&[0]));
    }
}
