//! `threshold`: bands of RTT and load, and the nearest node in a better one.
//!
//! The reference's two policies with their holes closed (doi 10.1109/NetSoft57336.2023.10175417). Who is placed how:
//!
//! ```text
//!   container with users                                   VM, or a workload that serves nobody
//!   rtt here  load here                                    load here
//!   good|avg  healthy|avg  stay                            healthy|avg  stay
//!   good|avg  unknown      stay                            unknown      stay
//!   good|avg  bad          search                          bad          the least loaded healthy node,
//!   bad       any          search                                       else the least loaded average one,
//!   unknown   not bad      stay                                         else the least loaded that is less
//!   unknown   bad          search                                       loaded than here, else stay
//!
//!   search:  1 nearest node with good rtt     and healthy or average load
//!            2 nearest node with average rtt  and healthy or average load
//!            3 least loaded node with good rtt     that is less loaded than here   (needs the load here)
//!            4 least loaded node with average rtt  that is less loaded than here
//!            5 stay
//! ```
//!
//! Candidates are the other nodes that are listed, ready, and have fresh figures: load, and for containers an RTT from
//! every user; the worst-off user counts. Ties go to the lower RTT, then the lower load, then the name (where load
//! comes first: load, RTT, name).
//!
//! **A missing figure is never a reason to move.** When the RTT to the serving node is unknown, the workload stays,
//! since a lost measurement is not a bad link; only a load that is known to be bad makes it leave. Nor does it move
//! away from a node that the snapshot does not list: nothing is known about it, not even that it could send anything.

mod search;

use std::collections::BTreeMap;

use godwit_model::{Decision, Load, Snapshot, WorkloadKind, WorkloadState};

use crate::view::{View, Worst};
use crate::{ConfigError, LoadBand, Policy, RttBand, ThresholdConfig, move_to, stay};
use search::Candidate;

/// See the module's table.
#[derive(Debug, Clone, Default)]
pub struct Threshold {
    config: ThresholdConfig,
}

impl Threshold {
    /// With these bands.
    pub fn new(config: ThresholdConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config })
    }

    /// Its bands.
    pub fn config(&self) -> &ThresholdConfig {
        &self.config
    }
}

impl Policy for Threshold {
    fn name(&self) -> &str {
        "threshold"
    }

    fn parameters(&self) -> BTreeMap<String, f64> {
        let ThresholdConfig { rtt_good_below_ms, rtt_average_below_ms, load_healthy_below, load_average_below } =
            self.config;
        [
            ("rtt_good_below_ms", rtt_good_below_ms),
            ("rtt_average_below_ms", rtt_average_below_ms),
            ("load_healthy_below", load_healthy_below),
            ("load_average_below", load_average_below),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn decide(&self, snapshot: &Snapshot) -> Vec<Decision> {
        let view = View::new(snapshot);
        let decide = |workload| Case::new(&self.config, &view, workload).decide();
        snapshot.workloads.iter().map(decide).collect()
    }
}

/// One workload in one snapshot.
struct Case<'a> {
    config: &'a ThresholdConfig,
    view: &'a View<'a>,
    workload: &'a WorkloadState,
    /// To the serving node.
    rtt: Option<Worst<'a>>,
    /// Of the serving node.
    load: Option<Load>,
}

impl<'a> Case<'a> {
    fn new(config: &'a ThresholdConfig, view: &'a View<'a>, workload: &'a WorkloadState) -> Self {
        let rtt = view.worst_rtt(workload, &workload.node);
        let load = view.node(&workload.node).and_then(|node| node.load);
        Self { config, view, workload, rtt, load }
    }

    fn decide(&self) -> Decision {
        let node = &self.workload.node;
        if self.view.node(node).is_none() {
            let reason = format!("it runs on {node}, which is none of the nodes listed: nothing is known about it");
            return stay(self.workload, "stay-node-unknown", reason);
        }
        if self.needs_rtt() { self.by_rtt_and_load() } else { self.by_load() }
    }

    fn by_rtt_and_load(&self) -> Decision {
        let rtt_band = self.rtt.map(|worst| self.config.rtt_band(worst.rtt));
        let load_band = self.load.map(|load| self.config.load_band(load));
        let (rtt, load) = (self.rtt_here(), self.load_here());
        match (rtt_band, load_band) {
            (Some(RttBand::Bad), _) => self.search("rtt-bad", &rtt),
            (_, Some(LoadBand::Bad)) => self.search("load-bad", &format!("{load}, {rtt}")),
            (None, _) => stay(self.workload, "stay-rtt-unknown", format!("{rtt}, which is no reason to move; {load}")),
            (Some(_), None) => {
                stay(self.workload, "stay-load-unknown", format!("{rtt}; {load}, which is no reason to move"))
            }
            (Some(RttBand::Good), _) => stay(self.workload, "stay-rtt-good", format!("{rtt}, {load}")),
            (Some(RttBand::Average), _) => stay(self.workload, "stay-rtt-average", format!("{rtt}, {load}")),
        }
    }

    fn search(&self, cause: &str, why: &str) -> Decision {
        let candidates = self.candidates();
        match search::near_and_unloaded(self.config, &candidates, self.load) {
            Some((step, found)) => self.go(found, &format!("{cause}-{}", step.rule()), why, &step.explain(self, found)),
            None => {
                let reason = format!("{why}, but no other node is better: {}", self.why_not());
                stay(self.workload, &format!("{cause}-nowhere-better"), reason)
            }
        }
    }

    fn by_load(&self) -> Decision {
        let why = self.load_here();
        let by_load = match self.workload.kind {
            WorkloadKind::Vm => "a vm is placed by load alone",
            WorkloadKind::Container => "it serves nobody and is placed by load alone",
        };
        let Some(load) = self.load else {
            let reason = format!("{why}, which is no reason to move ({by_load})");
            return stay(self.workload, "stay-load-unknown", reason);
        };
        match self.config.load_band(load) {
            LoadBand::Healthy => stay(self.workload, "stay-load-healthy", format!("{why} ({by_load})")),
            LoadBand::Average => stay(self.workload, "stay-load-average", format!("{why} ({by_load})")),
            LoadBand::Bad => match search::least_loaded(&self.candidates(), load) {
                Some(found) => {
                    let band = self.config.load_band(found.load);
                    let rule = match band {
                        LoadBand::Healthy => "load-bad-to-healthy",
                        LoadBand::Average => "load-bad-to-average",
                        LoadBand::Bad => "load-bad-to-less-loaded",
                    };
                    let there = format!("{} is the least loaded, with {band} load ({})", found.name, found.load);
                    self.go(found, rule, &why, &format!("{there}; {by_load}"))
                }
                None => {
                    let reason = format!("{why}, but no other node is less loaded: {} ({by_load})", self.why_not());
                    stay(self.workload, "load-bad-nowhere-better", reason)
                }
            },
        }
    }

    /// A move, with a word on every band that gets worse by it.
    fn go(&self, found: &Candidate<'_>, rule: &str, why: &str, there: &str) -> Decision {
        let mut reason = format!("{why}: {there}");
        if let (Some(here), Some(rtt)) = (self.rtt, found.rtt) {
            let (here, there) = (self.config.rtt_band(here.rtt), self.config.rtt_band(rtt));
            if there > here {
                reason += &format!("; its rtt is in a worse band ({there} with {rtt}, here {here})");
            }
        }
        if let Some(load) = self.load {
            let (here, there) = (self.config.load_band(load), self.config.load_band(found.load));
            if there > here {
                reason += &format!("; its load is in a worse band ({there} with {}, here {here})", found.load);
            }
        }
        move_to(self.workload, found.name, rule, reason)
    }

    /// `rtt to edge1 is 27.2 ms (bad from 26 ms)`.
    fn rtt_here(&self) -> String {
        let node = &self.workload.node;
        match self.rtt {
            Some(worst) if self.workload.users.len() == 1 => {
                format!("rtt to {node} is {}", self.config.explain_rtt(worst.rtt))
            }
            Some(Worst { rtt, user }) => {
                let users = self.workload.users.len();
                let rtt = self.config.explain_rtt(rtt);
                format!("rtt to {node} for {user}, the worst-off of {users} users, is {rtt}")
            }
            None => match self.view.without_rtt(self.workload, node) {
                Some(user) => format!("there is no fresh rtt to {node} for {user}"),
                None => format!("there is no rtt to {node}, as it serves nobody"),
            },
        }
    }

    /// `load of edge1 is 9.10 (bad from 8)`.
    fn load_here(&self) -> String {
        let node = &self.workload.node;
        match self.load {
            Some(load) => format!("load of {node} is {}", self.config.explain_load(load)),
            None => format!("there is no fresh load of {node}"),
        }
    }
}
