//! How much may be under way: what a process waits for has all of it before it, on the wire and in the kernel's buffers.

use std::time::Duration;

/// That long a queue on the wire.
const QUEUE: Duration = Duration::from_millis(15);
/// Less would leave the link idle while an answer travels.
const LEAST: u64 = 256 << 10;
const MOST: u64 = 8 << 20;

/// Bytes under way, and how fast they arrive.
#[derive(Debug)]
pub(super) struct Window {
    under_way: u64,
    /// Bytes a second, as seen lately.
    rate: f64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { under_way: 0, rate: 0.0 }
    }

    pub(super) fn is_open(&self) -> bool {
        self.under_way < self.size()
    }

    fn size(&self) -> u64 {
        ((self.rate * QUEUE.as_secs_f64()) as u64).clamp(LEAST, MOST)
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.under_way += bytes;
    }

    /// So much has arrived, `since` after the last time that something had.
    pub(super) fn arrived(&mut self, bytes: u64, since: Duration) {
        self.under_way = self.under_way.saturating_sub(bytes);
        let now = bytes as f64 / since.as_secs_f64().max(1e-6);
        // Answers come in bursts: a single interval says little.
        self.rate += (now.min(MOST as f64 / QUEUE.as_secs_f64()) - self.rate) * 0.05;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_has_a_short_queue_and_a_fast_one_is_kept_busy() {
        let after = |bytes_a_ms: u64| {
            let mut window = Window::new();
            for _ in 0..500 {
                window.sent(bytes_a_ms);
                window.arrived(bytes_a_ms, Duration::from_millis(1));
            }
            assert_eq!(window.under_way, 0);
            window.size()
        };
        assert_eq!(after(1 << 10), LEAST);
        assert!(after(400 << 10) > 4 << 20);
        assert!(after(100 << 20) >= MOST - 1);
    }

    #[test]
    fn it_is_closed_when_so_much_is_under_way_and_opens_when_it_arrives() {
        let mut window = Window::new();
        window.sent(LEAST);
        assert!(!window.is_open());
        window.arrived(4096, Duration::from_secs(1));
        assert!(window.is_open());
    }
}
