//! All containers of a workload on their way out: stopped at one instant, dumped side by side, ended or given back as one.
//! The states are those of one container ([`godwit_criu::PreparedDump`] and what follows), which is the usual case.

use std::path::Path;

use godwit_criu::{
    DumpOptions, FrozenDump, HeldDump, ImagesDir, Limit, Member, PreparedDump, ReleasedDump, RestorePlan, Version,
};
use godwit_migration::PartError;

use crate::source::part;
use crate::together::{Fence, Switch, all_of, side_by_side};
use crate::unit::{Units, told};

/// Ready to be stopped.
pub struct Prepared {
    units: Units,
    dumps: Vec<PreparedDump>,
}

/// Stopped, and fenced from each other.
pub struct Frozen {
    dumps: Vec<FrozenDump>,
    switch: Switch,
    fence: Fence,
}

/// Dumped.
pub struct Held {
    dumps: Vec<HeldDump>,
    switch: Switch,
    fence: Fence,
}

/// Let go by CRIU, stopped.
pub struct Released {
    dumps: Vec<ReleasedDump>,
    switch: Switch,
    fence: Fence,
}

impl Prepared {
    /// Their images go into `images`, those of several into directories by their names.
    pub fn new(units: &Units, images: &Path, options: &DumpOptions, limit: &Limit) -> Result<Self, PartError> {
        let mut dumps = Vec::new();
        for unit in &units.list {
            let images = ImagesDir::create(unit.images(images)).map_err(part("make room for the images"))?;
            let dump = PreparedDump::new(&units.env, &unit.id, images, options.clone(), limit);
            dumps.push(dump.map_err(part("prepare the dump"))?);
        }
        Ok(Self { units: units.clone(), dumps })
    }

    /// What the target needs to know of each.
    pub fn plans(&self) -> Vec<RestorePlan> {
        self.dumps.iter().map(|dump| dump.plan().clone()).collect()
    }

    /// The version of the CRIU that will dump.
    pub fn version(&self) -> Version {
        self.dumps[0].version()
    }

    /// Their processes at this moment.
    pub fn members(&self) -> godwit_criu::Result<Vec<Member>> {
        told(self.dumps.iter().map(PreparedDump::members))
    }

    /// On an error they run.
    pub fn freeze(self, limit: &Limit) -> Result<Frozen, PartError> {
        let Self { units, dumps } = self;
        let switch = Switch::of(&units)?;
        switch.stop(&units, limit)?;
        // Each is frozen by itself, too, so that CRIU can deal with it alone; the switch above goes back before.
        let frozen: Result<Vec<_>, _> = dumps.into_iter().map(|dump| dump.freeze(limit)).collect();
        let fenced = frozen.map_err(part("freeze it")).and_then(|dumps| Ok((dumps, Fence::put_up(&units)?)));
        switch.start();
        let (dumps, fence) = fenced?;
        Ok(Frozen { dumps, switch, fence })
    }
}

impl Frozen {
    /// Their processes, which stand until the dump.
    pub fn members(&self) -> godwit_criu::Result<Vec<Member>> {
        told(self.dumps.iter().map(FrozenDump::members))
    }

    /// On an error all are handed back, stopped.
    pub fn dump(self, limit: &Limit) -> Result<Held, Box<(PartError, Released)>> {
        let Self { dumps, switch, fence } = self;
        let (mut held, mut released, mut failed) = (Vec::new(), Vec::new(), None);
        for dumped in side_by_side(dumps, |dump| dump.dump(limit)) {
            match dumped {
                Ok(dump) => held.push(dump),
                Err(handed_back) => {
                    let handed_back = *handed_back;
                    released.push(handed_back.back);
                    failed.get_or_insert(part("dump it")(handed_back.error));
                }
            }
        }
        let Some(mut error) = failed else { return Ok(Held { dumps: held, switch, fence }) };
        let (more, result) = roll_back(held);
        released.extend(more);
        if let Err(also) = result {
            error = error.within(also.to_string());
        }
        Err(Box::new((error, Released { dumps: released, switch, fence })))
    }

    /// They run on, from one instant.
    pub fn thaw(self) -> Result<(), PartError> {
        let Self { dumps, switch, fence } = self;
        let unfenced = fence.take_down();
        let thawed = switch.as_one(|| all_of(dumps.into_iter().map(FrozenDump::thaw)));
        thawed.map_err(part("thaw it")).and(unfenced)
    }
}

impl Held {
    /// Their processes; their memory can still be read.
    pub fn members(&self) -> godwit_criu::Result<Vec<Member>> {
        told(self.dumps.iter().map(HeldDump::members))
    }

    /// Ends all of them without a packet.
    pub fn commit(self, limit: &Limit) -> Result<(), PartError> {
        let Self { dumps, fence, .. } = self;
        all_of(dumps.into_iter().map(|dump| dump.commit(limit).map(drop))).map_err(part("end the frozen copy"))?;
        fence.take_down()
    }

    /// CRIU lets go of them; they stand.
    pub fn rollback(self) -> (Released, Result<(), PartError>) {
        let Self { dumps, switch, fence } = self;
        let (dumps, result) = roll_back(dumps);
        (Released { dumps, switch, fence }, result)
    }
}

fn roll_back(held: Vec<HeldDump>) -> (Vec<ReleasedDump>, Result<(), PartError>) {
    let (mut released, mut result) = (Vec::new(), Ok(()));
    for dump in side_by_side(held, HeldDump::rollback) {
        match dump {
            Ok(dump) => released.push(dump),
            Err(failed) => {
                let failed = *failed;
                released.push(failed.back);
                result = result.and(Err(part("take it back from CRIU")(failed.error)));
            }
        }
    }
    (released, result)
}

impl Released {
    /// What another agent has left, perhaps in the middle of a step: all containers that have a process.
    pub fn recover(units: &Units, ids: &[&str], limit: &Limit) -> Result<Self, PartError> {
        let recover = |id: &&str| godwit_criu::recover_source(&units.env, id, limit);
        let dumps = ids.iter().map(recover).collect::<Result<_, _>>().map_err(part("take it back from CRIU"))?;
        Fence::take_down_any(units)?;
        Ok(Self { dumps, switch: Switch::if_there(units), fence: Fence::none() })
    }

    /// All run on, from one instant.
    pub fn thaw(self) -> Result<(), PartError> {
        let Self { dumps, switch, fence } = self;
        let unfenced = fence.take_down();
        let thawed = switch.as_one(|| all_of(dumps.into_iter().map(ReleasedDump::thaw)));
        thawed.map_err(part("thaw it")).and(unfenced)
    }
}
