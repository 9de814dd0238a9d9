//! The engine's traits, as calls into the simulated world.

use std::cell::RefCell;
use std::rc::Rc;

use godwit_migration::{Entry, Journal, JournalError, PartError, Request, Side, Source, State, Target, Told, Traffic};
use godwit_model::{Bytes, CopyRound};

use crate::calls::{Call, Step};
use crate::mutant::Mutant;
use crate::world::{Answer, World, die};

/// Speaks for one migration.
#[derive(Clone)]
pub(crate) struct Caller {
    world: Rc<RefCell<World>>,
    id: u64,
    from: usize,
    to: usize,
}

pub(crate) fn node_number(name: &godwit_model::NodeName) -> usize {
    name.as_str().trim_start_matches("edge").parse().expect("nodes are edge0, edge1 …")
}

impl Caller {
    pub(crate) fn new(world: &Rc<RefCell<World>>, request: &Request) -> Self {
        let (from, to) = (node_number(&request.from), node_number(&request.to));
        Self { world: Rc::clone(world), id: request.id.0, from, to }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.world.borrow().mutant == Some(mutant)
    }

    /// Time goes on, and the controller may die.
    fn moment(&self) {
        let mut world = self.world.borrow_mut();
        world.tick();
        if world.may_die() {
            drop(world);
            die();
        }
    }

    fn call(&self, step: Step) -> Result<(), PartError> {
        self.moment();
        let mut world = self.world.borrow_mut();
        let answer = world.call(Call { id: self.id, from: self.from, to: self.to, step });
        if world.may_die() {
            drop(world);
            die();
        }
        match answer {
            Answer::Done => Ok(()),
            Answer::Failed(why) => Err(PartError::new(why)),
            Answer::Silence => Err(PartError::unreachable("no answer")),
        }
    }
}

impl Source for Caller {
    fn preflight(&mut self) -> Result<(), PartError> {
        self.call(Step::CheckSource)
    }
    fn stage(&mut self) -> Result<(), PartError> {
        self.call(Step::StageSource)
    }
    fn precopy(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<(), PartError> {
        for bytes in [64, 8, 1] {
            self.moment();
            if !told(Told::Round(CopyRound { bytes: Bytes(bytes), ms: 1.0 })) {
                break;
            }
        }
        self.call(Step::PreCopy)
    }
    fn freeze(&mut self) -> Result<(), PartError> {
        self.call(Step::Freeze)
    }
    fn dump(&mut self) -> Result<Option<CopyRound>, PartError> {
        self.call(Step::Dump).map(|()| None)
    }
    fn send(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<Bytes, PartError> {
        self.moment();
        if !told(Told::Sent { bytes: Bytes(1), expected: Bytes(2) }) {
            return Err(PartError::new("cancelled"));
        }
        self.call(Step::Send)?;
        if self.is(Mutant::DiscardsEarly) {
            let _ = self.call(Step::Discard);
        }
        Ok(Bytes(2))
    }
    fn discard(&mut self) -> Result<(), PartError> {
        self.call(Step::Discard)
    }
    fn drain(&mut self) -> Result<(), PartError> {
        self.call(Step::DrainSource)
    }
    fn thaw(&mut self) -> Result<(), PartError> {
        self.call(Step::Thaw)
    }
}

impl Target for Caller {
    fn preflight(&mut self) -> Result<(), PartError> {
        self.call(Step::CheckTarget)
    }
    fn stage(&mut self) -> Result<(), PartError> {
        self.call(Step::StageTarget)
    }
    fn received(&mut self) -> Result<(), PartError> {
        self.call(Step::Received)
    }
    fn restore(&mut self) -> Result<(), PartError> {
        self.call(Step::Restore)?;
        if self.is(Mutant::RunsUncommitted) {
            let _ = self.call(Step::Resume);
        }
        Ok(())
    }
    fn resume(&mut self) -> Result<(), PartError> {
        match self.call(Step::Resume) {
            Err(error) if error.is_unreachable() && self.is(Mutant::SilenceIsFailure) => {
                Err(PartError::new("no answer, so it has failed"))
            }
            done => done,
        }
    }
    fn settle(&mut self) -> Result<(), PartError> {
        self.call(Step::Settle)
    }
    fn abort(&mut self) -> Result<(), PartError> {
        match self.call(Step::Abort) {
            Err(error) if error.is_unreachable() && self.is(Mutant::SilenceIsAborted) => Ok(()),
            done => done,
        }
    }
}

impl Traffic for Caller {
    fn stage(&mut self) -> Result<(), PartError> {
        self.call(Step::StageTraffic)
    }
    fn hold(&mut self) -> Result<(), PartError> {
        if self.is(Mutant::NeverHolds) { Ok(()) } else { self.call(Step::Hold) }
    }
    fn fence(&mut self) -> Result<(), PartError> {
        if self.is(Mutant::NeverFences) { Ok(()) } else { self.call(Step::Fence) }
    }
    fn release(&mut self, to: Side) -> Result<(), PartError> {
        if self.is(Mutant::NeverReleases) { Ok(()) } else { self.call(Step::Release(to)) }
    }
    fn drain(&mut self) -> Result<(), PartError> {
        self.call(Step::DrainTraffic)
    }
}

impl Journal for Caller {
    fn record(&mut self, entry: &Entry) -> Result<(), JournalError> {
        self.moment();
        let mut world = self.world.borrow_mut();
        let refused = world.disk.refuses(entry);
        let again =
            matches!(refused, Some(JournalError::AlreadyOpen { .. })) && world.mutant == Some(Mutant::BeginsTwice);
        if let (Some(refused), false) = (refused, again) {
            return Err(refused);
        }
        let forgotten = match entry.state {
            State::Committed => world.mutant == Some(Mutant::CommitForgotten),
            State::TakenBack => world.mutant == Some(Mutant::TakesBackSilently),
            _ => false,
        };
        let state = entry.state;
        world.late_phase &= state != State::Begun;
        let fails = world.throws(|f| f.unrecorded);
        // What fails is there all the same, or is not.
        if !forgotten && (!fails || world.dice.permille(500)) {
            world.disk.write(entry);
        }
        world.note(|| format!("recorded: {state:?}{}", if fails { ", perhaps" } else { "" }));
        if fails && state == State::Committed {
            world.counts.commit_in_doubt += 1;
        }
        if state == State::TakenBack {
            world.counts.taken_back += 1;
        }
        if world.may_die() {
            drop(world);
            die();
        }
        if fails && state == State::Committed && world.mutant == Some(Mutant::DoubtIsNo) {
            let id = entry.request.id;
            return Err(JournalError::OutOfOrder { id, found: "nothing".into(), next: state });
        }
        if fails { Err(JournalError::Elsewhere("the disk fails".into())) } else { Ok(()) }
    }
}
