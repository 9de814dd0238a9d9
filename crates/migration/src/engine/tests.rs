//! Every step fails in turn; what is left running is checked each time.

use std::cell::RefCell;
use std::rc::Rc;

use godwit_model::{CopyRound, MigrationId, NodeName, Phase, Strategy, WorkloadName};

use super::*;
use crate::journal::{Journal, JournalError};
use crate::parts::{Side, Source, Target, Told, Traffic};
use crate::request::Retries;

/// A world of flags: who runs, who gets packets, and what was called.
#[derive(Debug, Default)]
struct World {
    calls: Vec<&'static str>,
    fail: Vec<(&'static str, u32)>,
    /// A step that finds that what it is about has ended.
    gone_at: Option<&'static str>,
    source_runs: bool,
    source_exists: bool,
    target_exists: bool,
    target_runs: bool,
    packets_at: Option<Side>,
    journal: Vec<State>,
    cancel_at: Option<(&'static str, Cancel)>,
}

impl World {
    fn step(&mut self, name: &'static str) -> Result<(), PartError> {
        self.calls.push(name);
        if let Some((at, cancel)) = &self.cancel_at
            && *at == name
        {
            cancel.cancel();
        }
        assert!(!(self.source_runs && self.target_runs), "two run at once, at {name}");
        if self.gone_at == Some(name) {
            return Err(PartError::gone("injected"));
        }
        match self.fail.iter_mut().find(|(at, _)| *at == name) {
            Some((_, times)) if *times > 0 => {
                *times -= 1;
                Err(PartError::new("injected"))
            }
            _ => Ok(()),
        }
    }
}

const RETRIES: Retries = Retries { failing: 5, unreachable: 5, pause: Duration::ZERO, longest_pause: Duration::ZERO };

#[derive(Clone)]
struct Shared(Rc<RefCell<World>>);

impl Source for Shared {
    fn preflight(&mut self) -> Result<(), PartError> {
        self.0.borrow_mut().step("source.preflight")
    }
    fn stage(&mut self) -> Result<(), PartError> {
        self.0.borrow_mut().step("source.stage")
    }
    fn precopy(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<(), PartError> {
        for bytes in [100, 10] {
            if !told(Told::Round(CopyRound { bytes: Bytes(bytes), ms: 1.0 })) {
                break;
            }
        }
        self.0.borrow_mut().step("precopy")
    }
    fn freeze(&mut self) -> Result<(), PartError> {
        let mut w = self.0.borrow_mut();
        assert_eq!(w.packets_at, None, "packets must be held before the freeze");
        w.step("freeze")?;
        w.source_runs = false;
        Ok(())
    }
    fn dump(&mut self) -> Result<Option<CopyRound>, PartError> {
        self.0.borrow_mut().step("dump").map(|()| Some(CopyRound { bytes: Bytes(1), ms: 1.0 }))
    }
    fn send(&mut self, told: &mut dyn FnMut(Told) -> bool) -> Result<Bytes, PartError> {
        for bytes in [3, 7] {
            if !told(Told::Sent { bytes: Bytes(bytes), expected: Bytes(7) }) {
                return Err(PartError::new("cancelled"));
            }
        }
        self.0.borrow_mut().step("send").map(|()| Bytes(7))
    }
    fn discard(&mut self) -> Result<(), PartError> {
        let mut w = self.0.borrow_mut();
        w.step("discard")?;
        assert_eq!(w.journal.last(), Some(&State::Committed), "nothing is discarded before the commit");
        w.source_exists = false;
        Ok(())
    }
    fn drain(&mut self) -> Result<(), PartError> {
        self.0.borrow_mut().step("source.drain")
    }
    fn thaw(&mut self) -> Result<(), PartError> {
        let mut w = self.0.borrow_mut();
        w.step("thaw")?;
        w.source_runs = w.source_exists;
        Ok(())
    }
}

impl Target for Shared {
    fn preflight(&mut self) -> Result<(), PartError> {
        self.0.borrow_mut().step("target.preflight")
    }
    fn stage(&mut self) -> Result<(), PartError> {
        self.0.borrow_mut().step("target.stage")
    }
    fn received(&mut self) -> Result<(), PartError> {
        self.0.borrow_mut().step("received")
    }
    fn restore(&mut self) -> Result<(), PartError> {
        let mut w = self.0.borrow_mut();
        w.step("restore")?;
        w.target_exists = true;
        Ok(())
    }
    fn resume(&mut self) -> Result<(), PartError> {
        let mut w = self.0.borrow_mut();
        w.step("resume")?;
        w.target_runs = w.target_exists;
        Ok(())
    }
    fn settle(&mut self) -> Result<(), PartError> {
        self.0.borrow_mut().step("settle")
    }
    fn abort(&mut self) -> Result<(), PartError> {
        let mut w = self.0.borrow_mut();
        w.step("abort")?;
        w.target_exists = false;
        Ok(())
    }
}

impl Traffic for Shared {
    fn stage(&mut self) -> Result<(), PartError> {
        self.0.borrow_mut().step("traffic.stage")
    }
    fn hold(&mut self) -> Result<(), PartError> {
        let mut w = self.0.borrow_mut();
        w.step("hold")?;
        w.packets_at = None;
        Ok(())
    }
    fn fence(&mut self) -> Result<(), PartError> {
        let mut w = self.0.borrow_mut();
        assert!(!w.source_runs, "the fence would cut off a running service");
        w.step("fence")
    }
    fn release(&mut self, to: Side) -> Result<(), PartError> {
        let mut w = self.0.borrow_mut();
        w.step("release")?;
        w.packets_at = Some(to);
        Ok(())
    }
    fn drain(&mut self) -> Result<(), PartError> {
        self.0.borrow_mut().step("traffic.drain")
    }
}

impl Journal for Shared {
    fn record(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let mut w = self.0.borrow_mut();
        let name = match entry.state {
            State::Begun => "record.begun",
            State::Committed => "record.committed",
            State::TakenBack => "record.taken-back",
            State::Ended(_) => "record.ended",
        };
        if w.step(name).is_err() {
            return Err(JournalError::Elsewhere("injected".into()));
        }
        w.journal.push(entry.state);
        Ok(())
    }
}

fn request() -> Request {
    Request {
        id: MigrationId(1),
        workload: WorkloadName::new("video").unwrap(),
        from: NodeName::new("edge1").unwrap(),
        to: NodeName::new("edge2").unwrap(),
        strategy: Strategy::PreCopy,
    }
}

fn run(fail: Option<(&'static str, u32)>, cancel_at: Option<&'static str>) -> (World, Ended) {
    run_failing(fail.as_slice(), cancel_at)
}

fn run_failing(fail: &[(&'static str, u32)], cancel_at: Option<&'static str>) -> (World, Ended) {
    let cancel = Cancel::default();
    let cancel_at = cancel_at.map(|at| (at, cancel.clone()));
    run_in(World { fail: fail.to_vec(), cancel_at, ..World::default() }, &request(), &cancel)
}

fn run_in(world: World, request: &Request, cancel: &Cancel) -> (World, Ended) {
    let world = World { source_runs: true, source_exists: true, packets_at: Some(Side::Source), ..world };
    let world = Shared(Rc::new(RefCell::new(world)));
    let (mut s, mut t, mut n, mut j) = (world.clone(), world.clone(), world.clone(), world.clone());
    let ended = migrate(
        request,
        &mut Parts { source: &mut s, target: &mut t, traffic: &mut n, journal: &mut j, retries: RETRIES },
        cancel,
        &mut |_| {},
    );
    drop((s, t, n, j));
    (Rc::try_unwrap(world.0).unwrap().into_inner(), ended)
}

const BEFORE_COMMIT: [&str; 15] = [
    "record.begun",
    "source.preflight",
    "target.preflight",
    "source.stage",
    "target.stage",
    "traffic.stage",
    "precopy",
    "hold",
    "freeze",
    "fence",
    "dump",
    "send",
    "received",
    "restore",
    "record.committed",
];

#[test]
fn when_all_goes_well_the_target_runs_and_every_phase_is_timed() {
    let (world, ended) = run(None, None);
    assert_eq!(ended.outcome, Outcome::Done);
    assert_eq!(ended.error, None);
    assert_eq!(ended.bytes, Bytes(7));
    assert_eq!(ended.rounds.iter().map(|round| round.bytes.0).collect::<Vec<_>>(), [100, 10, 1]);
    assert_eq!(ended.phases.iter().map(|p| p.phase).collect::<Vec<_>>(), Phase::ALL);
    assert!(world.target_runs && !world.source_exists && world.packets_at == Some(Side::Target));
    assert_eq!(world.journal, [State::Begun, State::Committed, State::Ended(Outcome::Done)]);
    assert_eq!(world.calls[..15], BEFORE_COMMIT);
}

#[test]
fn a_failure_of_any_step_before_the_commit_leaves_the_source_running() {
    for step in BEFORE_COMMIT {
        let (world, ended) = run(Some((step, u32::MAX)), None);
        assert_eq!(ended.outcome, Outcome::RolledBack, "{step}");
        assert!(world.source_runs && world.source_exists, "{step}");
        assert!(!world.target_exists && !world.target_runs, "{step}");
        let untouched = ["record.begun", "source.preflight", "target.preflight"].contains(&step);
        assert!(world.calls.contains(&"abort") != untouched && !world.calls.contains(&"discard"), "{step}");
        assert!(!ended.open, "{step}");
        assert!(ended.error.unwrap().contains(if step.starts_with("record") { "recorded" } else { "injected" }));
        if world.calls.contains(&"hold") {
            assert_eq!(world.packets_at, Some(Side::Source), "{step}");
        }
    }
}

#[test]
fn cancelling_at_any_step_before_the_commit_rolls_back_and_after_it_does_not() {
    for step in BEFORE_COMMIT {
        let (world, ended) = run(None, Some(step));
        if step == "record.committed" {
            assert_eq!(ended.outcome, Outcome::Done);
        } else {
            assert_eq!(ended.outcome, Outcome::RolledBack, "{step}");
            assert!(world.source_runs && !world.target_exists, "{step}");
        }
    }
}

#[test]
fn a_passing_failure_after_the_commit_still_ends_on_the_target() {
    for step in ["discard", "release"] {
        let (world, ended) = run(Some((step, 2)), None);
        assert_eq!((ended.outcome, ended.error), (Outcome::Done, None), "{step}");
        assert!(world.target_runs && !world.source_exists, "{step}");
    }
}

#[test]
fn a_failure_while_draining_is_reported_and_does_not_matter_to_the_workload() {
    for step in ["settle", "source.drain", "traffic.drain", "record.ended"] {
        let (world, ended) = run(Some((step, u32::MAX)), None);
        assert_eq!(ended.outcome, Outcome::Done, "{step}");
        assert_eq!(ended.error.is_some(), step != "record.ended", "{step}");
        // A fence that stays would cut the workload off when it comes back.
        assert_eq!(ended.open, ["traffic.drain", "record.ended"].contains(&step), "{step}");
        assert!(world.target_runs && !world.source_exists, "{step}");
    }
}

#[test]
fn a_target_that_ended_before_it_had_all_its_memory_is_lost_and_the_source_does_not_run_again() {
    for strategy in [Strategy::StopCopy, Strategy::PreCopy, Strategy::PostCopy] {
        for step in ["resume", "settle"] {
            let world = World { gone_at: Some(step), ..World::default() };
            let (world, ended) = run_in(world, &Request { strategy, ..request() }, &Cancel::default());
            assert_eq!((ended.outcome, ended.open), (Outcome::Lost, false), "{step} of {strategy}");
            assert!(
                !world.source_runs && !world.source_exists && !world.calls.contains(&"thaw"),
                "{step} of {strategy}"
            );
            assert_eq!(world.journal.last(), Some(&State::Ended(Outcome::Lost)), "{step} of {strategy}");
        }
    }
}

#[test]
fn while_the_frozen_copy_cannot_be_ended_it_stays_fenced_in_and_the_migration_open() {
    let (world, ended) = run(Some(("discard", u32::MAX)), None);
    assert_eq!((ended.outcome, ended.open), (Outcome::Done, true));
    assert!(world.target_runs && !world.calls.contains(&"traffic.drain"));
    assert_eq!(world.journal, [State::Begun, State::Committed]);
}

#[test]
fn a_target_that_never_came_to_life_is_removed_and_the_source_taken_back() {
    let (world, ended) = run(Some(("resume", u32::MAX)), None);
    assert_eq!(ended.outcome, Outcome::RolledBack);
    assert!(world.source_runs && !world.target_exists && world.packets_at == Some(Side::Source));
    let end = State::Ended(Outcome::RolledBack);
    assert_eq!(world.journal, [State::Begun, State::Committed, State::TakenBack, end]);
    let position = |name| world.calls.iter().position(|call| *call == name).unwrap();
    assert!(position("record.taken-back") < position("abort") && position("abort") < position("thaw"));
    assert_eq!(world.calls.iter().filter(|call| **call == "resume").count(), 1, "what is certain is not tried again");
}

#[test]
fn what_cannot_be_thawed_is_lost_and_stays_open_in_the_journal() {
    let (world, ended) = run_failing(&[("dump", u32::MAX), ("thaw", u32::MAX)], None);
    assert_eq!((ended.outcome, ended.open), (Outcome::Lost, true));
    assert_eq!(world.journal, [State::Begun]);
}

#[test]
fn a_commit_that_cannot_be_recorded_brings_the_source_back_only_when_nothing_is_left_to_resume() {
    let (world, ended) = run_failing(&[("record.committed", 1), ("abort", u32::MAX)], None);
    assert_eq!((ended.outcome, ended.open), (Outcome::RolledBack, false));
    let position = |name| world.calls.iter().position(|call| *call == name).unwrap();
    assert!(position("record.taken-back") < position("thaw"));

    let fails = [("record.committed", 1), ("abort", u32::MAX), ("record.taken-back", u32::MAX)];
    let (world, ended) = run_failing(&fails, None);
    assert_eq!((ended.outcome, ended.open), (Outcome::Lost, true));
    assert!(!world.calls.contains(&"thaw"));
}

#[test]
fn bytes_are_told_on_the_way_and_never_go_down() {
    let world = Shared(Rc::new(RefCell::new(World {
        source_runs: true,
        source_exists: true,
        packets_at: Some(Side::Source),
        ..World::default()
    })));
    let (mut s, mut t, mut n, mut j) = (world.clone(), world.clone(), world.clone(), world.clone());
    let mut parts = Parts { source: &mut s, target: &mut t, traffic: &mut n, journal: &mut j, retries: RETRIES };
    let mut sent = Vec::new();
    migrate(&request(), &mut parts, &Cancel::default(), &mut |progress| {
        if let Progress::Sent { bytes, expected } = progress {
            sent.push((bytes.0, expected.0));
        }
    });
    assert_eq!(sent, [(100, 100), (110, 110), (111, 111), (114, 118), (118, 118)]);
}
