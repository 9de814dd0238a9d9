//! The testbed's parts of a migration: CRIU on either node, the images over the backhaul, the packets at the gateway.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use godwit_criu::{
    DumpOptions, FrozenDump, HeldDump, HeldRestore, ImagesDir, Limit, PreparedDump, PreparedRestore, ReleasedDump,
    RestoreOptions, RestorePlan, RestoredContainer,
};
use godwit_migration::{NoPages, PartError, Receiver, Sender, Side, Source, StreamError, Target, Traffic};
use godwit_model::{Bytes, CopyRound};
use godwit_net::Rule;

use crate::backhaul;
use crate::container::Container;
use crate::network::{Network, NodeNet, ServiceNet};
use crate::node::Node;

/// How long a step outside the freeze may take.
const STAGE_LIMIT: Duration = Duration::from_secs(30);
/// How long a step inside the freeze may take before the migration is rolled back.
const FREEZE_LIMIT: Duration = Duration::from_secs(30);
/// Before the holds' own rules.
const FENCE_PRIORITY: u32 = 50;

/// What source and target tell each other before the freeze.
#[derive(Debug, Default)]
pub(crate) struct Between {
    plan: Option<RestorePlan>,
    stream: Option<Sender<TcpStream>>,
}

pub(crate) type Shared = Rc<RefCell<Between>>;

fn part(what: &'static str) -> impl FnOnce(godwit_criu::Error) -> PartError {
    move |e| PartError::caused_by(what, e)
}

fn net(what: &'static str) -> impl FnOnce(godwit_net::NetError) -> PartError {
    move |e| PartError::caused_by(what, e)
}

fn illegal(step: &str) -> PartError {
    PartError::new(format!("{step} came out of order: this is a bug in Godwit"))
}

/// How far the source is.
enum SourceState {
    Running,
    Prepared(PreparedDump),
    Frozen(FrozenDump),
    Held(HeldDump),
    Released(ReleasedDump),
    /// Ended after the commit, or in a state that a failed step has left behind.
    Gone,
}

/// The workload on the node where it runs.
pub(crate) struct SourceSide<'a> {
    pub(crate) node: &'a Node,
    pub(crate) container: &'a Container,
    images: PathBuf,
    between: Shared,
    state: SourceState,
}

impl<'a> SourceSide<'a> {
    pub(crate) fn new(node: &'a Node, container: &'a Container, migration: u64, between: Shared) -> Self {
        let images = node.host_path(container.images(migration));
        Self { node, container, images, between, state: SourceState::Running }
    }

    fn take(&mut self) -> SourceState {
        std::mem::replace(&mut self.state, SourceState::Gone)
    }
}

impl Source for SourceSide<'_> {
    fn preflight(&mut self) -> Result<(), PartError> {
        let id = self.container.name.as_str();
        let obstacles = godwit_criu::preflight(&self.node.env(), id, &Limit::within(STAGE_LIMIT))
            .map_err(part("it cannot be looked at"))?;
        if obstacles.is_empty() {
            return Ok(());
        }
        let list = obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(PartError::new(format!("CRIU cannot carry {id}: {list}")))
    }

    fn stage(&mut self) -> Result<(), PartError> {
        let images = ImagesDir::create(&self.images).map_err(part("make room for the images"))?;
        let dump = PreparedDump::new(
            &self.node.env(),
            self.container.name.as_str(),
            images,
            DumpOptions::default(),
            &Limit::within(STAGE_LIMIT),
        )
        .map_err(part("prepare the dump"))?;
        self.between.borrow_mut().plan = Some(dump.plan().clone());
        self.state = SourceState::Prepared(dump);
        Ok(())
    }

    fn freeze(&mut self) -> Result<(), PartError> {
        let SourceState::Prepared(dump) = self.take() else { return Err(illegal("the freeze")) };
        // A failed freeze has thawed by itself.
        let frozen = dump.freeze(&Limit::within(FREEZE_LIMIT)).map_err(part("freeze it"))?;
        self.state = SourceState::Frozen(frozen);
        Ok(())
    }

    fn precopy(&mut self, _told: &mut dyn FnMut(CopyRound) -> bool) -> Result<(), PartError> {
        Ok(())
    }

    fn dump(&mut self) -> Result<Option<CopyRound>, PartError> {
        let SourceState::Frozen(frozen) = self.take() else { return Err(illegal("the dump")) };
        match frozen.dump(&Limit::within(FREEZE_LIMIT)) {
            Ok(held) => {
                self.state = SourceState::Held(held);
                Ok(None)
            }
            Err(failed) => {
                let failed = *failed;
                self.state = SourceState::Released(failed.back);
                Err(part("dump it")(failed.error))
            }
        }
    }

    fn send(&mut self) -> Result<Bytes, PartError> {
        let Some(mut stream) = self.between.borrow_mut().stream.take() else { return Err(illegal("the transfer")) };
        let sent = stream.dir(&self.images, |name| !name.ends_with(".log")).and_then(|()| stream.finish());
        sent.map_err(|e| PartError::caused_by("send the images", e))
    }

    fn discard(&mut self) -> Result<(), PartError> {
        match self.take() {
            SourceState::Held(held) => {
                held.commit(&Limit::within(FREEZE_LIMIT)).map_err(part("end the frozen copy"))?;
                Ok(())
            }
            // Tried again: CRIU's hold is gone, so whatever is left of the container is killed by its runtime.
            SourceState::Gone => self.container.delete(&self.node.env()).map_err(part("kill the frozen copy")),
            other => {
                self.state = other;
                Err(illegal("the end of the source"))
            }
        }
    }

    fn drain(&mut self) -> Result<(), PartError> {
        self.container.delete(&self.node.env()).map_err(part("remove the source's container"))?;
        remove_dir(&self.images)
    }

    fn thaw(&mut self) -> Result<(), PartError> {
        let released = match self.take() {
            SourceState::Running | SourceState::Gone => Ok(()),
            SourceState::Prepared(dump) => {
                drop(dump);
                Ok(())
            }
            SourceState::Frozen(frozen) => frozen.thaw().map_err(part("thaw it")),
            SourceState::Held(held) => match held.rollback() {
                Ok(released) => released.thaw().map_err(part("thaw it")),
                Err(failed) => {
                    let failed = *failed;
                    self.state = SourceState::Released(failed.back);
                    Err(part("take it back from CRIU")(failed.error))
                }
            },
            SourceState::Released(released) => released.thaw().map_err(part("thaw it")),
        };
        released?;
        let removed = remove_dir(&self.images);
        if let Err(error) = removed {
            tracing::warn!(error = error.chain(), "left behind");
        }
        Ok(())
    }
}

fn remove_dir(path: &std::path::Path) -> Result<(), PartError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(PartError::caused_by(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// How far the target is.
enum TargetState {
    Empty,
    Prepared(PreparedRestore),
    Held(HeldRestore),
    Running(RestoredContainer),
    Settled,
}

/// The workload on the node to which it goes.
pub(crate) struct TargetSide<'a> {
    pub(crate) node: &'a Node,
    pub(crate) container: &'a Container,
    pub(crate) from: &'a NodeNet,
    pub(crate) to: &'a NodeNet,
    images: PathBuf,
    between: Shared,
    receiver: Option<JoinHandle<Result<Bytes, StreamError>>>,
    state: TargetState,
}

impl<'a> TargetSide<'a> {
    pub(crate) fn new(
        node: &'a Node,
        container: &'a Container,
        from: &'a NodeNet,
        to: &'a NodeNet,
        migration: u64,
        between: Shared,
    ) -> Self {
        let images = node.host_path(container.images(migration));
        Self { node, container, from, to, images, between, receiver: None, state: TargetState::Empty }
    }

    /// Joins the two nodes over the backhaul and starts to receive.
    fn connect(&mut self) -> Result<(), PartError> {
        let (stream, mut incoming) = backhaul::connect(self.from, self.to)?;
        let dir = self.images.clone();
        let receive = move || Receiver::new(&mut incoming, &dir).run(&mut NoPages);
        let receiver = thread::Builder::new().name("images".into()).spawn(receive);
        let receiver = receiver.map_err(|e| PartError::caused_by("start to receive", e))?;
        self.receiver = Some(receiver);
        let sender = Sender::new(stream).map_err(|e| PartError::caused_by("start to send", e))?;
        self.between.borrow_mut().stream = Some(sender);
        Ok(())
    }
}

impl Target for TargetSide<'_> {
    fn preflight(&mut self) -> Result<(), PartError> {
        let free = self.node.size().memory.0.saturating_sub(self.node.cgroup().memory().map_or(0, |m| m.0));
        if free < self.container.memory.0 {
            return Err(PartError::new(format!(
                "{} has {} of memory left, {} holds {}",
                self.node.name(),
                Bytes(free),
                self.container.name,
                self.container.memory
            )));
        }
        Ok(())
    }

    fn stage(&mut self) -> Result<(), PartError> {
        let Some(plan) = self.between.borrow().plan.clone() else { return Err(illegal("the target's stage")) };
        let images = ImagesDir::create(&self.images).map_err(part("make room for the images"))?;
        let restore = PreparedRestore::new(
            &self.node.env(),
            self.container.name.as_str(),
            images,
            &plan,
            RestoreOptions::new(self.container.bundle()),
            &Limit::within(STAGE_LIMIT),
        )
        .map_err(part("prepare the restore"))?;
        self.state = TargetState::Prepared(restore);
        self.connect()
    }

    fn received(&mut self) -> Result<(), PartError> {
        let Some(receiver) = self.receiver.take() else { return Err(illegal("the receipt")) };
        match receiver.join() {
            Ok(result) => result.map(drop).map_err(|e| PartError::caused_by("receive the images", e)),
            Err(_) => Err(PartError::new("the receiver of the images panicked")),
        }
    }

    fn restore(&mut self) -> Result<(), PartError> {
        let TargetState::Prepared(restore) = std::mem::replace(&mut self.state, TargetState::Empty) else {
            return Err(illegal("the restore"));
        };
        // A failed restore has cleaned up behind itself.
        let held = restore.restore(&Limit::within(FREEZE_LIMIT)).map_err(part("restore it"))?;
        self.state = TargetState::Held(held);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), PartError> {
        let TargetState::Held(held) = std::mem::replace(&mut self.state, TargetState::Empty) else {
            return Err(illegal("the resumption"));
        };
        let running = held.resume(&Limit::within(FREEZE_LIMIT)).map_err(part("let it run"))?;
        self.state = TargetState::Running(running);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), PartError> {
        let TargetState::Running(running) = std::mem::replace(&mut self.state, TargetState::Settled) else {
            return Err(illegal("the settling"));
        };
        running.finish(&Limit::within(STAGE_LIMIT)).map_err(part("make it an ordinary container"))?;
        remove_dir(&self.images)
    }

    fn abort(&mut self) -> Result<(), PartError> {
        // Ends the receiver, if the source never sent.
        drop(self.between.borrow_mut().stream.take());
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.join();
        }
        let ended = match std::mem::replace(&mut self.state, TargetState::Empty) {
            TargetState::Empty => Ok(()),
            TargetState::Prepared(restore) => restore.cancel().map_err(part("take the target's container away")),
            TargetState::Held(held) => held.abort().map_err(part("end the target's copy")),
            TargetState::Running(_) | TargetState::Settled => Err(illegal("the abort")),
        };
        ended.and(remove_dir(&self.images))
    }
}

/// The service address.
pub(crate) struct TrafficSide<'a> {
    pub(crate) network: &'a Network,
    pub(crate) service: &'a ServiceNet,
    pub(crate) from: &'a NodeNet,
    pub(crate) to: &'a NodeNet,
    pub(crate) towards_source: godwit_net::RouteTo,
    pub(crate) towards_target: godwit_net::RouteTo,
    pub(crate) released: Option<Side>,
    pub(crate) fenced: bool,
}

impl TrafficSide<'_> {
    fn fence_rule(&self) -> Rule {
        Rule::drop_v4(FENCE_PRIORITY).iif(&self.service.dev)
    }

    fn unfence(&mut self) -> Result<(), PartError> {
        if self.fenced {
            self.from.netlink.del_rule(&self.fence_rule()).map_err(net("take the source's fence away"))?;
            self.fenced = false;
        }
        Ok(())
    }
}

impl Traffic for TrafficSide<'_> {
    fn stage(&mut self) -> Result<(), PartError> {
        let ip = self.service.ip();
        self.to.netlink.replace_route(&self.service.local().route(ip)).map_err(net("the target's route to its copy"))
    }

    /// At the node first, which catches what is under way to it; then at the gateway.
    fn hold(&mut self) -> Result<(), PartError> {
        let ip = self.service.ip();
        self.from.hold.capture(ip).map_err(net("hold packets at the source"))?;
        self.network.hold.capture(ip).map_err(net("hold packets at the gateway"))
    }

    /// Drops what comes out of the service's namespace on the source.
    fn fence(&mut self) -> Result<(), PartError> {
        self.from.netlink.add_rule(&self.fence_rule()).map_err(net("fence the source in"))?;
        self.fenced = true;
        Ok(())
    }

    fn release(&mut self, to: Side) -> Result<(), PartError> {
        let ip = self.service.ip();
        match to {
            Side::Target => {
                let caught = self.from.hold.take(ip).map_err(net("take what was on its way"))?;
                self.network.hold.prepend(ip, caught).map_err(net("replay what was on its way"))?;
                self.network.hold.release(ip, &self.towards_target).map_err(net("switch the gateway's route"))?;
            }
            Side::Source => {
                self.unfence()?;
                self.from.hold.release(ip, &self.service.local()).map_err(net("give packets back to the source"))?;
                self.network.hold.release(ip, &self.towards_source).map_err(net("switch the gateway's route back"))?;
            }
        }
        self.released = Some(to);
        Ok(())
    }

    /// Stragglers on their way to the source go back to the gateway, which knows better now.
    fn drain(&mut self) -> Result<(), PartError> {
        let ip = self.service.ip();
        if self.released != Some(Side::Target) {
            return Ok(());
        }
        self.unfence()?;
        let on = self.from.back_to_gateway();
        self.from.hold.release(ip, &on).map(drop).map_err(net("send stragglers on"))
    }
}
