//! What is measured and told on the way.

use std::time::{Duration, Instant};

use godwit_model::{Bytes, CopyRound, Outcome, Phase, PhaseTime};

use crate::parts::{PartError, Told};
use crate::request::Progress;

/// How a migration ended.
#[derive(Debug)]
pub struct Ended {
    /// Where the workload runs now, as far as is known.
    pub outcome: Outcome,
    /// The journal has it still open: a party does not answer, or the journal cannot be written. [`recover`](crate::recover)
    /// goes on where this has stopped; until then the workload is in no other migration.
    pub open: bool,
    /// Every phase that was entered, the failed one included.
    pub phases: Vec<PhaseTime>,
    /// The rounds of pre-copy, that of the freeze last.
    pub rounds: Vec<CopyRound>,
    /// When the hold began and when the copy that answers ran again; `None` when it was never frozen.
    pub freeze: Option<(Instant, Instant)>,
    /// State sent.
    pub bytes: Bytes,
    /// What that came to on the wire, where it is counted; what follows after the switch (post-copy) is not in it.
    pub wire_bytes: Option<Bytes>,
    /// From the call to the end.
    pub total: Duration,
    /// What failed: with [`Outcome::Done`] something after the switch that did not matter to the workload.
    pub error: Option<String>,
}

impl Ended {
    /// How long the workload stood still, in ms.
    pub fn freeze_ms(&self) -> f64 {
        self.freeze.map_or(0.0, |(from, to)| ms(to - from))
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// Times the phases and tells the observer.
pub(super) struct Clock<'a> {
    start: Instant,
    phases: Vec<PhaseTime>,
    rounds: Vec<CopyRound>,
    freeze_began: Option<Instant>,
    resumed: Option<Instant>,
    /// Sent by the steps that are over.
    sent_before: u64,
    /// Sent by the step under way, and what it expects.
    sending: (u64, u64),
    observe: &'a mut dyn FnMut(Progress),
}

impl<'a> Clock<'a> {
    pub(super) fn new(observe: &'a mut dyn FnMut(Progress)) -> Self {
        Self {
            start: Instant::now(),
            phases: Vec::new(),
            rounds: Vec::new(),
            freeze_began: None,
            resumed: None,
            sent_before: 0,
            sending: (0, 0),
            observe,
        }
    }

    /// Enters a phase and does its step; the error says in which phase it was.
    pub(super) fn run<T>(
        &mut self,
        phase: Phase,
        step: impl FnOnce(&mut Self) -> Result<T, PartError>,
    ) -> Result<T, PartError> {
        (self.observe)(Progress::Entered(phase));
        let start = Instant::now();
        if phase == Phase::Freeze {
            self.freeze_began = Some(start);
        }
        let result = step(self);
        let time = PhaseTime { phase, ms: ms(start.elapsed()) };
        self.phases.push(time);
        self.sent_before += self.sending.0;
        self.sending = (0, 0);
        match result {
            Ok(value) => {
                (self.observe)(Progress::Left(time));
                Ok(value)
            }
            Err(error) => Err(error.within(phase.to_string())),
        }
    }

    /// Adds to the phase that was entered last.
    pub(super) fn go_on<T>(&mut self, step: impl FnOnce() -> Result<T, PartError>) -> Result<T, PartError> {
        let start = Instant::now();
        let result = step();
        let last = self.phases.last_mut().expect("a phase was entered");
        last.ms += ms(start.elapsed());
        let phase = last.phase;
        result.map_err(|error| error.within(phase.to_string()))
    }

    /// A part tells of its step.
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Round(round) => self.copied(round),
            Told::Sent { bytes, expected } => self.sent(bytes, expected),
        }
    }

    pub(super) fn copied(&mut self, round: CopyRound) {
        let before = self.rounds.iter().map(|round| round.bytes.0).sum::<u64>();
        self.rounds.push(round);
        (self.observe)(Progress::Copied(round));
        let (_, expected) = self.sending;
        let sent = (before + round.bytes.0).saturating_sub(self.sent_before);
        self.sent(Bytes(sent), Bytes(expected));
    }

    /// The step's figures never go down, and it is not expected to send less than it has.
    fn sent(&mut self, bytes: Bytes, expected: Bytes) {
        let bytes = bytes.0.max(self.sending.0);
        let sending = (bytes, expected.0.max(bytes));
        if std::mem::replace(&mut self.sending, sending) == sending {
            return;
        }
        let (bytes, expected) = (self.sent_before + bytes, self.sent_before + self.sending.1);
        (self.observe)(Progress::Sent { bytes: Bytes(bytes), expected: Bytes(expected) });
    }

    pub(super) fn rolling_back(&mut self) {
        (self.observe)(Progress::RollingBack);
    }

    /// Whether the hold was begun.
    pub(super) fn was_frozen(&self) -> bool {
        self.freeze_began.is_some()
    }

    /// The copy that answers runs, with its packets.
    pub(super) fn resumed(&mut self) {
        self.resumed = Some(Instant::now());
    }

    pub(super) fn ended(self, outcome: Outcome, open: bool, bytes: Bytes, error: Option<String>) -> Ended {
        let resumed = self.resumed.unwrap_or_else(Instant::now);
        Ended {
            outcome,
            open,
            phases: self.phases,
            rounds: self.rounds,
            freeze: self.freeze_began.map(|from| (from, resumed)),
            bytes,
            wire_bytes: None,
            total: self.start.elapsed(),
            error,
        }
    }
}
