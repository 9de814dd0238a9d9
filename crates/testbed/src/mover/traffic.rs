//! The service address: who gets its packets.

use godwit_migration::{PartError, Side, Traffic};
use godwit_net::{Hop, NetError, Netns, OrphanPath, RouteTo, Rule};

use super::door;
use crate::network::{Network, NodeNet, ServiceNet};

/// Before the holds' own rules.
const FENCE_PRIORITY: u32 = 50;

fn net(what: &'static str) -> impl FnOnce(NetError) -> PartError {
    move |e| PartError::caused_by(what, e)
}

/// The service address.
pub(crate) struct TrafficSide<'a> {
    pub(crate) network: &'a Network,
    pub(crate) service: &'a ServiceNet,
    /// The service's namespace on the source; none for a copy, at whose door nobody is waited for.
    pub(crate) inside: Option<&'a Netns>,
    pub(crate) from: &'a NodeNet,
    pub(crate) to: &'a NodeNet,
    pub(crate) towards_source: RouteTo,
    pub(crate) towards_target: RouteTo,
    pub(crate) released: Option<Side>,
    /// The service's namespace on the source.
    pub(crate) place: Result<Netns, NetError>,
    pub(crate) fenced: bool,
    /// The way of connections that the service has closed, which no dump has.
    pub(crate) orphans: Option<OrphanPath>,
}

impl TrafficSide<'_> {
    /// The workload has ended and may come back: what is for it is held at the gateway, and nowhere else.
    pub(crate) fn park(&mut self) -> Result<(), PartError> {
        let ip = self.service.ip();
        let caught = self.from.hold.take(ip).map_err(net("take what was on its way"))?;
        self.network.hold.prepend(ip, caught).map_err(net("hold what was on its way"))?;
        self.unfence()?;
        self.keep_orphans();
        let on = self.from.back_to_gateway();
        self.from.hold.release(ip, &on).map(drop).map_err(net("send stragglers back to the gateway"))
    }

    /// A failure is told, no more: it would reset connections that are over for the service.
    fn lead_orphans(&mut self) {
        let ip = self.service.ip();
        let hops = || {
            Ok(vec![
                Hop::new(self.network.gateway(), self.towards_source.clone())?,
                Hop::new(&self.from.netns, self.service.local())?.let_out(&self.service.dev),
            ])
        };
        let led = match &self.place {
            Ok(place) => OrphanPath::lead(place, ip, hops),
            Err(error) => return tracing::warn!(%error, "connections that are being closed may be reset"),
        };
        match led {
            Ok(path) => self.orphans = Some(path),
            Err(error) => tracing::warn!(%error, "connections that are being closed may be reset"),
        }
    }

    fn keep_orphans(&mut self) {
        if let Some(path) = self.orphans.take() {
            self.network.keep_orphans(path);
        }
    }

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

    fn close_the_door(&mut self) -> Result<(), PartError> {
        let Some(inside) = self.inside else { return Ok(()) };
        let ip = self.service.ip();
        let closed = self.from.hold.capture_connects(ip, &self.service.local());
        closed.map_err(net("hold new connections at the source"))?;
        door::wait_until_nobody_stands_in_it(inside).map_err(net("look at the service's connections"))
    }

    /// At the node first, which catches what is under way to it; then at the gateway.
    fn hold(&mut self) -> Result<(), PartError> {
        let ip = self.service.ip();
        self.from.hold.capture(ip).map_err(net("hold packets at the source"))?;
        self.network.hold.capture(ip).map_err(net("hold packets at the gateway"))
    }

    /// Drops what comes out of the service's namespace on the source, but for connections that are no longer the service's.
    fn fence(&mut self) -> Result<(), PartError> {
        self.from.netlink.add_rule(&self.fence_rule()).map_err(net("fence the source in"))?;
        self.fenced = true;
        self.lead_orphans();
        Ok(())
    }

    fn release(&mut self, to: Side) -> Result<(), PartError> {
        let ip = self.service.ip();
        match to {
            Side::Target => {
                let caught = self.from.hold.take(ip).map_err(net("take what was on its way"))?;
                self.network.hold.prepend(ip, caught).map_err(net("replay what was on its way"))?;
                self.network.hold.release(ip, &self.towards_target).map_err(net("switch the gateway's route"))?;
                self.keep_orphans();
            }
            Side::Source => {
                self.unfence()?;
                self.orphans = None;
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
