//! What a client makes of what it sends and receives; pure: moments are handed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::gaps::Gaps;
use crate::steps::Told;
use crate::wire::{self, ANSWER_HEADER, Answer, Standing};
use crate::{Break, BreakCause, ClientReport, Gap, Histogram, Verdict, Work};

/// Checks sequence, content, counters and timing of the answers.
///
/// ```text
///   opened ─► (sent ─► answer)* ─► broke ─► opened …        finish ─► ClientReport
/// ```
/// A request belongs to the connection that was open when it went: when that breaks, it stays unanswered.
#[derive(Debug)]
pub struct Recorder {
    payload: usize,
    next_seq: u64,
    is_open: bool,
    /// Asked on this connection and due next, ascending.
    pending: VecDeque<(u64, Instant)>,
    /// Asked on this connection and overtaken by later ones.
    overtaken: BTreeMap<u64, Instant>,
    nth: u64,
    /// The service as it last was, over all connections.
    last: Option<Standing>,
    /// When it said so.
    last_at: Option<Instant>,
    steps: Told,
    gaps: Gaps,
    responses: Histogram,
    last_response: Option<Duration>,
    report: ClientReport,
}

/// How a client fares right now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LiveClient {
    /// A connection is open.
    pub is_connected: bool,
    /// Since the last answer (before the first: since the first request).
    pub silence: Duration,
    /// Requests sent.
    pub sent: u64,
    /// Answers received.
    pub received: u64,
    /// Requests that wait for their answer.
    pub waiting: u64,
    /// Answers in the last second.
    pub per_second: u64,
    /// The last response time.
    pub response: Option<Duration>,
    /// The longest silence so far, a lasting one included.
    pub worst_gap: Duration,
    /// Connections that broke.
    pub broken: u64,
    /// Bad pages that the service reported.
    pub memory_bad: u64,
    /// All that was found wrong so far, bad pages and broken connections included: 0 if nothing was.
    pub harm: u64,
}

const BREAKS_KEPT: usize = 1000;

impl Recorder {
    /// For requests with a payload of `payload` bytes; silences of at least `long_gap` are all kept for the report.
    pub fn new(payload: usize, long_gap: Duration) -> Self {
        Self {
            payload,
            next_seq: 0,
            is_open: false,
            pending: VecDeque::new(),
            overtaken: BTreeMap::new(),
            nth: 0,
            last: None,
            last_at: None,
            steps: Told::default(),
            gaps: Gaps::new(long_gap),
            responses: Histogram::default(),
            last_response: None,
            report: ClientReport {
                connections: 0,
                breaks: Vec::new(),
                broken: 0,
                sent: 0,
                received: 0,
                unanswered: 0,
                bytes_missing: 0,
                bytes_wrong: 0,
                reordered: 0,
                duplicated: 0,
                restarts: 0,
                rewinds: 0,
                memory: Verdict::default(),
                memory_bad: 0,
                worst_gap: None,
                gaps: Vec::new(),
                gaps_dropped: 0,
                response_median: None,
                response_p95: None,
                response_max: None,
                left_out: 0,
                worst_own_delay: Duration::ZERO,
            },
        }
    }

    /// A connection was opened.
    pub fn opened(&mut self) {
        self.report.connections += 1;
        self.is_open = true;
        self.nth = 0;
    }

    /// The connection broke.
    pub fn broke(&mut self, at: Instant, cause: BreakCause) {
        self.report.broken += 1;
        if self.report.breaks.len() < BREAKS_KEPT {
            self.report.breaks.push(Break { at, cause });
        }
        self.is_open = false;
        self.give_up();
    }

    /// A request goes; its sequence number.
    pub fn sent(&mut self, at: Instant) -> u64 {
        self.gaps.begin(at);
        self.report.sent += 1;
        let seq = self.next_seq;
        self.next_seq += 1;
        self.pending.push_back((seq, at));
        seq
    }

    /// The client's thread was late by so much.
    pub fn own_delay(&mut self, late: Duration) {
        self.gaps.own_delay(late);
        self.report.worst_own_delay = self.report.worst_own_delay.max(late);
    }

    /// Requests were left out.
    pub fn left_out(&mut self, count: u64) {
        self.report.left_out += count;
    }

    /// An answer came.
    pub fn answer(&mut self, at: Instant, answer: &Answer<'_>) {
        self.report.received += 1;
        self.gaps.answer(at);
        let wrong = wire::wrong_bytes(answer.seq, self.payload, answer.payload);
        match self.pending.binary_search_by_key(&answer.seq, |(seq, _)| *seq) {
            Ok(place) => {
                self.overtaken.extend(self.pending.drain(..place));
                if let Some((_, sent)) = self.pending.pop_front() {
                    self.responded(at, sent);
                }
                self.report.bytes_wrong += if answer.is_intact { wrong } else { wrong.max(1) };
                if answer.is_intact {
                    self.steps.add(at, &answer.standing.work);
                    self.last_at = Some(at);
                    self.compare(&answer.standing);
                }
            }
            Err(_) => {
                if let Some(sent) = self.overtaken.remove(&answer.seq) {
                    self.responded(at, sent);
                    self.report.reordered += 1;
                    self.report.bytes_wrong += wrong;
                } else {
                    self.report.duplicated += 1;
                    self.report.bytes_wrong += (ANSWER_HEADER + answer.payload.len()) as u64;
                }
            }
        }
    }

    fn responded(&mut self, at: Instant, sent: Instant) {
        let time = at.saturating_duration_since(sent);
        self.responses.add(time);
        self.last_response = Some(time);
    }

    /// Whether the service is the one that answered before, and has not forgotten it. Answers that are missing from
    /// a counter are missing as bytes too, and counted there.
    fn compare(&mut self, now: &Standing) {
        let before = self.last.replace(*now);
        let is_same_run = before.is_none_or(|before| before.run == now.run);
        if !is_same_run {
            self.report.restarts += 1;
            // Of datagrams: a connection that lives is one of the same run.
            self.nth = 0;
        }
        let before = before.filter(|_| is_same_run).unwrap_or_default();
        if now.nth <= self.nth || now.total <= before.total {
            self.report.rewinds += 1;
        }
        self.nth = now.nth;
        self.report.memory = now.memory;
        self.report.memory_bad += now.memory.bad.saturating_sub(before.memory.bad);
    }

    fn give_up(&mut self) {
        let unanswered = (self.pending.len() + self.overtaken.len()) as u64;
        self.report.unanswered += unanswered;
        self.report.bytes_missing += unanswered * (ANSWER_HEADER + self.payload) as u64;
        self.pending.clear();
        self.overtaken.clear();
    }

    /// Requests that wait for their answer.
    pub fn waiting(&self) -> u64 {
        (self.pending.len() + self.overtaken.len()) as u64
    }

    /// How long the oldest request that was not overtaken has been waiting.
    pub fn longest_wait(&self, now: Instant) -> Duration {
        self.pending.front().map_or(Duration::ZERO, |(_, sent)| now.saturating_duration_since(*sent))
    }

    /// Since the last answer.
    pub fn silence(&self, now: Instant) -> Duration {
        self.gaps.open(now).map_or(Duration::ZERO, |gap| gap.len())
    }

    /// The longest silence that overlaps `from..to`, in its whole length, one that lasts at `now` included; `None` when
    /// no answer and no silence is known there. Every silence of the last 32768 answers is known, long ones for longer.
    pub fn worst_gap_between(&self, from: Instant, to: Instant, now: Instant) -> Option<Gap> {
        self.gaps.worst_between(from, to, now)
    }

    /// The longest that one step of the service took between two moments (one page written or checked, one turn of
    /// answering); of a step that began before, what lies after `from`. `None` where nothing was told of that time.
    pub fn longest_step_between(&self, from: Instant, to: Instant) -> Option<Duration> {
        self.steps.longest_between(from, to)
    }

    /// What the service last said of its work, and when.
    pub fn work(&self) -> Option<(Instant, Work)> {
        Some((self.last_at?, self.last?.work))
    }

    /// How it fares.
    pub fn snapshot(&self, now: Instant) -> LiveClient {
        LiveClient {
            is_connected: self.is_open,
            silence: self.silence(now),
            sent: self.report.sent,
            received: self.report.received,
            waiting: self.waiting(),
            per_second: now
                .checked_sub(Duration::from_secs(1))
                .map_or(self.report.received, |from| self.gaps.answers_since(from) as u64),
            response: self.last_response,
            worst_gap: self.gaps.worst(now).map_or(Duration::ZERO, |gap| gap.len()),
            broken: self.report.broken,
            memory_bad: self.report.memory_bad,
            // An answer that was overtaken came late, or will not come.
            harm: self.report.harm() + self.overtaken.len() as u64,
        }
    }

    /// It is over. What was not answered by now is lost; a silence that lasts counts if there was something to answer,
    /// or nobody to.
    pub fn finish(mut self, at: Instant) -> ClientReport {
        if self.waiting() > 0 || !self.is_open {
            self.gaps.end(at);
        }
        self.give_up();
        let mut report = self.report;
        report.worst_gap = self.gaps.worst_closed();
        (report.gaps, report.gaps_dropped) = self.gaps.into_long();
        report.response_median = self.responses.quantile(0.5);
        report.response_p95 = self.responses.quantile(0.95);
        report.response_max = self.responses.max();
        report
    }
}

#[cfg(test)]
mod tests;
