//! What goes wrong in a seed, and how often.

use crate::dice::Dice;

/// Chances in a thousand, a call or a tick.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// The controller dies, before a call or after it.
    pub(crate) controller_dies: u64,
    /// A node's agent dies, at any tick or in the middle of a step.
    pub(crate) agent_dies: u64,
    /// The gateway's agent dies.
    pub(crate) gateway_dies: u64,
    /// A link between the controller and a party is cut for a while.
    pub(crate) cut: u64,
    /// A link between two nodes is cut for a while.
    pub(crate) backhaul_cut: u64,
    /// A call is lost.
    pub(crate) lost: u64,
    /// A call arrives late, after its caller has given it up.
    pub(crate) late: u64,
    /// A call arrives, and arrives again later.
    pub(crate) doubled: u64,
    /// A step is done, and its answer lost.
    pub(crate) unheard: u64,
    /// A step fails for certain.
    pub(crate) fails: u64,
    /// A kind of step fails for certain for a while.
    pub(crate) jammed: u64,
    /// A record of the journal fails: in half of the cases it is there all the same.
    pub(crate) unrecorded: u64,
    /// The user cancels.
    pub(crate) cancelled: u64,
    /// Nothing happens before a migration is close to its commit: else few would get there.
    pub(crate) late_only: bool,
}

impl Faults {
    /// Every seed has faults of its own, so that they come alone and together, rare and dense.
    pub(crate) fn of(dice: &mut Dice) -> Self {
        let late_only = dice.permille(500);
        let mut chance = || dice.one_of(&[0, 0, 5, 20, 60, 200]);
        Self {
            controller_dies: chance() / 2,
            agent_dies: chance() / 4,
            gateway_dies: chance() / 8,
            cut: chance() / 8,
            backhaul_cut: chance() / 8,
            lost: chance(),
            late: chance(),
            doubled: chance(),
            unheard: chance(),
            fails: chance() / 2,
            jammed: chance() / 8,
            unrecorded: chance(),
            cancelled: chance() / 8,
            late_only,
        }
    }
}
