//! The Internet's checksum (RFC 1071).

/// A sum under way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self::default().add(bytes)
    }

    /// Of what follows; only the last part of all may have an odd length.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let word = |word: &[u8]| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0));
        Self(self.0 + bytes.chunks(2).map(word).sum::<u64>())
    }

    /// What is written into the packet; over a packet that has it already: 0.
    pub(crate) fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).finish();
        assert_eq!(sum, !0xddf2);
    }
}
