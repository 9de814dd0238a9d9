//! A controller that lives and dies, and is started again: it recovers what is open, then moves the workload about.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use godwit_migration::{Cancel, Ended, Entry, Parts, Request, Retries, State, migrate, recover};
use godwit_model::{MigrationId, NodeName, Outcome, Strategy, WorkloadName};

use crate::mutant::Mutant;
use crate::parties::{Caller, node_number};
use crate::world::{ControllerDies, Counts, NODES, World};

const RETRIES: Retries = Retries { failing: 3, unreachable: 5, pause: Duration::ZERO, longest_pause: Duration::ZERO };
/// How many lives a seed has with faults, and how many recoveries at most must do without.
const LIVES: u64 = 12;
const RECOVERIES: u64 = 6;

/// How a seed went.
pub(crate) struct Report {
    pub(crate) broken: Option<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) counts: Counts,
}

pub(crate) fn simulate(seed: u64, mutant: Option<Mutant>, traced: bool) -> Report {
    let world = Rc::new(RefCell::new(World::new(seed, mutant, traced)));
    let lives = 1 + world.borrow_mut().dice.below(LIVES);
    for _ in 0..lives {
        let moves = 1 + world.borrow_mut().dice.below(3);
        live(&world, |this| {
            this.recover_all();
            (0..moves).for_each(|_| this.move_about());
        });
        wait(&world, 40);
        if world.borrow().broken.is_some() {
            break;
        }
    }
    world.borrow_mut().heal();
    // What is late arrives, who is down comes back.
    for _ in 0..1000 {
        if world.borrow().calm() {
            break;
        }
        world.borrow_mut().tick();
    }
    for _ in 0..RECOVERIES {
        live(&world, Controller::recover_all);
    }
    let end = placement(&world);
    let mut borrowed = world.borrow_mut();
    if borrowed.broken.is_none() {
        borrowed.check_end(end);
    }
    drop(borrowed);
    // Nothing is in the way of further migrations.
    for _ in 0..NODES {
        live(&world, |this| {
            if let Some(ended) = this.begin()
                && (ended.outcome, ended.open) != (Outcome::Done, false)
            {
                let what = format!("without a fault a migration ended as {ended:?}");
                this.world.borrow_mut().broken.get_or_insert(what);
            }
        });
    }
    let end = placement(&world);
    let mut world = world.borrow_mut();
    if world.broken.is_none() {
        world.check_end(end);
    }
    Report { broken: world.broken.take(), trace: world.trace.take().unwrap_or_default(), counts: world.counts }
}

fn wait(world: &Rc<RefCell<World>>, longest: u64) {
    let ticks = world.borrow_mut().dice.below(longest);
    (0..ticks).for_each(|_| world.borrow_mut().tick());
}

/// A controller's life, to its end or its death.
fn live(world: &Rc<RefCell<World>>, life: impl FnOnce(&Controller)) {
    let controller = Controller { world: Rc::clone(world) };
    if let Err(end) = catch_unwind(AssertUnwindSafe(|| life(&controller)))
        && !end.is::<ControllerDies>()
    {
        resume_unwind(end);
    }
}

/// Where the journal has the workload.
fn placement(world: &Rc<RefCell<World>>) -> usize {
    let world = world.borrow();
    let last = world.disk.rows.values().next_back();
    last.map_or(0, |entry| {
        let node = if entry.state == State::Ended(Outcome::Done) { &entry.request.to } else { &entry.request.from };
        node_number(node)
    })
}

struct Controller {
    world: Rc<RefCell<World>>,
}

impl Controller {
    fn recover_all(&self) {
        if self.world.borrow().mutant == Some(Mutant::NeverRecovers) {
            return;
        }
        let open = self.world.borrow().disk.open();
        for entry in open {
            self.recover(entry);
        }
    }

    fn recover(&self, mut entry: Entry) {
        let mut world = self.world.borrow_mut();
        world.note(|| format!("recovers {:?}", entry));
        match entry.state {
            State::Begun => world.counts.recovered_begun += 1,
            State::Committed => world.counts.recovered_committed += 1,
            State::TakenBack => world.counts.recovered_taken_back += 1,
            State::Ended(_) => {}
        }
        match world.mutant {
            Some(Mutant::RecoversBackOnly) => entry.state = State::Begun,
            Some(Mutant::RecoversForwardOnly) => entry.state = State::Committed,
            _ => {}
        }
        drop(world);
        let ended = self.with_parts(&entry.request, |parts| recover(&entry, parts, &mut |_| {}));
        self.count(&ended);
    }

    fn with_parts(&self, request: &Request, act: impl FnOnce(&mut Parts<'_>) -> Ended) -> Ended {
        let caller = Caller::new(&self.world, request);
        let (mut source, mut target, mut traffic, mut journal) =
            (caller.clone(), caller.clone(), caller.clone(), caller);
        act(&mut Parts {
            source: &mut source,
            target: &mut target,
            traffic: &mut traffic,
            journal: &mut journal,
            retries: RETRIES,
        })
    }

    fn count(&self, ended: &Ended) {
        let mut world = self.world.borrow_mut();
        world.note(|| format!("{:?}, open {}: {:?}", ended.outcome, ended.open, ended.error));
        let counts = &mut world.counts;
        match (ended.open, ended.outcome) {
            (true, _) => counts.open += 1,
            (false, Outcome::Done) => counts.done += 1,
            (false, _) => counts.rolled_back += 1,
        }
        if ended.error.as_ref().is_some_and(|error| error.ends_with("cancelled")) {
            counts.cancelled += 1;
        }
    }

    /// Begins a migration, whatever is open; what is left open is recovered, at times at once.
    fn move_about(&self) {
        let open = !self.world.borrow().disk.open().is_empty();
        let calls = self.world.borrow().counts.calls;
        let Some(ended) = self.begin() else { return };
        if open && self.world.borrow().mutant != Some(Mutant::BeginsTwice) {
            let mut world = self.world.borrow_mut();
            world.counts.refused_second += 1;
            if world.counts.calls != calls || ended.outcome != Outcome::RolledBack {
                world.broken.get_or_insert("a second migration of the workload touched something".into());
            }
        }
        if ended.open && self.world.borrow_mut().dice.permille(500) {
            self.recover_all();
        }
    }

    fn begin(&self) -> Option<Ended> {
        let mut world = self.world.borrow_mut();
        if world.broken.is_some() {
            return None;
        }
        let id = world.disk.rows.last_key_value().map_or(0, |(id, _)| *id) + 1;
        let step = 1 + world.dice.below(NODES as u64 - 1) as usize;
        let strategy = world.dice.one_of(&Strategy::ALL);
        world.cancel = Cancel::default();
        let cancel = world.cancel.clone();
        drop(world);
        let from = placement(&self.world);
        let node = |number: usize| NodeName::new(format!("edge{number}")).expect("a good name");
        let request = Request {
            id: MigrationId(id),
            workload: WorkloadName::new("video").expect("a good name"),
            from: node(from),
            to: node((from + step) % NODES),
            strategy,
        };
        self.world.borrow_mut().note(|| format!("moves: {request:?}"));
        let ended = self.with_parts(&request, |parts| migrate(&request, parts, &cancel, &mut |_| {}));
        self.count(&ended);
        Some(ended)
    }
}
