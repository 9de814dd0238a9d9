//! Which compression saves time: pure arithmetic on what was measured.

/// How contents go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Method {
    Raw = 0,
    Lz4 = 1,
    Zstd = 2,
}

impl Method {
    pub(crate) fn from_flags(flags: u8) -> Option<Self> {
        [Self::Raw, Self::Lz4, Self::Zstd].into_iter().find(|method| *method as u8 == flags & 3)
    }
}

/// What a method does with the contents of late.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// Bytes of contents a second.
    pub(crate) speed: f64,
    /// Bytes after it for each byte before it.
    pub(crate) ratio: f64,
}

/// A method has to save so much of the time, or things stay simple.
const WORTH: f64 = 0.9;

/// The method by which a byte of contents is over soonest. Compressing and sending are counted one after the other,
/// though the kernel sends meanwhile: so a link is never slower for being compressed on, and the workload keeps its CPU.
/// While the link's speed (bytes a second) is unknown nothing is compressed.
pub(crate) fn choose(link: Option<f64>, lz4: Option<Measured>, zstd: Option<Measured>) -> Method {
    let Some(link) = link.filter(|link| *link > 0.0) else { return Method::Raw };
    let cost = |m: Measured| 1.0 / m.speed + m.ratio / link;
    let mut best = (WORTH / link, Method::Raw);
    for (measured, method) in [(lz4, Method::Lz4), (zstd, Method::Zstd)] {
        match measured.map(cost) {
            Some(cost) if cost < best.0 => best = (cost, method),
            _ => {}
        }
    }
    best.1
}

/// Whether looking for duplicates saves time: `seconds` is what it costs a page, `found` how many of a page are found.
pub(crate) fn duplicates_are_worth_it(link: Option<f64>, seconds: f64, found: f64) -> bool {
    link.is_some_and(|link| found * 4096.0 / link > seconds)
}

/// How fast the link takes bytes: an estimate that only believes what made the sender wait.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct LinkSpeed {
    bytes: f64,
    waiting: f64,
    busy: f64,
    estimate: Option<f64>,
}

/// No link is faster: what is only hoped for ends here.
const FASTEST: f64 = 1e10;

impl LinkSpeed {
    /// So much makes one sample.
    const SAMPLE: f64 = (1 << 20) as f64;

    /// `bytes` were handed over; that took `waiting` seconds, and what came before it `busy` seconds.
    pub(crate) fn add(&mut self, bytes: usize, waiting: f64, busy: f64) {
        self.bytes += bytes as f64;
        self.waiting += waiting;
        self.busy += busy;
        if self.bytes < Self::SAMPLE && self.waiting + self.busy < 0.2 {
            return;
        }
        let took = (self.waiting + self.busy).max(1e-9);
        let sample = self.bytes / took;
        self.estimate = Some(match self.estimate {
            // The link was what it took its time for: the sample is its speed.
            before if self.waiting > took / 2.0 => before.map_or(sample, |before| 0.5 * before + 0.5 * sample),
            // It was not: it is at least so fast, and may have become faster; trying will tell.
            Some(before) => sample.max(before * 1.05).min(FASTEST),
            None => {
                (self.bytes, self.waiting, self.busy) = (0.0, 0.0, 0.0);
                return;
            }
        });
        (self.bytes, self.waiting, self.busy) = (0.0, 0.0, 0.0);
    }

    /// Bytes a second.
    pub(crate) fn estimate(&self) -> Option<f64> {
        self.estimate
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LZ4: Measured = Measured { speed: 1e9, ratio: 0.5 };
    const ZSTD: Measured = Measured { speed: 3e8, ratio: 0.3 };

    #[test]
    fn a_fast_link_carries_bytes_as_they_are_a_slow_one_takes_the_better_method() {
        assert_eq!(choose(None, Some(LZ4), Some(ZSTD)), Method::Raw);
        assert_eq!(choose(Some(5e9), Some(LZ4), Some(ZSTD)), Method::Raw);
        assert_eq!(choose(Some(2e8), Some(LZ4), Some(ZSTD)), Method::Lz4);
        assert_eq!(choose(Some(1e7), Some(LZ4), Some(ZSTD)), Method::Zstd);
        assert_eq!(choose(Some(1e7), None, None), Method::Raw);
        assert_eq!(choose(Some(1e7), Some(Measured { speed: 1e9, ratio: 1.0 }), None), Method::Raw);
    }

    #[test]
    fn a_link_that_becomes_slow_or_fast_is_noticed() {
        let mut speed = LinkSpeed::default();
        let feed =
            |speed: &mut LinkSpeed, rate: f64| (0..40).for_each(|_| speed.add(1 << 20, f64::from(1 << 20) / rate, 0.0));
        for rate in [1e9, 1e7, 3e8] {
            feed(&mut speed, rate);
            let found = speed.estimate().unwrap();
            assert!((0.95..1.05).contains(&(found / rate)), "{found} for {rate}");
        }
        // Busy compressing: what goes over says nothing of the link, but it is tried whether it is faster.
        (0..200).for_each(|_| speed.add(1 << 20, 0.0, 0.1));
        assert!(speed.estimate().unwrap() > 1e9);
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_never_slower(
            link in 1e4f64..1e11, speeds in (1e6f64..1e11, 1e6f64..1e11), ratios in (0.01f64..1.1, 0.01f64..1.1),
        ) {
            let of = |speed, ratio| Measured { speed, ratio };
            let (lz4, zstd) = (of(speeds.0, ratios.0), of(speeds.1, ratios.1));
            let time = |method| match method {
                Method::Raw => 1.0 / link,
                Method::Lz4 => 1.0 / lz4.speed + lz4.ratio / link,
                Method::Zstd => 1.0 / zstd.speed + zstd.ratio / link,
            };
            let chosen = time(choose(Some(link), Some(lz4), Some(zstd)));
            prop_assert!(chosen <= time(Method::Raw));
            prop_assert!(chosen * WORTH <= time(Method::Lz4).min(time(Method::Zstd)) * 1.0001);
        }

        #[test]
        fn duplicates_pay_only_if_they_save_more_than_they_cost(link in 1e4f64..1e11, seconds in 1e-9f64..1e-3, found in 0.0f64..1.0) {
            prop_assert_eq!(duplicates_are_worth_it(Some(link), seconds, found), found * 4096.0 / link > seconds);
            prop_assert!(!duplicates_are_worth_it(None, seconds, found));
        }
    }
}
