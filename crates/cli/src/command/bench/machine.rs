//! The machine that the figures are of.

use std::fs;

use serde::Serialize;

/// What of it matters to the figures.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) cores: usize,
    /// Load average over a minute at the start: what was not ours.
    pub(super) load_before: Option<f64>,
    /// The highest at the end of a size: with ours.
    pub(super) load_highest: Option<f64>,
}

/// More than so much a core, and others have a say in the figures.
const BUSY: f64 = 0.25;

fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

impl Machine {
    pub(super) fn look() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { kernel, cores, load_before: load(), load_highest: load() }
    }

    pub(super) fn look_again(&mut self) {
        let now = load();
        if now > self.load_highest {
            self.load_highest = now;
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.load_before.is_some_and(|load| load > BUSY * self.cores as f64)
    }

    /// Said before and after.
    pub(super) fn warning(&self) -> Option<String> {
        let load = self.load_before.filter(|_| self.is_busy())?;
        Some(format!(
            "this machine is busy (load average {load:.1} on {} cores before the first move): compare the rows with each \
             other, and believe no figure by itself",
            self.cores
        ))
    }

    /// In a line.
    pub(super) fn describe(&self) -> String {
        let load = |load: Option<f64>| load.map_or("unknown".into(), |load| format!("{load:.1}"));
        format!(
            "{} cores, Linux {}, load average {} before, at most {} meanwhile",
            self.cores,
            self.kernel,
            load(self.load_before),
            load(self.load_highest)
        )
    }
}
