//! A file into a workload, or a copy of one.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use godwit_agent::Units;
use godwit_agent::restores::{NotResumed, Prepared, Running};
use godwit_checkpoint::{Manifest, Unpacked, unpack};
use godwit_criu::{Connections, Limit, RestoreOptions, RestorePlan};
use godwit_migration::PartError;
use godwit_model::{Bytes, WorkloadName};
use godwit_net::{Netns, Room, SockDiag};

use super::engine::{self, Place};
use super::registry::Copied;
use super::{NotDone, RestoreCheckpoint, Restored, Scratch, TcpChoice, Told, layer, net, part};
use crate::container::{Container, MadeOf, MadeOfOne};
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

    /// What its containers were made of, as far as this testbed has it.
    fn made_of(&self) -> Result<MadeOf, NotDone> {
        let Some(manifest) = &self.unpacked.manifest else {
            let containers = vec![MadeOfOne { contents: Contents::of_node_image(), ..MadeOfOne::default() }];
            return Ok(MadeOf { volumes: Vec::new(), containers });
        };
        let volumes: Vec<PathBuf> = manifest.volumes.iter().map(PathBuf::from).collect();
        let mut containers = Vec::new();
        for container in &manifest.containers {
            let contents = self.contents(container.own_image.then_some(&container.image))?;
            if container.volumes.iter().any(|number| *number >= volumes.len()) {
                return Err(NotDone::Refused(format!("container {} has a volume that is not there", container.name)));
            }
            let (name, volumes) = (Some(container.name.clone()), container.volumes.clone());
            containers.push(MadeOfOne { name, contents, volumes });
        }
        if containers.is_empty() {
            let contents = self.contents(manifest.own_image.then_some(&manifest.image))?;
            containers.push(MadeOfOne { name: None, contents, volumes: (0..volumes.len()).collect() });
        }
        Ok(MadeOf { volumes, containers })
    }

    /// With an image of its own, or the node's.
    fn contents(&self, image: Option<&String>) -> Result<Contents, NotDone> {
        let Some(image) = image else { return Ok(Contents::of_node_image()) };
        let made_of = self.testbed.containers().flat_map(|container| container.made_of().containers);
        let mut contents = made_of.map(|one| one.contents);
        contents.find(|contents| contents.image.as_deref() == Some(Path::new(image))).ok_or_else(|| {
            NotDone::Refused(format!(
                "the checkpoint's image {image} is not on the nodes of this testbed: a workload of its scenario has to have it"
            ))
        })
    }

    fn copy(&self, name: &WorkloadName, slot: usize) -> Result<Done, NotDone> {
        let manifest = self.unpacked.manifest.as_ref();
        let old: Option<SocketAddr> = manifest.and_then(|manifest| manifest.service.parse().ok());
        let made_of = self.made_of()?;
        let memory = Bytes(manifest.map_or(0, |manifest| manifest.declared_memory_bytes));
        let port = old.map_or(NO_PORT, |old| old.port());
        let container = Container::of_checkpoint(name, port, memory, made_of);
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
        if !container.made_of().is_like(&self.made_of()?) {
            let why = "the checkpoint has other containers, images or volumes than the scenario; restore it as a copy: --as NAME";
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
        // Clients may have gone on for long, by datagrams.
        let _room = SockDiag::open(network.service_netns(self.node.name(), name)).and_then(|all| Room::make(&all));
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
    ) -> Result<(Running, Vec<String>), NotDone> {
        service.lead(&self.net.netlink, &service.local()).map_err(net("the node's route to it"))?;
        let netns = self.testbed.network().service_netns(self.node.name(), &container.name);
        let specs = container.bundles().map(|bundle| self.node.host_path(bundle.join("config.json")));
        let before: Vec<(PathBuf, Option<Vec<u8>>)> = specs.map(|path| (path.clone(), fs::read(path).ok())).collect();
        let brought = self.bring(container, netns, connections);
        if brought.is_err() {
            // The node can take it as it was before.
            before.iter().for_each(|(path, text)| _ = text.as_ref().map(|text| fs::write(path, text)));
        }
        brought
    }

    /// Root file system, configuration, runc's shell, CRIU. On an error no process of it is there.
    fn bring(
        &self,
        container: &Container,
        netns: &Netns,
        connections: Connections,
    ) -> Result<(Running, Vec<String>), NotDone> {
        let limit = Limit::seconds(LIMIT_SECONDS);
        container.clear_root(self.node).map_err(part("clear its root file system"))?;
        let unpacked = &self.unpacked;
        let one = [&unpacked.layer];
        let layers = unpacked.containers.iter().map(|container| &container.layer);
        let layers = one.into_iter().filter(|_| !container.is_several()).chain(layers);
        for (bundle, layer) in container.bundles().zip(layers) {
            let upper = self.node.host_path(bundle.join("upper"));
            layer::load(layer.as_deref(), &unpacked.deleted, &upper, &limit)?;
        }
        let layout = &container.layout;
        let volumes = layout.places().map(|place| self.node.host_path(container.bundle().join(place)));
        layer::load_volumes(volumes, &unpacked.images, &limit)?;
        container.mount_root(self.node).map_err(part("mount its root file system"))?;
        if container.is_several() {
            container.make_namespaces(self.node).map_err(part("make its containers' common namespaces"))?;
        }
        let path = self.node.host_path(container.bundle());
        layout.write(&path).map_err(|e| PartError::caused_by(format!("write into {}", path.display()), e))?;

        let (mut plans, mut notes) = (Vec::new(), Vec::new());
        for (number, (bundle, cgroup)) in container.bundles().zip(container.groups(self.node)).enumerate() {
            let (plan, noted) = self.configure(container, number, &bundle, netns, &cgroup.oci_path())?;
            plans.push(plan);
            notes.extend(noted);
        }
        let netns_key = unpacked.manifest.is_none().then(|| engine::NETNS_KEY.to_owned());
        let options = |bundle: &Path| {
            let netns_key = netns_key.clone();
            RestoreOptions { connections, netns_key, ..RestoreOptions::new(bundle) }
        };
        let units = Units::at(&self.node.env(), container.name.as_str(), &container.bundle())?;
        let prepared = Prepared::new(&units, &unpacked.images, &plans, options, &limit)?;
        let held = prepared.restore(&limit).map_err(|error| {
            let text = error.chain();
            let is_other_file = ["bad size", "build-ID", "build-id"].iter().any(|sign| text.contains(sign));
            let next =
                if is_other_file { " (the node's image has another version of a file that it had open)" } else { "" };
            error.within(format!("bring it back{next}"))
        })?;
        let running = held.resume(&units, &limit).map_err(|NotResumed { error, .. }| error)?;
        Ok((running, notes))
    }

    /// Writes the configuration of one container. What its restore needs to know, and what is not as it was.
    fn configure(
        &self,
        container: &Container,
        number: usize,
        bundle: &Path,
        netns: &Netns,
        cgroup: &str,
    ) -> Result<(RestorePlan, Vec<String>), NotDone> {
        let rootfs = bundle.join("rootfs");
        let place = Place { rootfs: &rootfs, netns: netns.path(), cgroup };
        let several = self.unpacked.containers.get(number);
        let mut spec = engine::moved(several.map_or(&self.unpacked.spec, |container| &container.spec), &place)?;
        if several.is_some() {
            engine::join(&mut spec, &container.namespaces());
        }
        let layout = &container.layout;
        let volumes = layout.places().map(|place| container.bundle().join(place)).zip(&layout.volumes).enumerate();
        let own = container.made_of().containers.into_iter().nth(number).unwrap_or_default().volumes;
        let own = volumes.filter(|(volume, _)| own.contains(volume)).map(|(_, (place, inside))| (inside, place));
        engine::bind(&mut spec, own);
        let mut notes = Vec::new();
        let plan = match &self.unpacked.manifest {
            Some(manifest) => plan_of(manifest.containers.get(number).map_or(&manifest.plan, |own| &own.plan))?,
            None => {
                let dir = bundle.join("stand-ins");
                let made = engine::stand_in(&mut spec, |path| self.node.host_path(path), &dir)
                    .map_err(|e| PartError::caused_by("stand in for mounts of its host", e))?;
                notes.extend(made.into_iter().map(|at| format!("{at} is empty: what was mounted there is not here")));
                engine::plan(&spec, &self.unpacked.images)
            }
        };
        let config = self.node.host_path(bundle.join("config.json"));
        fs::write(&config, spec.to_string())
            .map_err(|e| PartError::caused_by(format!("write {}", config.display()), e))?;
        Ok((plan, notes))
    }

    /// It runs: what fails now is no failure of the restore.
    fn settle(&self, running: Running) {
        if let Err(error) = running.finish(&Limit::seconds(LIMIT_SECONDS)) {
            tracing::warn!(error = error.chain(), "left behind after a restore");
        }
    }
}

fn plan_of(plan: &serde_json::Value) -> Result<RestorePlan, NotDone> {
    serde_json::from_value(plan.clone())
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
