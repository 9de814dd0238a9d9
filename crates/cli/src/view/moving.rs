//! What a person sees of one migration: a bar in a terminal, a line for each step elsewhere.

use std::io::{Write, stderr};

use godwit_model::{Bytes, Phase};
use godwit_testbed::Reply;

/// The bar's full width, in cells.
const WIDTH: u64 = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Bar,
    Lines,
    Silent,
}

/// See the module.
#[derive(Debug)]
pub struct MoveView {
    how: How,
    phase: Option<Phase>,
    rounds: u32,
    sent: Option<(Bytes, Bytes)>,
    rolling_back: bool,
}

impl MoveView {
    /// For a terminal.
    pub fn bar() -> Self {
        Self::new(How::Bar)
    }

    /// For a file or a pipe.
    pub fn lines() -> Self {
        Self::new(How::Lines)
    }

    /// For whoever reads the answer only.
    pub fn silent() -> Self {
        Self::new(How::Silent)
    }

    fn new(how: How) -> Self {
        Self { how, phase: None, rounds: 0, sent: None, rolling_back: false }
    }

    /// Something happened.
    pub fn reply(&mut self, reply: &Reply) {
        let line = self.take(reply);
        match (self.how, line) {
            (How::Bar, _) if !reply.is_final() => {
                eprint!("\r\x1b[K{}", self.text());
                let _ = stderr().flush();
            }
            (How::Lines, Some(line)) => eprintln!("{line}"),
            _ => {}
        }
    }

    /// Clears the bar away.
    pub fn leave(&mut self) {
        if self.how == How::Bar {
            eprint!("\r\x1b[K");
        }
    }

    /// Takes it up; a line, where it is worth one.
    fn take(&mut self, reply: &Reply) -> Option<String> {
        match reply {
            Reply::Phase { phase } => {
                self.phase = Some(*phase);
                Some(phase.to_string())
            }
            Reply::Round { round } => {
                self.rounds += 1;
                Some(format!("  round {}: {} in {:.0} ms", self.rounds, round.bytes, round.ms))
            }
            Reply::Sent { bytes, expected } => {
                self.sent = Some((*bytes, *expected));
                None
            }
            Reply::RollingBack => {
                self.rolling_back = true;
                Some("rolling back".into())
            }
            _ => None,
        }
    }

    fn text(&self) -> String {
        let phase = match (self.rolling_back, self.phase) {
            (true, _) => "rolling back".to_owned(),
            (false, Some(phase)) => phase.to_string(),
            (false, None) => String::new(),
        };
        let round = match self.phase {
            Some(Phase::PreCopy) if !self.rolling_back => format!(", round {}", self.rounds + 1),
            _ => String::new(),
        };
        match self.sent {
            Some((bytes, expected)) if expected.0 > 0 => {
                let full = (bytes.0.min(expected.0) * WIDTH / expected.0) as usize;
                let bar = format!("{}{}", "█".repeat(full), "░".repeat(WIDTH as usize - full));
                format!("{bar} {bytes} of {expected}  {phase}{round} …")
            }
            _ => format!("{phase}{round} …"),
        }
    }
}

#[cfg(test)]
mod tests {
    use godwit_model::CopyRound;

    use super::*;

    #[test]
    fn the_bar_fills_and_the_lines_tell_rounds() {
        let mut view = MoveView::silent();
        assert_eq!(view.take(&Reply::Phase { phase: Phase::PreCopy }).unwrap(), "pre-copy");
        assert_eq!(view.text(), "pre-copy, round 1 …");
        assert_eq!(view.take(&Reply::Sent { bytes: Bytes(8 << 20), expected: Bytes(16 << 20) }), None);
        assert_eq!(view.text(), format!("{}{} 8MiB of 16MiB  pre-copy, round 1 …", "█".repeat(12), "░".repeat(12)));
        let round = CopyRound { bytes: Bytes(16 << 20), ms: 20.4 };
        assert_eq!(view.take(&Reply::Round { round }).unwrap(), "  round 1: 16MiB in 20 ms");
        assert!(view.text().ends_with("round 2 …"));
        // More than was expected does not burst it.
        view.take(&Reply::Sent { bytes: Bytes(20 << 20), expected: Bytes(16 << 20) });
        view.take(&Reply::RollingBack);
        assert!(view.text().starts_with(&"█".repeat(24)) && view.text().ends_with("rolling back …"));
    }
}
