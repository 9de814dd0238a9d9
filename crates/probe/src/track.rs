//! The probes of one user: what is in flight, what became of it; pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use godwit_model::{Rtt, UserName};

use crate::choice::Choice;
pub use crate::choice::Means;
use crate::{ProbeConfig, Smoothed};

/// What became of one probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Of whom.
    pub user: UserName,
    /// When the probe was sent.
    pub sent: Instant,
    /// By what means.
    pub means: Means,
    /// The round-trip time of this probe; `None` when it was lost.
    pub raw: Option<Rtt>,
    /// The smoothed round-trip time after this probe; `None` when there is no fresh one.
    pub smoothed: Option<Rtt>,
    /// The jitter after this probe (RFC 3550); `None` when `smoothed` is.
    pub jitter: Option<Rtt>,
    /// Lost probes as a fraction of the last ones, 0..=1.
    pub loss: f64,
    /// Answers that came after their time-out, since the start.
    pub late: u64,
}

/// A probe to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) number: u64,
    pub(crate) means: Means,
}

#[derive(Debug)]
struct Flight {
    probe: Probe,
    sent: Instant,
    deadline: Instant,
    /// An ICMP probe beside TCP ones: its loss says nothing about the user.
    is_retry: bool,
}

/// How many timed-out probes are remembered, to tell a late answer from a duplicate.
const REMEMBERED: usize = 64;

/// The longest wait for a TCP probe: before the kernel's first SYN retransmission (1 s, RFC 6298).
const TCP_TIMEOUT: Duration = Duration::from_millis(900);

#[derive(Debug)]
pub(crate) struct Track {
    user: UserName,
    choice: Choice,
    smoothed: Smoothed,
    interval: Duration,
    timeout: Duration,
    next_send: Instant,
    next_number: u64,
    in_flight: VecDeque<Flight>,
    timed_out: VecDeque<u64>,
    late: u64,
    heard: bool,
}

impl Track {
    /// First probe at `first`.
    pub(crate) fn new(user: UserName, config: &ProbeConfig, icmp_is_open: bool, first: Instant) -> Self {
        Self {
            user,
            choice: Choice::new(config.method, icmp_is_open, config.switch_after, config.icmp_retry),
            smoothed: Smoothed::new(config.smoothing),
            interval: config.interval.max(Duration::from_millis(1)),
            timeout: config.timeout,
            next_send: first,
            next_number: 0,
            in_flight: VecDeque::new(),
            timed_out: VecDeque::new(),
            late: 0,
            heard: false,
        }
    }

    /// The probes to send at `now`: none before their time, else one, or two when ICMP is tried beside TCP. Ticks that
    /// were missed are left out, not made up for.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Probe> {
        if now < self.next_send {
            return Vec::new();
        }
        let missed = (now - self.next_send).as_nanos() / self.interval.as_nanos();
        self.next_send += self.interval * u32::try_from(missed + 1).unwrap_or(u32::MAX);
        let retry = self.choice.retries_icmp(now).then_some((Means::Icmp, true));
        [(self.choice.means(), false)].into_iter().chain(retry).map(|(m, retry)| self.launch(m, retry, now)).collect()
    }

    fn launch(&mut self, means: Means, is_retry: bool, now: Instant) -> Probe {
        let probe = Probe { number: self.next_number, means };
        self.next_number += 1;
        let timeout = if means == Means::Tcp { self.timeout.min(TCP_TIMEOUT) } else { self.timeout };
        self.in_flight.push_back(Flight { probe, sent: now, deadline: now + timeout, is_retry });
        probe
    }

    /// When something is to be done next: a probe to send or to give up.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.in_flight.iter().map(|f| f.deadline).fold(self.next_send, Instant::min)
    }

    /// When a probe that is in flight was sent.
    pub(crate) fn sent(&self, number: u64) -> Option<Instant> {
        self.in_flight.iter().find(|f| f.probe.number == number).map(|f| f.sent)
    }

    /// The moment at which the probe really left, a little after [`Self::due`] said so.
    pub(crate) fn left(&mut self, number: u64, at: Instant) {
        if let Some(flight) = self.in_flight.iter_mut().find(|f| f.probe.number == number) {
            flight.sent = at;
        }
    }

    /// A probe was answered. `None` for one that is not in flight: late (and counted) or a duplicate.
    pub(crate) fn answered(&mut self, number: u64, rtt: Rtt) -> Option<Measurement> {
        let Some(flight) = self.take(number) else {
            if let Some(at) = self.timed_out.iter().position(|n| *n == number) {
                self.timed_out.remove(at);
                self.late += 1;
            }
            return None;
        };
        if self.choice.answered(flight.probe.means) {
            tracing::info!(user = %self.user, "ICMP answers again, probing by ICMP");
        }
        self.heard = true;
        self.smoothed.answered(rtt);
        Some(self.measurement(&flight, Some(rtt)))
    }

    /// A probe could not be sent, or was refused by a router: lost, at once.
    pub(crate) fn failed(&mut self, number: u64, now: Instant) -> Option<Measurement> {
        let flight = self.take(number)?;
        self.loss_of(&flight, now)
    }

    /// Gives up every probe whose time is over at `now`.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Measurement> {
        let (over, flying) = self.in_flight.drain(..).partition(|f: &Flight| f.deadline <= now);
        self.in_flight = flying;
        let over: VecDeque<Flight> = over;
        over.iter()
            .filter_map(|flight| {
                if self.timed_out.len() == REMEMBERED {
                    self.timed_out.pop_front();
                }
                self.timed_out.push_back(flight.probe.number);
                self.loss_of(flight, now)
            })
            .collect()
    }

    fn take(&mut self, number: u64) -> Option<Flight> {
        let at = self.in_flight.iter().position(|f| f.probe.number == number)?;
        self.in_flight.remove(at)
    }

    fn loss_of(&mut self, flight: &Flight, now: Instant) -> Option<Measurement> {
        if flight.is_retry {
            return None;
        }
        if self.choice.lost(flight.probe.means, now) {
            let means = self.choice.means();
            // Said once: a user who answers by no means is tried by both in turn.
            if std::mem::take(&mut self.heard) || self.next_number <= 64 {
                tracing::info!(user = %self.user, silent = ?flight.probe.means, now = ?means, "silent, probing by the other means");
            } else {
                tracing::debug!(user = %self.user, now = ?means, "still silent");
            }
        }
        self.smoothed.lost();
        Some(self.measurement(flight, None))
    }

    fn measurement(&self, flight: &Flight, raw: Option<Rtt>) -> Measurement {
        Measurement {
            user: self.user.clone(),
            sent: flight.sent,
            means: flight.probe.means,
            raw,
            smoothed: self.smoothed.rtt(),
            jitter: self.smoothed.jitter(),
            loss: self.smoothed.loss(),
            late: self.late,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Method;

    const MS: Duration = Duration::from_millis(1);

    fn track(method: Method) -> (Track, Instant) {
        let t0 = Instant::now();
        let config = ProbeConfig { method, switch_after: 2, ..ProbeConfig::new([]) };
        (Track::new(UserName::new("car").unwrap(), &config, true, t0), t0)
    }

    fn rtt(ms: f64) -> Rtt {
        Rtt::from_ms(ms).unwrap()
    }

    #[test]
    fn every_probe_ends_in_one_measurement() {
        let (mut track, t0) = track(Method::Icmp);
        let first = track.due(t0)[0];
        assert!(track.due(t0).is_empty());
        let second = track.due(t0 + 200 * MS)[0];
        let m = track.answered(second.number, rtt(5.0)).unwrap();
        assert_eq!((m.raw, m.loss), (Some(rtt(5.0)), 0.0));
        assert!(track.answered(second.number, rtt(6.0)).is_none(), "a duplicate");
        let lost = track.expire(t0 + 900 * MS);
        assert_eq!((lost.len(), lost[0].raw, lost[0].loss), (1, None, 0.5));
        assert!(track.expire(t0 + 2000 * MS).is_empty());
        assert!(track.answered(first.number, rtt(950.0)).is_none(), "a late one is no measurement");
        track.due(t0 + 2000 * MS);
        assert_eq!(track.expire(t0 + 5000 * MS)[0].late, 1, "but it is counted");
    }

    #[test]
    fn missed_ticks_are_left_out_and_the_grid_is_kept() {
        let (mut track, t0) = track(Method::Icmp);
        assert_eq!(track.due(t0 + 1010 * MS).len(), 1);
        assert!(track.due(t0 + 1199 * MS).is_empty());
        assert_eq!(track.due(t0 + 1200 * MS).len(), 1);
    }

    #[test]
    fn a_silent_retry_of_icmp_is_no_loss() {
        let (mut track, t0) = track(Method::Auto { port: 7 });
        let mut now = t0;
        for _ in 0..2 {
            let probe = track.due(now)[0];
            assert_eq!(track.failed(probe.number, now).unwrap().means, Means::Icmp);
            now += 200 * MS;
        }
        now += Duration::from_secs(11);
        let probes = track.due(now);
        assert_eq!(probes.iter().map(|p| p.means).collect::<Vec<_>>(), [Means::Tcp, Means::Icmp]);
        let before = track.answered(probes[0].number, rtt(1.0)).unwrap();
        assert!(track.expire(now + 1000 * MS).is_empty());
        let next = track.due(now + 1000 * MS);
        assert_eq!(next.len(), 1);
        assert!(track.answered(next[0].number, rtt(1.0)).unwrap().loss < before.loss);
    }

    #[test]
    fn a_tcp_probe_ends_before_the_syn_is_sent_again() {
        let t0 = Instant::now();
        let config = ProbeConfig {
            method: Method::Tcp { port: 7 },
            timeout: Duration::from_secs(5),
            interval: Duration::from_secs(60),
            ..ProbeConfig::new([])
        };
        let mut track = Track::new(UserName::new("car").unwrap(), &config, true, t0);
        track.due(t0);
        assert_eq!(track.next_deadline(), t0 + TCP_TIMEOUT);
    }
}
