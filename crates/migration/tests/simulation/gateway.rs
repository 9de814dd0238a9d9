//! Who gets the client's packets.

use std::collections::BTreeSet;

use godwit_migration::Side;

use crate::calls::{Call, Step};
use crate::node::Done;

#[derive(Debug, Default)]
pub(crate) struct Gateway {
    pub(crate) route: usize,
    /// Packets are kept, for this migration.
    pub(crate) held_by: Option<u64>,
    /// How many.
    pub(crate) kept: u64,
    /// Nothing comes out of this node's copy: for this migration.
    pub(crate) fence: Option<(u64, usize)>,
    pub(crate) newest: u64,
    pub(crate) over: BTreeSet<u64>,
    pub(crate) down_until: u64,
    /// Mutant: nothing of what is over is remembered.
    pub(crate) forgetful: bool,
}

impl Gateway {
    fn not_over(&self, call: &Call) -> Done {
        let old = call.id < self.newest || self.over.contains(&call.id);
        if old && !self.forgetful { Err("it is over") } else { Ok(()) }
    }

    /// Carries a step out; returns how many packets are to be replayed.
    pub(crate) fn step(&mut self, call: &Call) -> Result<u64, &'static str> {
        let id = call.id;
        match call.step {
            Step::StageTraffic => {
                self.not_over(call)?;
                self.newest = id;
            }
            Step::Hold => {
                self.not_over(call)?;
                self.held_by = Some(id);
            }
            Step::Fence => {
                self.not_over(call)?;
                if self.held_by != Some(id) {
                    return Err("nothing is held");
                }
                self.fence = Some((id, call.from));
            }
            Step::Release(side) => {
                // An end step that has been carried out, or that is of an older migration, is done.
                if self.not_over(call).is_err() {
                    return Ok(0);
                }
                self.newest = id;
                self.over.insert(id);
                self.held_by = None;
                self.route = call.to;
                if side == Side::Source {
                    self.route = call.from;
                    self.fence = None;
                }
                return Ok(std::mem::take(&mut self.kept));
            }
            Step::DrainTraffic => self.fence = self.fence.filter(|(by, _)| *by != id),
            _ => {}
        }
        Ok(0)
    }
}
