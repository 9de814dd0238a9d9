//! Where to, once it is clear that a workload had better leave.

use godwit_model::{Load, NodeName, Rtt, WorkloadKind};

use super::Case;
use crate::{LoadBand, RttBand, ThresholdConfig};

/// A node that a workload could move to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'a NodeName,
    /// To the worst-off user; only workloads that are placed by load alone have candidates without.
    pub(super) rtt: Option<Rtt>,
    pub(super) load: Load,
}

impl Candidate<'_> {
    fn rtt_ms(&self) -> f64 {
        self.rtt.map_or(f64::INFINITY, Rtt::ms)
    }
}

/// Which step of the search found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Nearest(RttBand),
    LeastLoaded(RttBand),
}

impl Step {
    /// The second half of the rule's name.
    pub(super) fn rule(self) -> String {
        match self {
            Self::Nearest(band) => format!("nearest-{band}"),
            Self::LeastLoaded(band) => format!("least-loaded-{band}"),
        }
    }

    /// `edge2 is the nearest with good rtt (5.1 ms) and healthy load (1.40)`.
    pub(super) fn explain(self, case: &Case<'_>, found: &Candidate<'_>) -> String {
        let Candidate { name, load, .. } = found;
        let rtt = found.rtt.map_or_else(|| "unknown".into(), |rtt| rtt.to_string());
        let load_band = case.config.load_band(*load);
        match self {
            Self::Nearest(band) => {
                format!("{name} is the nearest with {band} rtt ({rtt}) and {load_band} load ({load})")
            }
            Self::LeastLoaded(band) => {
                format!("{name} is the least loaded ({load}, {load_band}) of those with {band} rtt ({rtt})")
            }
        }
    }
}

/// What a search found.
pub(super) type Found<'c, 'a> = Option<(Step, &'c Candidate<'a>)>;

/// Steps 1 to 4 of the search for containers.
pub(super) fn near_and_unloaded<'c, 'a>(
    config: &ThresholdConfig,
    candidates: &'c [Candidate<'a>],
    here: Option<Load>,
) -> Found<'c, 'a> {
    let within = |band| candidates.iter().filter(move |c| c.rtt.is_some_and(|rtt| config.rtt_band(rtt) == band));
    let bands = [RttBand::Good, RttBand::Average];
    let nearest = bands.into_iter().find_map(|band| {
        let bearable = within(band).filter(|c| config.load_band(c.load) < LoadBand::Bad);
        // Candidates come by name and the first of equals wins: the last tie-break.
        let nearest =
            bearable.min_by(|a, b| a.rtt_ms().total_cmp(&b.rtt_ms()).then(a.load.index().total_cmp(&b.load.index())));
        nearest.map(|found| (Step::Nearest(band), found))
    });
    nearest.or_else(|| {
        let here = here?;
        bands.into_iter().find_map(|band| {
            let found = by_load(within(band).filter(|c| c.load < here))?;
            Some((Step::LeastLoaded(band), found))
        })
    })
}

/// The least loaded of the candidates that are less loaded than here. As the load here is bad, that is the least
/// loaded healthy one, else the least loaded average one, else the least loaded of the bad ones.
pub(super) fn least_loaded<'c, 'a>(candidates: &'c [Candidate<'a>], here: Load) -> Option<&'c Candidate<'a>> {
    by_load(candidates.iter().filter(|c| c.load < here))
}

fn by_load<'c, 'a: 'c>(candidates: impl Iterator<Item = &'c Candidate<'a>>) -> Option<&'c Candidate<'a>> {
    candidates.min_by(|a, b| a.load.index().total_cmp(&b.load.index()).then(a.rtt_ms().total_cmp(&b.rtt_ms())))
}

impl<'a> Case<'a> {
    /// The other nodes that are ready and have the figures that are needed, by name.
    pub(super) fn candidates(&self) -> Vec<Candidate<'a>> {
        let needs_rtt = self.needs_rtt();
        self.view
            .others(&self.workload.node)
            .filter(|(_, node)| node.ready)
            .filter_map(|(name, node)| {
                let rtt = self.view.worst_rtt(self.workload, name).map(|worst| worst.rtt);
                if needs_rtt && rtt.is_none() {
                    return None;
                }
                Some(Candidate { name, rtt, load: node.load? })
            })
            .collect()
    }

    /// Why the other nodes will not do: the first few of them.
    pub(super) fn why_not(&self) -> String {
        const SHOWN: usize = 3;
        let others: Vec<_> = self.view.others(&self.workload.node).collect();
        if others.is_empty() {
            return "there is none".into();
        }
        let mut reasons: Vec<String> = others
            .iter()
            .take(SHOWN)
            .map(|(name, node)| {
                let rtt = self.view.worst_rtt(self.workload, name).map(|worst| worst.rtt);
                match (node.load, rtt) {
                    _ if !node.ready => format!("{name} is not ready"),
                    (_, None) if self.needs_rtt() => format!("{name} has no fresh rtt"),
                    (None, _) => format!("{name} has no fresh load"),
                    (_, Some(rtt)) if self.needs_rtt() && self.config.rtt_band(rtt) == RttBand::Bad => {
                        format!("{name} has bad rtt ({rtt})")
                    }
                    (Some(load), _) => format!("{name} has bad load ({load})"),
                }
            })
            .collect();
        if others.len() > SHOWN {
            reasons.push(format!("and {} more", others.len() - SHOWN));
        }
        reasons.join(", ")
    }

    /// A container with users needs their RTT; a VM, and what serves nobody, is placed by load alone.
    pub(super) fn needs_rtt(&self) -> bool {
        self.workload.kind == WorkloadKind::Container && !self.workload.users.is_empty()
    }
}
