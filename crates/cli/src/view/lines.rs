//! A line for what is worth one.

use godwit_model::{Outcome, Time};
use godwit_testbed::{Live, RunEvent};

/// How often the state is told when nothing happens, in seconds of the wall clock.
const EVERY_S: f64 = 10.0;

/// Lines to standard error.
#[derive(Debug, Default)]
pub struct Lines {
    told: Option<f64>,
}

impl Lines {
    /// Prints one.
    pub fn say(&mut self, text: &str) {
        eprintln!("{text}");
    }

    /// Tells the state now and then.
    pub fn live(&mut self, live: &Live) {
        let clock = live.at.secs() / live.speed;
        if self.told.is_some_and(|told| clock - told < EVERY_S) {
            return;
        }
        self.told = Some(clock);
        let nodes: Vec<String> = live
            .nodes
            .iter()
            .map(|node| {
                let rtt: Vec<String> = node.rtt_ms.values().map(|rtt| format!("{:.1}", rtt.ms())).collect();
                let load = node.load.map_or("-".into(), |load| load.to_string());
                let here = live.workloads.iter().any(|w| w.node == node.name);
                format!("{}{} rtt {} load {load}", if here { "*" } else { "" }, node.name, rtt.join("/"))
            })
            .collect();
        self.say(&format!("{:>7.1}  {}", live.at.secs(), nodes.join("   ")));
    }
}

/// How an event reads; `None` for what is not worth a line.
pub fn line(at: Time, event: &RunEvent) -> Option<String> {
    let text = match event {
        RunEvent::Note(note) => note.clone(),
        RunEvent::Warning(warning) => format!("warning: {warning}"),
        RunEvent::Started(order) => format!("move {} {} -> {}: {}", order.workload, order.from, order.to, order.reason),
        RunEvent::Phase(..) => return None,
        RunEvent::Ended(record) => match record.outcome {
            Outcome::Done => {
                format!("{} runs on {} now; it stood still for {:.0} ms", record.workload, record.to, record.freeze_ms)
            }
            outcome => format!(
                "{} {outcome}, it runs on {}: {}",
                record.workload,
                if outcome == Outcome::RolledBack { record.from.as_str() } else { "no node" },
                record.error.as_deref().unwrap_or("no reason given")
            ),
        },
        RunEvent::Gap(_, gap) => format!("its client saw a gap of {gap:.0} ms"),
    };
    Some(format!("{:>7.1}  {text}", at.secs()))
}
