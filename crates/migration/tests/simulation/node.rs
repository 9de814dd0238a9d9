//! A node and its agent: copies of the workload that outlive the agent, what the agent has on its disk, what it has in memory.

use std::collections::BTreeSet;

use crate::calls::{Call, Step};

/// How a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyState {
    Running,
    /// By this migration; dumped or not.
    Frozen {
        by: u64,
        dumped: bool,
    },
    /// By this migration; has never run.
    Restored {
        by: u64,
    },
}

/// A copy of the workload. Its state is how many requests it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) state: CopyState,
    pub(crate) answered: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) copies: Vec<Replica>,
    // On its disk.
    pub(crate) newest: u64,
    pub(crate) source_over: BTreeSet<u64>,
    pub(crate) target_over: BTreeSet<u64>,
    pub(crate) resumed: BTreeSet<u64>,
    // In its agent's memory.
    pub(crate) staged_source: Option<u64>,
    pub(crate) staged_target: Option<u64>,
    pub(crate) received: Option<(u64, u64)>,
    /// The agent is down until then.
    pub(crate) down_until: u64,
    /// Mutant: nothing of what is over is remembered.
    pub(crate) forgetful: bool,
}

/// Refused or failed, for certain.
pub(crate) type Done = Result<(), &'static str>;

impl Node {
    pub(crate) fn position(&self, state: impl Fn(CopyState) -> bool) -> Option<usize> {
        self.copies.iter().position(|copy| state(copy.state))
    }

    pub(crate) fn running(&mut self) -> Option<&mut Replica> {
        self.copies.iter_mut().find(|copy| copy.state == CopyState::Running)
    }

    pub(crate) fn frozen(&self, id: u64) -> Option<usize> {
        self.position(|state| matches!(state, CopyState::Frozen { by, .. } if by == id))
    }

    pub(crate) fn restored(&self, id: u64) -> Option<usize> {
        self.position(|state| state == CopyState::Restored { by: id })
    }

    /// Its agent dies; CRIU's hold of a restored copy may die with it.
    pub(crate) fn agent_dies(&mut self, back_at: u64, takes_restored: bool) {
        self.down_until = back_at;
        (self.staged_source, self.staged_target, self.received) = (None, None, None);
        if takes_restored {
            self.copies.retain(|copy| !matches!(copy.state, CopyState::Restored { .. }));
        }
    }

    fn not_over(&self, call: &Call, over: &BTreeSet<u64>) -> Done {
        if self.forgetful {
            return Ok(());
        }
        if call.id < self.newest {
            return Err("it is older than another migration");
        }
        if over.contains(&call.id) { Err("it is over") } else { Ok(()) }
    }

    /// A step of the source. What it does to the world beyond the node, and whether it may, is the world's concern.
    pub(crate) fn source_step(&mut self, call: &Call) -> Done {
        let id = call.id;
        match call.step {
            Step::CheckSource => self.running().map(drop).ok_or("no such workload"),
            Step::StageSource => {
                self.not_over(call, &self.source_over)?;
                self.newest = id;
                self.running().ok_or("no such workload")?;
                self.staged_source = Some(id);
                Ok(())
            }
            Step::PreCopy => self.staged_for_source(call),
            Step::Freeze => {
                self.staged_for_source(call)?;
                self.running().ok_or("it does not run")?.state = CopyState::Frozen { by: id, dumped: false };
                Ok(())
            }
            Step::Dump => {
                self.staged_for_source(call)?;
                let frozen = self.frozen(id).ok_or("it is not frozen")?;
                self.copies[frozen].state = CopyState::Frozen { by: id, dumped: true };
                Ok(())
            }
            Step::Thaw => {
                self.source_over.insert(id);
                self.staged_source = self.staged_source.filter(|staged| *staged != id);
                if let Some(frozen) = self.frozen(id) {
                    self.copies[frozen].state = CopyState::Running;
                }
                Ok(())
            }
            Step::Discard => {
                self.source_over.insert(id);
                self.copies.retain(|copy| !matches!(copy.state, CopyState::Frozen { by, .. } if by == id));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn staged_for_source(&self, call: &Call) -> Done {
        self.not_over(call, &self.source_over)?;
        if self.staged_source == Some(call.id) { Ok(()) } else { Err("the source is not prepared") }
    }

    /// The state that a dumped copy has to give.
    pub(crate) fn to_send(&self, call: &Call) -> Result<u64, &'static str> {
        self.staged_for_source(call)?;
        let dumped = self.position(|state| state == CopyState::Frozen { by: call.id, dumped: true });
        dumped.map(|copy| self.copies[copy].answered).ok_or("there is no dump")
    }

    /// A step of the target.
    pub(crate) fn target_step(&mut self, call: &Call) -> Done {
        let id = call.id;
        match call.step {
            Step::StageTarget => {
                self.not_over(call, &self.target_over)?;
                self.not_over(call, &self.resumed)?;
                self.newest = id;
                self.staged_target = Some(id);
                // What an older one has left and never ran.
                self.copies.retain(|copy| !matches!(copy.state, CopyState::Restored { by } if by < id));
                Ok(())
            }
            Step::Received => match self.received {
                Some((received, _)) if received == id => Ok(()),
                _ => Err("nothing was received"),
            },
            Step::Restore => {
                self.not_over(call, &self.target_over)?;
                self.not_over(call, &self.resumed)?;
                let Some((_, answered)) = self.received.take().filter(|(received, _)| *received == id) else {
                    return Err("nothing was received");
                };
                self.copies.push(Replica { state: CopyState::Restored { by: id }, answered });
                Ok(())
            }
            Step::Resume => {
                if self.resumed.contains(&id) {
                    return Ok(());
                }
                let Some(restored) = self.restored(id) else {
                    self.target_over.insert(id);
                    return Err("there is nothing to resume");
                };
                self.resumed.insert(id);
                self.copies[restored].state = CopyState::Running;
                Ok(())
            }
            Step::Settle => {
                if self.resumed.contains(&id) {
                    Ok(())
                } else {
                    Err("it does not run")
                }
            }
            Step::Abort => {
                self.target_over.insert(id);
                self.staged_target = self.staged_target.filter(|staged| *staged != id);
                self.received = self.received.filter(|(received, _)| *received != id);
                self.copies.retain(|copy| copy.state != CopyState::Restored { by: id });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The restore of a resumption that fails is gone for good.
    pub(crate) fn resumption_fails(&mut self, id: u64) {
        if !self.resumed.contains(&id) {
            self.copies.retain(|copy| copy.state != CopyState::Restored { by: id });
            self.target_over.insert(id);
        }
    }
}
