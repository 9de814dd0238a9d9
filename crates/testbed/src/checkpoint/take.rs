//! A workload into a file.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime};

use godwit_checkpoint::{FORMAT, Host, Manifest, Parts, Written, read_state, utc, write};
use godwit_criu::{DumpOptions, HeldDump, ImagesDir, Limit, PreparedDump};
use godwit_migration::{PartError, Side, Traffic};
use godwit_model::NodeName;

use super::{NotDone, Scratch, TakeCheckpoint, Taken, Told, layer, part};
use crate::container::Container;
use crate::mover::TrafficSide;
use crate::network::ServiceNet;
use crate::node::Node;
use crate::world::Testbed;

/// How long a step may take while the service runs, and while it stands.
const STAGE_SECONDS: u64 = 30;
const FREEZE_SECONDS: u64 = 60;

/// From when to when the service stood still.
pub(crate) type Window = (Instant, Instant);

/// What is dumped, and where it is.
struct Subject<'t> {
    testbed: &'t Testbed,
    container: Container,
    at: NodeName,
    node: &'t Node,
    service: ServiceNet,
    is_copy: bool,
}

/// Dumps and writes. The service runs on from before this returns, unless it was to be ended; when this fails it always
/// runs on.
pub(crate) fn take(
    testbed: &Testbed,
    ask: &TakeCheckpoint,
    told: Told<'_>,
) -> Result<(Taken, Option<Window>), NotDone> {
    let start = Instant::now();
    let subject = find(testbed, ask)?;
    if !ask.force && ask.path.symlink_metadata().is_ok() {
        let path = ask.path.clone();
        return Err(godwit_checkpoint::CheckpointError::Exists { path }.into());
    }
    subject.preflight()?;
    let number = testbed.checkpoints().number();
    let scratch = Scratch(subject.node.host_path(subject.container.scratch("checkpoint", number)));
    let images = ImagesDir::create(scratch.0.join("images")).map_err(part("make room for the images"))?;
    let limit = Limit::seconds(STAGE_SECONDS);
    let options = DumpOptions { skip_unaccepted: true, ..DumpOptions::default() };
    let id = subject.container.name.as_str();
    let dump = PreparedDump::new(&subject.node.env(), id, images, options, &limit).map_err(part("prepare the dump"))?;
    let mut manifest = subject.manifest(&dump, number, ask.stop);

    let (from, to) = (testbed.network().node(&subject.at), testbed.network().node(&subject.at));
    let mut traffic = TrafficSide {
        network: testbed.network(),
        service: &subject.service,
        inside: (!subject.is_copy).then(|| testbed.network().service_netns(&subject.at, &ask.workload)),
        from,
        to,
        towards_source: testbed.network().towards(&subject.at),
        towards_target: testbed.network().towards(&subject.at),
        released: None,
        place: testbed.network().open_service_netns(&subject.at, &subject.container.name),
        fenced: false,
        orphans: Vec::new(),
    };
    let began = Instant::now();
    let layer = scratch.0.join("rootfs-diff.tar");
    let frozen = subject.freeze_and_dump(dump, &mut traffic, &layer);
    let (held, has_layer) = match frozen {
        Ok(frozen) => frozen,
        // It runs already; its packets come back to it.
        Err(error) => return Err(also(error.into(), traffic.release(Side::Source))),
    };
    let finish = |manifest: &mut Manifest, told: Told<'_>| -> Result<Written, NotDone> {
        let spec = subject.spec()?;
        manifest.spec_sha256 = sha256_of(&spec);
        let state = read_state(&scratch.0.join("images"))?;
        manifest.memory_bytes = state.memory_bytes();
        (manifest.processes, manifest.sockets) = (state.processes, state.sockets);
        let images = scratch.0.join("images");
        let layer = has_layer.then_some(layer.as_path());
        let parts = Parts { target: &ask.path, manifest, spec: &spec, images: &images, layer };
        Ok(write(&parts, ask.format, ask.force, told)?)
    };
    let (written, window) = if ask.stop {
        manifest.frozen_ms = began.elapsed().as_secs_f64() * 1e3;
        // The file is there before the service is gone.
        match finish(&mut manifest, told) {
            Ok(written) => {
                subject.end(held, &mut traffic, &manifest.id)?;
                (written, None)
            }
            Err(error) => return Err(also(error, let_run(held, &mut traffic))),
        }
    } else {
        let_run(held, &mut traffic)?;
        let window = (began, Instant::now());
        manifest.frozen_ms = (window.1 - window.0).as_secs_f64() * 1e3;
        (finish(&mut manifest, told)?, Some(window))
    };
    let taken = Taken {
        workload: ask.workload.clone(),
        node: subject.at.clone(),
        path: ask.path.clone(),
        id: manifest.id,
        stopped: ask.stop,
        file_bytes: written.file_bytes,
        content_bytes: written.content_bytes,
        memory_bytes: manifest.memory_bytes,
        frozen_ms: manifest.frozen_ms,
        gap_ms: None,
        total_ms: start.elapsed().as_secs_f64() * 1e3,
    };
    Ok((taken, window))
}

/// The workload or copy of this name, which has to run.
fn find<'t>(testbed: &'t Testbed, ask: &TakeCheckpoint) -> Result<Subject<'t>, NotDone> {
    let name = &ask.workload;
    let (container, at, service, is_copy) = match testbed.checkpoints().copy(name) {
        Some(copy) => (copy.container.clone(), copy.node.clone(), copy.service.clone(), true),
        None => {
            let Some(at) = testbed.placement().get(name).cloned() else {
                let known: Vec<String> = testbed.placement().keys().map(ToString::to_string).collect();
                return Err(NotDone::Refused(format!("there is no workload {name}; there is {}", known.join(", "))));
            };
            (testbed.container(name).clone(), at, testbed.network().service(name).clone(), false)
        }
    };
    let node = testbed.node(&at);
    if container.is_several() {
        let why = format!(
            "{name} is of several containers: they can be migrated, but a checkpoint's file holds one container so far"
        );
        return Err(NotDone::Refused(why));
    }
    if !container.is_running(node) {
        return Err(NotDone::Refused(format!("{name} does not run: there is nothing to take a checkpoint of")));
    }
    Ok(Subject { testbed, container, at, node, service, is_copy })
}

impl Subject<'_> {
    fn preflight(&self) -> Result<(), NotDone> {
        let id = self.container.name.as_str();
        let obstacles = godwit_criu::preflight(&self.node.env(), id, &Limit::seconds(STAGE_SECONDS))
            .map_err(part("it cannot be looked at"))?;
        if obstacles.is_empty() {
            return Ok(());
        }
        let list = obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(NotDone::Failed(format!("CRIU cannot carry {id}: {list}")))
    }

    fn spec(&self) -> Result<String, PartError> {
        let path = self.node.host_path(self.container.bundle().join("config.json"));
        fs::read_to_string(&path).map_err(|e| PartError::caused_by(format!("read {}", path.display()), e))
    }

    fn manifest(&self, dump: &PreparedDump, number: usize, stopped: bool) -> Manifest {
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let image = self.container.only().and_then(|contents| contents.image.as_deref());
        Manifest {
            format: FORMAT,
            creator: concat!("godwit ", env!("CARGO_PKG_VERSION")).into(),
            id: format!("{}-{}-{since}-{number}", self.testbed.name(), self.container.name),
            created: utc(now),
            workload: self.container.name.to_string(),
            image: image.unwrap_or(self.testbed.image()).display().to_string(),
            own_image: image.is_some(),
            volumes: self.container.layout.volumes.iter().map(|inside| inside.display().to_string()).collect(),
            service: std::net::SocketAddr::new(self.service.ip(), self.container.port).to_string(),
            node: self.at.to_string(),
            host: Host {
                arch: std::env::consts::ARCH.into(),
                kernel: kernel.trim().into(),
                criu: dump.version().to_string(),
                cgroup: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 },
            },
            spec_sha256: String::new(),
            memory_bytes: 0,
            declared_memory_bytes: self.container.memory.0,
            stopped,
            frozen_ms: 0.0,
            processes: Vec::new(),
            sockets: Vec::new(),
            plan: serde_json::to_value(dump.plan()).unwrap_or_default(),
        }
    }

    /// On an error the container runs, cut off from its packets.
    fn freeze_and_dump(
        &self,
        dump: PreparedDump,
        traffic: &mut TrafficSide<'_>,
        layer: &Path,
    ) -> Result<(HeldDump, bool), PartError> {
        let limit = Limit::seconds(FREEZE_SECONDS);
        traffic.close_the_door()?;
        traffic.hold()?;
        let frozen = dump.freeze(&limit).map_err(part("freeze it"))?;
        // Dropping what is frozen or held thaws it.
        traffic.fence()?;
        let held = frozen.dump(&limit).map_err(|failed| part("dump it")(failed.error))?;
        let bundle = self.node.host_path(self.container.bundle());
        let has_layer = layer::save(&bundle.join("upper"), layer, &limit)?;
        let volumes = self.container.layout.places().map(|place| bundle.join(place));
        layer::save_volumes(volumes, held.images().path(), &limit)?;
        Ok((held, has_layer))
    }

    /// Ends what is held without a packet. A workload's packets stay held, so that its clients wait.
    fn end(&self, held: HeldDump, traffic: &mut TrafficSide<'_>, id: &str) -> Result<(), NotDone> {
        let limit = Limit::seconds(FREEZE_SECONDS);
        held.commit(&limit).map_err(part("end the service, whose checkpoint is written"))?;
        self.container.delete(&self.node.env()).map_err(part("remove its container"))?;
        if self.is_copy {
            traffic.release(Side::Source)?;
            self.testbed.checkpoints().remove(&self.container.name);
            return Ok(());
        }
        traffic.park()?;
        self.testbed.checkpoints().stop(&self.container.name, id);
        Ok(())
    }
}

fn let_run(held: HeldDump, traffic: &mut TrafficSide<'_>) -> Result<(), PartError> {
    let thawed = match held.rollback() {
        Ok(released) => released.thaw().map_err(part("thaw it")),
        Err(failed) => {
            let failed = *failed;
            // Dropping it thaws it, as far as that goes.
            drop(failed.back);
            Err(part("take it back from CRIU")(failed.error))
        }
    };
    let released = traffic.release(Side::Source);
    thawed.and(released)
}

fn also(error: NotDone, after: Result<(), PartError>) -> NotDone {
    match (error, after) {
        (error, Ok(())) => error,
        (NotDone::Failed(why) | NotDone::Refused(why), Err(next)) => {
            NotDone::Failed(format!("{why}; and then: {}", next.chain()))
        }
    }
}

fn sha256_of(text: &str) -> String {
    godwit_checkpoint::sha256(text.as_bytes())
}
