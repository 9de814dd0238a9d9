//! A workload into a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use godwit_agent::Units;
use godwit_agent::dumps::{Held, Prepared};
use godwit_checkpoint::{
    FORMAT, FORMAT_OF_ONE, Format, Host, Manifest, OfContainer, Parts, PartsOf, Written, read_state, utc, write,
};
use godwit_criu::{DumpOptions, Limit, RestorePlan};
use godwit_migration::{PartError, Side, Traffic};
use godwit_model::NodeName;
use godwit_net::SockDiag;

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
    if subject.container.is_several() && ask.format == Format::Oci {
        let why =
            "a checkpoint image for engines holds one container, and the workload has several: leave --format out";
        return Err(NotDone::Refused(why.into()));
    }
    subject.preflight()?;
    let number = testbed.checkpoints().number();
    let scratch = Scratch(subject.node.host_path(subject.container.scratch("checkpoint", number)));
    let images = scratch.0.join("images");
    fs::create_dir_all(&images).map_err(|e| PartError::caused_by("make room for the images", e))?;
    let limit = Limit::seconds(STAGE_SECONDS);
    let options = DumpOptions { skip_unaccepted: true, ..DumpOptions::default() };
    let units = subject.units()?;
    let dump = Prepared::new(&units, &images, &options, &limit)?;
    let mut manifest = subject.manifest(&dump, number, ask.stop);

    let (from, to) = (testbed.network().node(&subject.at), testbed.network().node(&subject.at));
    let mut traffic = TrafficSide {
        network: testbed.network(),
        service: &subject.service,
        is_copy: subject.is_copy,
        from,
        to,
        towards_source: testbed.network().towards(&subject.at),
        towards_target: testbed.network().towards(&subject.at),
        released: None,
        sockets: (testbed.network().open_service_netns(&subject.at, &subject.container.name))
            .and_then(|place| SockDiag::open(&place)),
        fenced: false,
        orphans: Vec::new(),
        unread: Vec::new(),
        sockets_there: None,
        room: None,
    };
    let began = Instant::now();
    let frozen = subject.freeze_and_dump(dump, &mut traffic, &scratch.0);
    let (held, layers) = match frozen {
        Ok(frozen) => frozen,
        // It runs already; its packets come back to it.
        Err(error) => return Err(also(error.into(), traffic.release(Side::Source))),
    };
    let finish = |manifest: &mut Manifest, told: Told<'_>| -> Result<Written, NotDone> {
        subject.write(ask, manifest, &scratch.0, &layers, told)
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
    if !container.is_running(node) {
        return Err(NotDone::Refused(format!("{name} does not run: there is nothing to take a checkpoint of")));
    }
    Ok(Subject { testbed, container, at, node, service, is_copy })
}

impl Subject<'_> {
    fn units(&self) -> Result<Units, PartError> {
        Units::at(&self.node.env(), self.container.name.as_str(), &self.container.bundle())
    }

    fn preflight(&self) -> Result<(), NotDone> {
        let units = self.units()?;
        let ids: Vec<&str> = units.ids().collect();
        let obstacles = godwit_criu::preflight_all(&self.node.env(), &ids, &Limit::seconds(STAGE_SECONDS))
            .map_err(part("it cannot be looked at"))?;
        if obstacles.is_empty() {
            return Ok(());
        }
        let list = obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(NotDone::Failed(format!("CRIU cannot carry {}: {list}", self.container.name)))
    }

    /// The configuration of each container.
    fn specs(&self) -> Result<Vec<String>, PartError> {
        let read = |dir: PathBuf| {
            let path = self.node.host_path(dir.join("config.json"));
            fs::read_to_string(&path).map_err(|e| PartError::caused_by(format!("read {}", path.display()), e))
        };
        self.container.bundles().map(read).collect()
    }

    fn manifest(&self, dump: &Prepared, number: usize, stopped: bool) -> Manifest {
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let of_node = self.testbed.image().display().to_string();
        let image = self.container.only().map(|contents| contents.image.as_deref());
        let image_of =
            |image: Option<&Path>| image.map_or_else(|| of_node.clone(), |image| image.display().to_string());
        let json = |plan: &RestorePlan| serde_json::to_value(plan).unwrap_or_default();
        let plans = dump.plans();
        let containers = self.container.named().zip(&plans).map(|((name, contents, volumes), plan)| OfContainer {
            name: name.to_owned(),
            image: image_of(contents.image.as_deref()),
            own_image: contents.image.is_some(),
            volumes: volumes.to_owned(),
            spec_sha256: String::new(),
            plan: json(plan),
        });
        Manifest {
            format: if self.container.is_several() { FORMAT } else { FORMAT_OF_ONE },
            creator: concat!("godwit ", env!("CARGO_PKG_VERSION")).into(),
            id: format!("{}-{}-{since}-{number}", self.testbed.name(), self.container.name),
            created: utc(now),
            workload: self.container.name.to_string(),
            image: image.map(image_of).unwrap_or_default(),
            own_image: image.flatten().is_some(),
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
            containers: containers.collect(),
            plan: if self.container.is_several() { serde_json::Value::Null } else { json(&plans[0]) },
        }
    }

    /// On an error the container runs, cut off from its packets. Returns which containers have written anything.
    fn freeze_and_dump(
        &self,
        dump: Prepared,
        traffic: &mut TrafficSide<'_>,
        scratch: &Path,
    ) -> Result<(Held, Vec<Option<PathBuf>>), PartError> {
        let limit = Limit::seconds(FREEZE_SECONDS);
        traffic.close_the_door()?;
        traffic.hold()?;
        let frozen = dump.freeze(&limit)?;
        // Dropping what is frozen or held thaws it.
        traffic.fence()?;
        let held = frozen.dump(&limit).map_err(|failed| failed.0)?;
        let mut layers = Vec::new();
        for (number, bundle) in self.container.bundles().enumerate() {
            let layer = scratch.join(format!("rootfs-diff-{number}.tar"));
            let has_layer = layer::save(&self.node.host_path(bundle.join("upper")), &layer, &limit)?;
            layers.push(has_layer.then_some(layer));
        }
        let bundle = self.node.host_path(self.container.bundle());
        let volumes = self.container.layout.places().map(|place| bundle.join(place));
        layer::save_volumes(volumes, &scratch.join("images"), &limit)?;
        Ok((held, layers))
    }

    /// What was dumped and saved in `scratch`, into the file.
    fn write(
        &self,
        ask: &TakeCheckpoint,
        manifest: &mut Manifest,
        scratch: &Path,
        layers: &[Option<PathBuf>],
        told: Told<'_>,
    ) -> Result<Written, NotDone> {
        let (specs, images) = (self.specs()?, scratch.join("images"));
        let of = |name: &str| if name.is_empty() { images.clone() } else { images.join(name) };
        let names: Vec<String> = manifest.containers.iter().map(|container| container.name.clone()).collect();
        for dir in if names.is_empty() { vec![of("")] } else { names.iter().map(|name| of(name)).collect() } {
            let state = read_state(&dir)?;
            manifest.memory_bytes += state.memory_bytes();
            manifest.processes.extend(state.processes);
            manifest.sockets.extend(state.sockets);
        }
        if names.is_empty() {
            manifest.spec_sha256 = sha256_of(&specs[0]);
        }
        for (container, spec) in manifest.containers.iter_mut().zip(&specs) {
            container.spec_sha256 = sha256_of(spec);
        }
        let dirs: Vec<PathBuf> = names.iter().map(|name| of(name)).collect();
        let parts = names.iter().zip(&dirs).zip(specs.iter().zip(layers));
        let containers: Vec<PartsOf<'_>> = parts
            .map(|((name, images), (spec, layer))| PartsOf { name, spec, images, layer: layer.as_deref() })
            .collect();
        let only = containers.is_empty();
        let parts = Parts {
            target: &ask.path,
            manifest,
            spec: if only { &specs[0] } else { "" },
            images: &images,
            layer: if only { layers[0].as_deref() } else { None },
            containers: &containers,
        };
        Ok(write(&parts, ask.format, ask.force, told)?)
    }

    /// Ends what is held without a packet. A workload's packets stay held, so that its clients wait.
    fn end(&self, held: Held, traffic: &mut TrafficSide<'_>, id: &str) -> Result<(), NotDone> {
        let limit = Limit::seconds(FREEZE_SECONDS);
        held.commit(&limit).map_err(|e| e.within("end the service, whose checkpoint is written"))?;
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

fn let_run(held: Held, traffic: &mut TrafficSide<'_>) -> Result<(), PartError> {
    let thawed = match held.rollback() {
        (released, Ok(())) => released.thaw(),
        // Dropping it thaws it, as far as that goes.
        (released, Err(error)) => {
            drop(released);
            Err(error)
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
