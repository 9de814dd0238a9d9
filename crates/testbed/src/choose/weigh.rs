//! Memory, dirty rate and link against each other: a pure function.

use godwit_model::{Bytes, Strategy};

/// So much takes no longer to copy in the freeze than a round takes to find out what is left.
const TINY: u64 = 4 << 20;
/// And so long, however little it is.
const TINY_MS: f64 = 5.0;
/// A round of pre-copy leaves as much of what it has sent as this: the dirty rate over the link's. Above it the rounds hardly
/// get smaller.
const HARDLY_SHRINKS: f64 = 0.7;

/// What is known; none: it could not be measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// Private memory that is there, in bytes.
    pub(super) memory: Option<u64>,
    /// Of it written, in bytes a second, pages counted once.
    pub(super) dirty: Option<f64>,
    /// What the link carries, in bytes a second.
    pub(super) link: Option<f64>,
}

/// A strategy for memory that can be tracked, and why.
pub(super) fn weigh(measured: &Measured) -> (Strategy, String) {
    let Measured { memory, dirty, link } = *measured;
    let speed = |rate: f64| format!("{}/s", Bytes(rate as u64));
    if let (Some(memory), Some(link)) = (memory, link)
        && memory <= TINY
        && memory as f64 / link * 1e3 <= TINY_MS
    {
        return (Strategy::StopCopy, format!("it holds only {}: that goes over in the freeze", Bytes(memory)));
    }
    if let (Some(memory), Some(dirty), Some(link)) = (memory, dirty, link)
        && dirty > link * HARDLY_SHRINKS
    {
        let why = format!(
            "it writes {} of its {}, the link carries {}: copying ahead would not come to an end, so memory follows it",
            speed(dirty),
            Bytes(memory),
            speed(link)
        );
        return (Strategy::PostCopy, why);
    }
    let rates = match (dirty, link) {
        (Some(dirty), Some(link)) => format!(": it writes {}, the link carries {}", speed(dirty), speed(link)),
        _ => String::new(),
    };
    (Strategy::PreCopy, format!("its memory can be tracked, and goes ahead while it runs{rates}"))
}

#[cfg(test)]
mod tests {
    use godwit_model::Strategy;
    use proptest::prelude::{prop_assert_ne, proptest};

    use super::{Measured, weigh};

    const GIGABIT: f64 = 125e6;

    fn of(memory: u64, dirty: f64, link: f64) -> (Strategy, String) {
        weigh(&Measured { memory: Some(memory), dirty: Some(dirty), link: Some(link) })
    }

    #[test]
    fn tiny_memory_stops_ordinary_memory_goes_ahead_and_what_is_written_too_fast_follows() {
        assert_eq!(of(300 << 10, 0.0, GIGABIT).0, Strategy::StopCopy);
        assert_eq!(of(4 << 20, 0.0, GIGABIT).0, Strategy::PreCopy, "34 ms are no trifle");
        assert_eq!(of(4 << 20, 0.0, 20.0 * GIGABIT).0, Strategy::StopCopy);
        assert_eq!(of(256 << 20, 16e6, GIGABIT).0, Strategy::PreCopy);
        let (strategy, why) = of(256 << 20, 100e6, GIGABIT);
        assert_eq!(strategy, Strategy::PostCopy);
        assert!(why.contains("256MiB") && why.contains("/s"), "{why}");
    }

    #[test]
    fn what_is_not_known_is_taken_for_ordinary() {
        let nothing = Measured { memory: None, dirty: None, link: None };
        assert_eq!(weigh(&nothing).0, Strategy::PreCopy);
        assert_eq!(weigh(&Measured { dirty: Some(1e12), ..nothing }).0, Strategy::PreCopy);
    }

    proptest! {
        #[test]
        fn a_faster_link_or_less_writing_never_leads_to_post_copy(
            memory in 0u64..1 << 40, dirty in 0.0..1e11f64, link in 1.0..1e11f64, more in 1.0..100.0f64,
        ) {
            if of(memory, dirty, link).0 != Strategy::PostCopy {
                prop_assert_ne!(of(memory, dirty, link * more).0, Strategy::PostCopy);
                prop_assert_ne!(of(memory, dirty / more, link).0, Strategy::PostCopy);
            }
        }
    }
}
