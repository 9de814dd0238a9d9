//! Three nodes, a gateway, a client and a journal's disk; what may never be is checked after every step.

use std::panic::resume_unwind;

use godwit_migration::{Cancel, State};

use crate::calls::{Call, Party, Step};
use crate::dice::Dice;
use crate::disk::Disk;
use crate::faults::Faults;
use crate::gateway::Gateway;
use crate::mutant::Mutant;
use crate::node::{CopyState, Done, Node, Replica};

pub(crate) const NODES: usize = 3;

/// The controller's thread ends here and now.
pub(crate) struct ControllerDies;

/// What became of a call, for its caller.
pub(crate) enum Answer {
    Done,
    Failed(&'static str),
    Silence,
}

/// How often what happened: a simulation in which something never happens does not check it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) done: u64,
    pub(crate) rolled_back: u64,
    pub(crate) open: u64,
    pub(crate) recovered_begun: u64,
    pub(crate) recovered_committed: u64,
    pub(crate) recovered_taken_back: u64,
    pub(crate) taken_back: u64,
    pub(crate) commit_in_doubt: u64,
    pub(crate) controller_deaths: u64,
    pub(crate) agent_deaths: u64,
    pub(crate) late_calls: u64,
    pub(crate) refused_second: u64,
    pub(crate) cancelled: u64,
    pub(crate) calls: u64,
}

pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) faults: Faults,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) now: u64,
    pub(crate) nodes: [Node; NODES],
    pub(crate) gateway: Gateway,
    pub(crate) disk: Disk,
    pub(crate) cancel: Cancel,
    pub(crate) counts: Counts,
    /// Lines, when asked for.
    pub(crate) trace: Option<Vec<String>>,
    /// The first thing that may never be.
    pub(crate) broken: Option<String>,
    /// What the client has seen.
    pub(crate) seen: u64,
    late: Vec<(u64, Call)>,
    cut_until: [u64; NODES + 1],
    backhaul_cut_until: u64,
    jammed: Option<(Step, u64)>,
    /// The migration under way has come as far as its target's restore.
    pub(crate) late_phase: bool,
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let faults = Faults::of(&mut dice);
        let mut nodes: [Node; NODES] = Default::default();
        nodes[0].copies.push(Replica { state: CopyState::Running, answered: 0 });
        let mut gateway = Gateway::default();
        let forgetful = mutant == Some(Mutant::Forgetful);
        nodes.iter_mut().for_each(|node| node.forgetful = forgetful);
        gateway.forgetful = forgetful;
        let mut world = Self {
            dice,
            faults,
            mutant,
            now: 0,
            nodes,
            gateway,
            disk: Disk::default(),
            cancel: Cancel::default(),
            counts: Counts::default(),
            trace: traced.then(Vec::new),
            broken: None,
            seen: 0,
            late: Vec::new(),
            cut_until: [0; NODES + 1],
            backhaul_cut_until: 0,
            jammed: None,
            late_phase: false,
        };
        world.note(|| format!("{faults:?}"));
        world
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:>5}  {}", line()));
        }
    }

    /// Whether a fault of this kind happens now.
    pub(crate) fn throws(&mut self, chance: fn(&Faults) -> u64) -> bool {
        let chance = if self.faults.late_only && !self.late_phase { 0 } else { chance(&self.faults) };
        self.dice.permille(chance)
    }

    fn broke(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(|| format!("BROKEN: {what}"));
        self.broken.get_or_insert(what);
    }

    /// No more faults; what is late still arrives.
    pub(crate) fn heal(&mut self) {
        self.faults = Faults::default();
        self.cut_until = [0; NODES + 1];
        (self.backhaul_cut_until, self.jammed) = (0, None);
        self.note(|| "no more faults".into());
    }

    /// Whether calls are still on their way.
    pub(crate) fn calm(&self) -> bool {
        self.late.is_empty() && self.is_up(Party::Gateway) && (0..NODES).all(|node| self.is_up(Party::Node(node)))
    }

    /// Ends the controller's thread, perhaps, and certainly when something broke.
    pub(crate) fn may_die(&mut self) -> bool {
        if self.broken.is_some() {
            return true;
        }
        let dies = self.throws(|f| f.controller_dies);
        if dies {
            self.counts.controller_deaths += 1;
            self.note(|| "the controller dies".into());
        }
        dies
    }

    /// Time goes on: the client asks, late calls arrive, agents die and come back, links break.
    pub(crate) fn tick(&mut self) {
        self.now += 1;
        self.client_asks();
        for index in (0..self.late.len()).rev() {
            if self.late[index].0 <= self.now {
                let (_, call) = self.late.swap_remove(index);
                if self.is_up(call.party()) {
                    self.counts.late_calls += 1;
                    let done = self.carry_out(&call);
                    self.note(|| format!("late: {call:?}: {done:?}"));
                }
            }
        }
        for node in 0..NODES {
            if self.throws(|f| f.agent_dies) {
                self.agent_dies(Party::Node(node));
            }
            if self.nodes[node].down_until == self.now && self.mutant == Some(Mutant::ThawsAlone) {
                for copy in &mut self.nodes[node].copies {
                    if matches!(copy.state, CopyState::Frozen { .. }) {
                        copy.state = CopyState::Running;
                    }
                }
            }
        }
        if self.throws(|f| f.gateway_dies) {
            self.agent_dies(Party::Gateway);
        }
        if self.throws(|f| f.cut) {
            let link = self.dice.below(NODES as u64 + 1) as usize;
            self.cut_until[link] = self.now + 1 + self.dice.below(60);
            self.note(|| format!("the link to party {link} is cut"));
        }
        if self.throws(|f| f.backhaul_cut) {
            self.backhaul_cut_until = self.now + 1 + self.dice.below(40);
        }
        if self.throws(|f| f.cancelled) {
            self.cancel.cancel();
        }
        self.check();
    }

    fn agent_dies(&mut self, party: Party) {
        self.counts.agent_deaths += 1;
        let back_at = self.now + 1 + self.dice.below(30);
        match party {
            Party::Node(node) => {
                let takes_restored = self.dice.permille(500);
                self.nodes[node].agent_dies(back_at, takes_restored);
            }
            // What it has kept is lost; that it keeps is a rule in the kernel.
            Party::Gateway => (self.gateway.down_until, self.gateway.kept) = (back_at, 0),
        }
        self.note(|| format!("the agent of {party:?} dies"));
    }

    fn is_up(&self, party: Party) -> bool {
        match party {
            Party::Node(node) => self.nodes[node].down_until <= self.now,
            Party::Gateway => self.gateway.down_until <= self.now,
        }
    }

    /// A call, on a network that loses, delays and doubles, to a party that may die over it.
    pub(crate) fn call(&mut self, call: Call) -> Answer {
        self.counts.calls += 1;
        let party = call.party();
        let link = match party {
            Party::Node(node) => node,
            Party::Gateway => NODES,
        };
        if !self.is_up(party) || self.cut_until[link] > self.now || self.throws(|f| f.lost) {
            self.note(|| format!("{call:?} is lost"));
            return Answer::Silence;
        }
        if self.throws(|f| f.late) {
            self.later(call);
            self.note(|| format!("{call:?} is given up, and late"));
            return Answer::Silence;
        }
        if self.throws(|f| f.doubled) {
            self.later(call);
        }
        if self.throws(|f| f.agent_dies) {
            // In the middle of the step: it has done it, or not.
            if self.dice.permille(500) {
                let done = self.carry_out(&call);
                self.note(|| format!("{call:?}: {done:?}, and"));
            }
            self.agent_dies(party);
            return Answer::Silence;
        }
        let done = self.carry_out(&call);
        self.check();
        if self.throws(|f| f.unheard) {
            self.note(|| format!("{call:?}: {done:?}, and the answer is lost"));
            return Answer::Silence;
        }
        self.note(|| format!("{call:?}: {done:?}"));
        match done {
            Ok(()) => Answer::Done,
            Err(why) => Answer::Failed(why),
        }
    }

    fn later(&mut self, call: Call) {
        let due = self.now + 1 + self.dice.below(80);
        self.late.push((due, call));
    }

    fn fails(&mut self, step: Step) -> bool {
        if self.throws(|f| f.jammed) {
            self.jammed = Some((step, self.now + 1 + self.dice.below(40)));
        }
        let jammed = self.jammed.is_some_and(|(jammed, until)| jammed == step && self.now < until);
        jammed || self.throws(|f| f.fails)
    }

    /// The step itself, with what it does beyond its node, and whether that may be.
    pub(crate) fn carry_out(&mut self, call: &Call) -> Done {
        let Call { id, from, to, step } = *call;
        self.late_phase |= step == Step::Restore;
        // By contract the resumption of what has been resumed does not fail for certain.
        if !(step == Step::Resume && self.nodes[to].resumed.contains(&id)) && self.fails(step) {
            if step == Step::Resume {
                self.nodes[to].resumption_fails(id);
            }
            return Err("it fails");
        }
        match step {
            Step::Freeze if self.gateway.held_by != Some(id) && self.nodes[from].staged_source == Some(id) => {
                let before = self.nodes[from].running().is_some();
                let done = self.nodes[from].source_step(call);
                if before && done.is_ok() {
                    self.broke("the source is frozen while packets flow to it");
                }
                done
            }
            Step::Send => {
                let answered = self.nodes[from].to_send(call)?;
                if !self.is_up(Party::Node(to)) || self.backhaul_cut_until > self.now {
                    return Err("the connection to the target broke");
                }
                if self.nodes[to].staged_target != Some(id) {
                    return Err("the target does not receive");
                }
                self.nodes[to].received = Some((id, answered));
                Ok(())
            }
            Step::Thaw => {
                if self.nodes[from].frozen(id).is_some() {
                    self.check_thaw(call);
                }
                self.nodes[from].source_step(call)
            }
            Step::Discard => {
                if self.nodes[from].frozen(id).is_some() && !self.nodes[to].resumed.contains(&id) {
                    self.broke("the source's copy is ended before the target ran");
                }
                self.nodes[from].source_step(call)
            }
            Step::Resume => {
                if self.nodes[to].restored(id).is_some() && !self.nodes[to].resumed.contains(&id) {
                    if self.disk.state(id) != Some(State::Committed) {
                        let state = self.disk.state(id);
                        self.broke(format!("the target is resumed, and the journal says {state:?}"));
                    }
                    if self.nodes[from].frozen(id).is_none() {
                        self.broke("the target is resumed while the source is not frozen for it");
                    }
                }
                self.nodes[to].target_step(call)
            }
            Step::Abort => {
                if self.nodes[to].resumed.contains(&id) {
                    self.broke("a target that ran is aborted");
                }
                self.nodes[to].target_step(call)
            }
            // (A late fence may catch a source that was thawed by a late call: packets are held then, and the release takes it away.)
            Step::StageTraffic | Step::Hold | Step::Fence | Step::DrainTraffic => self.gateway.step(call).map(drop),
            Step::Release(_) => {
                let replayed = self.gateway.step(call)?;
                (0..replayed).for_each(|_| self.packet());
                Ok(())
            }
            _ => match call.party() {
                Party::Node(node) if node == from && from != to && is_source(step) => {
                    self.nodes[node].source_step(call)
                }
                _ => self.nodes[to].target_step(call),
            },
        }
    }

    /// The source may run again only if nobody can resume the target any more.
    fn check_thaw(&mut self, call: &Call) {
        let target = &self.nodes[call.to];
        let over = target.target_over.contains(&call.id) || target.newest > call.id;
        if target.resumed.contains(&call.id) {
            self.broke("the source is thawed, and the target has run");
        } else if self.disk.state(call.id) == Some(State::Committed) && !over {
            self.broke("the source is thawed while a recovery would resume the target");
        }
    }

    fn client_asks(&mut self) {
        if self.gateway.held_by.is_some() {
            self.gateway.kept += 1;
        } else {
            self.packet();
        }
    }

    /// A packet gets through.
    fn packet(&mut self) {
        let node = self.gateway.route;
        if self.gateway.fence.is_some_and(|(_, fenced)| fenced == node) {
            return self.broke("a packet gets to a fenced copy");
        }
        let Some(copy) = self.nodes[node].running() else {
            let found = &self.nodes[node].copies;
            let what = format!("a packet gets to node {node}, where nothing runs: {found:?}");
            return self.broke(what);
        };
        copy.answered += 1;
        let answered = copy.answered;
        self.seen += 1;
        if answered != self.seen {
            let seen = self.seen;
            self.broke(format!("the client's answer {seen} comes from a copy that has given {answered}"));
        }
    }

    fn check(&mut self) {
        let running: Vec<usize> = (0..NODES)
            .flat_map(|node| {
                self.nodes[node].copies.iter().filter(|c| c.state == CopyState::Running).map(move |_| node)
            })
            .collect();
        if running.len() > 1 {
            return self.broke(format!("copies run on {running:?}"));
        }
        let Some(node) = running.first() else { return };
        for other in (0..NODES).filter(|other| other != node) {
            let dumped = |state| matches!(state, CopyState::Frozen { dumped: true, .. });
            let frozen = self.nodes[other].position(dumped).is_some();
            if frozen && self.gateway.fence.is_none_or(|(_, fenced)| fenced != other) {
                return self.broke(format!("what runs on {node} is spoken over by the frozen copy on {other}"));
            }
        }
    }

    /// When all is over: exactly one copy, where the journal says, with its packets, and nothing left of anything.
    pub(crate) fn check_end(&mut self, expected: usize) {
        let copies: Vec<(usize, CopyState)> =
            (0..NODES).flat_map(|node| self.nodes[node].copies.iter().map(move |copy| (node, copy.state))).collect();
        let restored = |state| matches!(state, CopyState::Restored { .. });
        let left: Vec<_> = copies.iter().filter(|(_, state)| !restored(*state)).collect();
        if left.len() != 1 || *left[0] != (expected, CopyState::Running) {
            return self.broke(format!("it should run on {expected}; there are {copies:?}"));
        }
        let gateway = &self.gateway;
        if gateway.held_by.is_some() || gateway.fence.is_some() || gateway.route != expected {
            let left = format!("it runs on {expected}, and the gateway is left as {gateway:?}");
            return self.broke(left);
        }
        let open = self.disk.open();
        if !open.is_empty() {
            self.broke(format!("open for ever: {open:?}"));
        }
    }
}

fn is_source(step: Step) -> bool {
    use Step as S;
    matches!(
        step,
        S::CheckSource
            | S::StageSource
            | S::PreCopy
            | S::Freeze
            | S::Dump
            | S::Send
            | S::Discard
            | S::DrainSource
            | S::Thaw
    )
}

/// Unwinds the controller's thread of control, without a word.
pub(crate) fn die() -> ! {
    resume_unwind(Box::new(ControllerDies))
}
