//! A file into a workload, or a copy of one.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use godwit_checkpoint::{Manifest, Unpacked, unpack};
use godwit_criu::{Connections, ImagesDir, Limit, PreparedRestore, RestoreOptions, RestorePlan, RestoredContainer};
use godwit_migration::PartError;
use godwit_model::{Bytes, WorkloadName};
use godwit_net::Netns;

use super::engine::{self, Place};
use super::registry::Copied;
use super::{NotDone, RestoreCheckpoint, Restored, Scratch, TcpChoice, Told, layer, net, part};
use crate::container::Container;
use crate::contents::Contents;
use crate::network::{NodeNet, ServiceNet};
use crate::node::Node;
use crate::world::Testbed;

const LIMIT_SECONDS: u64 = 60;
/// What a copy of an engine's container answers at, if anything; nothing of Godwit's asks there.
const NO_PORT: u16 = 0;

/// Checks all of the file, and only then makes anything that lasts. When this fails, nothing of it is left.
pub(crate) fn restore(testbed: &Testbed, ask: &RestoreCheckpoint, told: Told<'_>) -> Result<Restored, NotDone> {
    let start = Instant::now();
    let Some(node) = testbed.nodes().find(|node| *node.name() == ask.node) else {
        let known: Vec<String> = testbed.nodes().map(|node| node.name().to_string()).collect();
        return Err(NotDone::Refused(format!("there is no node {}; there is {}", ask.node, known.join(", "))));
    };
    let number = testbed.checkpoints().number();
    // On the node's tmpfs, where CRIU reads it.
    let scratch = Scratch(node.host_path(Container::scratch_of("restore", number)));
    let unpacked = unpack(&ask.path, &scratch.0, told)?;
    let manifest = unpacked.manifest.clone();
    check_host(manifest.as_ref(), node)?;
    let job = Job { testbed, node, net: testbed.network().node(&ask.node), unpacked };
    let (name, was) = names(testbed, ask, manifest.as_ref())?;
    let done = match &ask.copy {
        Some(_) => job.as_copy(&name, ask.tcp)?,
        None => job.as_itself(&name, ask.tcp)?,
    };
    Ok(Restored {
        workload: name,
        was,
        node: ask.node.clone(),
        service: done.service,
        created: manifest.map(|manifest| manifest.created).unwrap_or_default(),
        connections_kept: done.connections == Connections::Kept,
        notes: done.notes,
        total_ms: start.elapsed().as_secs_f64() * 1e3,
    })
}

/// The name to restore under, and the one that it had.
fn names(
    testbed: &Testbed,
    ask: &RestoreCheckpoint,
    manifest: Option<&Manifest>,
) -> Result<(WorkloadName, String), NotDone> {
    let refused = |why: String| Err(NotDone::Refused(why));
    let was = manifest.map(|manifest| manifest.workload.clone()).unwrap_or_default();
    if let Some(copy) = &ask.copy {
        if testbed.placement().contains_key(copy) {
            return refused(format!(
                "{copy} is a workload of this testbed; give the copy a name of its own: --as NAME"
            ));
        }
        return Ok((copy.clone(), was));
    }
    let Some(manifest) = manifest else {
        return refused(format!(
            "{} was made by a container engine, and no workload here is that container; give it a name: --as NAME",
            ask.path.display()
        ));
    };
    let name = testbed.placement().keys().find(|name| name.as_str() == manifest.workload).cloned();
    let Some(name) = name else {
        return refused(format!("this testbed has no workload {was}; restore it as a copy: --as NAME"));
    };
    let at = testbed.placement()[&name].clone();
    if testbed.container(&name).is_running(testbed.node(&at)) {
        return refused(format!(
            "{name} runs on {at}; restore a copy beside it: --as NAME, or end it first: godwit checkpoint {name} FILE --stop"
        ));
    }
    Ok((name, was))
}

fn check_host(manifest: Option<&Manifest>, node: &Node) -> Result<(), NotDone> {
    let Some(manifest) = manifest else { return Ok(()) };
    if manifest.host.arch != std::env::consts::ARCH {
        return Err(NotDone::Refused(format!(
            "the checkpoint is of an {} host, and this is {}: memory does not fit another processor",
            manifest.host.arch,
            std::env::consts::ARCH
        )));
    }
    let free = node.size().memory.0.saturating_sub(node.cgroup().memory().map_or(0, |memory| memory.0));
    let needed = manifest.declared_memory_bytes.max(manifest.memory_bytes);
    if free < needed {
        return Err(NotDone::Refused(format!(
            "{} has {} of memory left, and the checkpoint holds {}; restore it on another node",
            node.name(),
            Bytes(free),
            Bytes(needed)
        )));
    }
    Ok(())
}

struct Job<'t> {
    testbed: &'t Testbed,
    node: &'t Node,
    net: &'t NodeNet,
    unpacked: Unpacked,
}

struct Done {
    service: String,
    connections: Connections,
    notes: Vec<String>,
}

impl Job<'_> {
    fn as_copy(&self, name: &WorkloadName, tcp: TcpChoice) -> Result<Done, NotDone> {
        if tcp == TcpChoice::Keep {
            let why = "a copy has another address, at which no connection can go on; leave --tcp keep out";
            return Err(NotDone::Refused(why.into()));
        }
        let slots = self.testbed.network().slots();
        let slot = match self.testbed.checkpoints().reserve(name, slots) {
            Some(Some(slot)) => slot,
            Some(None) => return Err(NotDone::Refused("this testbed has no address left for another copy".into())),
            None => {
                let why = format!("there is a copy {name} already; give this one another name: --as NAME");
                return Err(NotDone::Refused(why));
            }
        };
        let made = self.copy(name, slot);
        if made.is_err() {
            self.testbed.checkpoints().remove(name);
        }
        made
    }

    /// What the container was made of, as far as this testbed has it.
    fn contents(&self) -> Result<(Contents, Vec<PathBuf>), NotDone> {
        let Some(manifest) = &self.unpacked.manifest else { return Ok((Contents::of_node_image(), Vec::new())) };
        let mut contents = Contents::of_node_image();
        if manifest.own_image {
            let has_it = |c: &&Contents| c.image.as_deref() == Some(Path::new(&manifest.image));
            let Some(like) = self.testbed.containers().filter_map(Container::only).find(has_it) else {
                return Err(NotDone::Refused(format!(
                    "the checkpoint's image {} is not on the nodes of this testbed: a workload of its scenario has to have it",
                    manifest.image
                )));
            };
            contents = like.clone();
        }
        Ok((contents, manifest.volumes.iter().map(PathBuf::from).collect()))
    }

    fn copy(&self, name: &WorkloadName, slot: usize) -> Result<Done, NotDone> {
        let manifest = self.unpacked.manifest.as_ref();
        let old: Option<SocketAddr> = manifest.and_then(|manifest| manifest.service.parse().ok());
        let (contents, volumes) = self.contents()?;
        let memory = Bytes(manifest.map_or(0, |manifest| manifest.declared_memory_bytes));
        let port = old.map_or(NO_PORT, |old| old.port());
        let container = Container::of_checkpoint(name, port, memory, contents, volumes);
        let network = self.testbed.network();
        let (service, netns) = network
            .add_copy(slot, name, self.node.name(), old.map(|old| old.ip()))
            .map_err(net("make a network namespace for it"))?;
        let running = self.bring(&container, &netns, Connections::Closed);
        let (running, notes) = match running {
            Ok(running) => running,
            Err(error) => {
                remove_bundle(&container, self.node);
                network.forget_copy(&service);
                return Err(error);
            }
        };
        let routed = service
            .lead(&self.net.netlink, &service.local())
            .and_then(|()| service.lead(&network.netlink, &network.towards(self.node.name())));
        routed.map_err(net("lead packets to it"))?;
        self.settle(running);
        let at = SocketAddr::new(service.ip(), container.port).to_string();
        let copy = Copied { container, node: self.node.name().clone(), service, _netns: netns };
        self.testbed.checkpoints().add(name, copy);
        Ok(Done { service: at, connections: Connections::Closed, notes })
    }

    fn as_itself(&self, name: &WorkloadName, tcp: TcpChoice) -> Result<Done, NotDone> {
        let (network, registry) = (self.testbed.network(), self.testbed.checkpoints());
        let held_for = registry.stopped_with(name);
        let id = self.unpacked.manifest.as_ref().map(|manifest| manifest.id.as_str());
        let are_held = held_for.is_some() && held_for.as_deref() == id;
        let connections = match tcp {
            TcpChoice::Keep if !are_held => {
                return Err(NotDone::Refused(format!(
                    "the connections of this checkpoint are not held any more: {}; restore it with --tcp close",
                    match held_for {
                        Some(_) => "the service was ended with another checkpoint",
                        None => "they are only for a service that was ended with its checkpoint (--stop), and once",
                    }
                )));
            }
            TcpChoice::Keep | TcpChoice::Auto if are_held => Connections::Kept,
            TcpChoice::Keep | TcpChoice::Auto | TcpChoice::Close => Connections::Closed,
        };
        let container = self.testbed.container(name);
        let (kept, volumes) = self.contents()?;
        let is_same = |own: &Contents| own.image == kept.image && container.layout.volumes == volumes;
        if !container.only().is_some_and(is_same) {
            let why =
                "the checkpoint has another image or other volumes than the scenario; restore it as a copy: --as NAME";
            return Err(NotDone::Refused(why.into()));
        }
        let service = network.service(name).clone();
        let old_place = self.testbed.placement()[name].clone();
        // What runc still knows of it, where it ended by itself.
        container.delete(&self.testbed.node(&old_place).env()).map_err(part("remove what is left of it"))?;
        service.capture(&network.hold).map_err(net("hold its packets"))?;
        let brought = self.itself(container, &service, connections);
        let (running, notes) = match brought {
            Ok(brought) => brought,
            Err(error) => {
                if held_for.is_none() {
                    let back = service.release(&network.hold, &network.towards(&old_place));
                    back.map_err(net("give its packets back"))?;
                }
                return Err(error);
            }
        };
        let released = service.release(&network.hold, &network.towards(self.node.name()));
        released.map_err(net("let its packets flow"))?;
        self.settle(running);
        if old_place != *self.node.name() {
            let old = network.node(&old_place);
            let onwards = service.lead(&old.netlink, &old.back_to_gateway());
            onwards.map_err(net("send stragglers on"))?;
        }
        registry.runs_again(name);
        self.testbed.placement().insert(name.clone(), self.node.name().clone());
        let at = self.testbed.service_address(name).to_string();
        Ok(Done { service: at, connections, notes })
    }

    fn itself(
        &self,
        container: &Container,
        service: &ServiceNet,
        connections: Connections,
    ) -> Result<(RestoredContainer, Vec<String>), NotDone> {
        service.lead(&self.net.netlink, &service.local()).map_err(net("the node's route to it"))?;
        let netns = self.testbed.network().service_netns(self.node.name(), &container.name);
        let own_spec = self.node.host_path(container.bundle().join("config.json"));
        let before = fs::read(&own_spec).ok();
        let brought = self.bring(container, netns, connections);
        if brought.is_err()
            && let Some(before) = before
        {
            // The node can take it as it was before.
            let _ = fs::write(&own_spec, before);
        }
        brought
    }

    /// Root file system, configuration, runc's shell, CRIU. On an error no process of it is there.
    fn bring(
        &self,
        container: &Container,
        netns: &Netns,
        connections: Connections,
    ) -> Result<(RestoredContainer, Vec<String>), NotDone> {
        let limit = Limit::seconds(LIMIT_SECONDS);
        let env = self.node.env();
        container.clear_root(self.node).map_err(part("clear its root file system"))?;
        let upper = self.node.host_path(container.bundle().join("upper"));
        layer::load(self.unpacked.layer.as_deref(), &self.unpacked.deleted, &upper, &limit)?;
        let layout = &container.layout;
        let volumes = layout.places().map(|place| self.node.host_path(container.bundle().join(place)));
        layer::load_volumes(volumes, &self.unpacked.images, &limit)?;
        container.mount_root(self.node).map_err(part("mount its root file system"))?;

        let cgroup = container.cgroup(self.node).oci_path();
        let rootfs = container.bundle().join("rootfs");
        let place = Place { rootfs: &rootfs, netns: netns.path(), cgroup: &cgroup };
        let mut spec = engine::moved(&self.unpacked.spec, &place)?;
        let volumes = layout.places().map(|place| container.bundle().join(place));
        engine::bind(&mut spec, layout.volumes.iter().zip(volumes));
        let mut notes = Vec::new();
        let mut options = RestoreOptions { connections, ..RestoreOptions::new(container.bundle()) };
        let plan = match &self.unpacked.manifest {
            Some(manifest) => plan_of(manifest)?,
            None => {
                options.netns_key = Some(engine::NETNS_KEY.into());
                let dir = container.bundle().join("stand-ins");
                let made = engine::stand_in(&mut spec, |path| self.node.host_path(path), &dir)
                    .map_err(|e| PartError::caused_by("stand in for mounts of its host", e))?;
                notes.extend(made.into_iter().map(|at| format!("{at} is empty: what was mounted there is not here")));
                engine::plan(&spec, &self.unpacked.images)
            }
        };
        let config = self.node.host_path(container.bundle().join("config.json"));
        fs::write(&config, spec.to_string())
            .map_err(|e| PartError::caused_by(format!("write {}", config.display()), e))?;
        let images = ImagesDir::create(&self.unpacked.images).map_err(part("open the images"))?;
        let id = container.name.as_str();
        let prepared =
            PreparedRestore::new(&env, id, images, &plan, options, &limit).map_err(part("prepare the restore"))?;
        let held = prepared.restore(&limit).map_err(|error| {
            let text = error.to_string();
            let is_other_file = ["bad size", "build-ID", "build-id"].iter().any(|sign| text.contains(sign));
            let next =
                if is_other_file { " (the node's image has another version of a file that it had open)" } else { "" };
            part(format!("restore it{next}"))(error)
        })?;
        let running = held.resume(&limit).map_err(part("let it run"))?;
        Ok((running, notes))
    }

    /// It runs: what fails now is no failure of the restore.
    fn settle(&self, running: RestoredContainer) {
        if let Err(error) = running.finish(&Limit::seconds(LIMIT_SECONDS)) {
            tracing::warn!(%error, "left behind after a restore");
        }
    }
}

fn plan_of(manifest: &Manifest) -> Result<RestorePlan, NotDone> {
    serde_json::from_value(manifest.plan.clone())
        .map_err(|e| NotDone::Refused(format!("the checkpoint's plan of its mounts cannot be read: {e}")))
}

fn remove_bundle(container: &Container, node: &Node) {
    let bundle: PathBuf = container.bundle();
    let cleared = container.clear_root(node);
    let removed = fs::remove_dir_all(node.host_path(Path::new(&bundle)));
    if let (Err(error), _) = (&cleared, &removed) {
        tracing::warn!(%error, "left behind after a restore that failed");
    }
}
