//! The service address: who gets its packets.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use godwit_migration::{PartError, Side, Traffic};
use godwit_net::{Hop, NetError, OrphanPath, Packet, PacketHold, Room, RouteTo, Rule, SockDiag, unread_datagrams};

use super::door;
use crate::network::{Network, NodeNet, ServiceNet};

/// Before the holds' own rules.
const FENCE_PRIORITY: u32 = 50;
/// How long a service that is not frozen yet may take for the datagrams that it has got. What is left is carried over.
const READ_PATIENCE: Duration = Duration::from_millis(5);
/// Between two looks at them.
const READ_PAUSE: Duration = Duration::from_micros(200);
/// When the service at its new place has more than this to read, its sockets get room for all that comes: about a third of
/// what a socket takes by default, in the kernel's count.
const MUCH_UNREAD: u64 = 64 << 10;

fn net(what: &'static str) -> impl FnOnce(NetError) -> PartError {
    move |e| PartError::caused_by(what, e)
}

fn not_led(error: &NetError) {
    tracing::warn!(%error, "connections that are being closed may be reset");
}

/// The service address, of each family.
pub(crate) struct TrafficSide<'a> {
    pub(crate) network: &'a Network,
    pub(crate) service: &'a ServiceNet,
    /// At the door of a copy nobody is waited for.
    pub(crate) is_copy: bool,
    pub(crate) from: &'a NodeNet,
    pub(crate) to: &'a NodeNet,
    pub(crate) towards_source: RouteTo,
    pub(crate) towards_target: RouteTo,
    pub(crate) released: Option<Side>,
    /// The sockets of the service's namespace on the source.
    pub(crate) sockets: Result<SockDiag, NetError>,
    pub(crate) fenced: bool,
    /// The ways of connections that the service has closed, which no dump has.
    pub(crate) orphans: Vec<OrphanPath>,
    /// Datagrams that the service has got and not read, which no dump has either.
    pub(crate) unread: Vec<Packet>,
    /// Those of its namespace on the target; none for a checkpoint.
    pub(crate) sockets_there: Option<SockDiag>,
    /// While packets are replayed, and the service may not have read them yet.
    pub(crate) room: Option<Room>,
}

impl TrafficSide<'_> {
    /// The workload has ended and may come back: what is for it is held at the gateway, and nowhere else.
    pub(crate) fn park(&mut self) -> Result<(), PartError> {
        self.service.put_before(&self.from.hold, &self.network.hold).map_err(net("hold what was on its way"))?;
        self.put_unread_first()?;
        self.unfence()?;
        self.keep_orphans();
        let on = self.from.back_to_gateway();
        self.service.release(&self.from.hold, &on).map_err(net("send stragglers back to the gateway"))
    }

    /// A failure is told, no more: it would reset connections that are over for the service.
    fn lead_orphans(&mut self) {
        let hops = || {
            Ok(vec![
                Hop::new(self.network.gateway(), self.towards_source.clone())?,
                Hop::new(&self.from.netns, self.service.local())?.let_out(&self.service.dev),
            ])
        };
        let Ok(sockets) = self.sockets.as_ref().inspect_err(|error| not_led(error)) else { return };
        let led = self.service.ips().map(|ip| OrphanPath::lead(sockets, ip, hops));
        self.orphans = led.filter_map(|path| path.inspect_err(not_led).ok()).collect();
    }

    /// CRIU drops the datagrams that a service has not read yet. None come any more, so a moment is enough for most.
    fn let_it_read(&self) {
        let begun = Instant::now();
        let Ok(diag) = &self.sockets else { return };
        while diag.unread_datagrams().is_ok_and(|bytes| bytes > 0) && begun.elapsed() < READ_PATIENCE {
            thread::sleep(READ_PAUSE);
        }
    }

    /// Those that it still has not read, now that it stands. A failure is told, no more.
    fn read_the_rest(&mut self) {
        let services: Vec<_> = self.service.ips().collect();
        let Ok(sockets) = &self.sockets else { return };
        match unread_datagrams(sockets, &services) {
            Ok(unread) => self.unread = unread,
            Err(error) => tracing::warn!(%error, "datagrams that the service has not read are lost"),
        }
    }

    /// They came before all that is held.
    fn put_unread_first(&mut self) -> Result<(), PartError> {
        for ip in self.service.ips() {
            let of_it: Vec<_> = self.unread.extract_if(.., |packet| packet.dst() == Some(ip)).collect();
            if !of_it.is_empty() {
                self.network.hold.prepend(ip, of_it).map_err(net("replay what was not read"))?;
            }
        }
        Ok(())
    }

    /// What a hold has of the service's packets flows on, to sockets in `place` that lose none of those that come in one go.
    fn let_flow(&mut self, hold: &PacketHold, to: &RouteTo, side: Side) -> Result<(), NetError> {
        let sockets = match side {
            Side::Source => self.sockets.as_ref().ok(),
            Side::Target => self.sockets_there.as_ref(),
        };
        let room = &mut self.room;
        let mut pace = || {
            let much = |diag: &&SockDiag| diag.unread_datagrams().is_ok_and(|bytes| bytes > MUCH_UNREAD);
            if let Some(sockets) = sockets.filter(|_| room.is_none()).filter(much) {
                let made = Room::make(sockets);
                *room = made.inspect_err(|error| tracing::warn!(%error, "datagrams may be lost")).ok();
            }
        };
        for ip in self.service.ips() {
            hold.release_paced(&hold.prepare(ip, to)?, &mut pace)?;
        }
        Ok(())
    }

    fn keep_orphans(&mut self) {
        self.orphans.drain(..).for_each(|path| self.network.keep_orphans(path));
    }

    fn fence_rules(&self) -> impl Iterator<Item = Rule> + use<> {
        let of = |ip: IpAddr| if ip.is_ipv4() { Rule::drop_v4 } else { Rule::drop_v6 };
        let dev = self.service.dev.clone();
        self.service.ips().map(move |ip| of(ip)(FENCE_PRIORITY).iif(&dev))
    }

    fn unfence(&mut self) -> Result<(), PartError> {
        if self.fenced {
            for rule in self.fence_rules() {
                match self.from.netlink.del_rule(&rule) {
                    Err(e) if !e.is_not_found() => return Err(net("take the source's fence away")(e)),
                    _ => {}
                }
            }
            self.fenced = false;
        }
        Ok(())
    }
}

impl Traffic for TrafficSide<'_> {
    fn stage(&mut self) -> Result<(), PartError> {
        self.service.lead(&self.to.netlink, &self.service.local()).map_err(net("the target's route to its copy"))
    }

    fn close_the_door(&mut self) -> Result<(), PartError> {
        if self.is_copy {
            return Ok(());
        }
        let closed = self.service.capture_connects(&self.from.hold, &self.service.local());
        closed.map_err(net("hold new connections at the source"))?;
        door::wait_until_nobody_stands_in_it(&self.sockets);
        Ok(())
    }

    /// At the node first, which catches what is under way to it; then at the gateway.
    fn hold(&mut self) -> Result<(), PartError> {
        self.service.capture(&self.from.hold).map_err(net("hold packets at the source"))?;
        self.service.capture(&self.network.hold).map_err(net("hold packets at the gateway"))?;
        self.let_it_read();
        Ok(())
    }

    /// Drops what comes out of the service's namespace on the source, but for connections that are no longer the service's.
    fn fence(&mut self) -> Result<(), PartError> {
        for rule in self.fence_rules() {
            self.fenced = true;
            self.from.netlink.add_rule(&rule).map_err(net("fence the source in"))?;
        }
        self.read_the_rest();
        self.lead_orphans();
        Ok(())
    }

    fn release(&mut self, to: Side) -> Result<(), PartError> {
        let (service, from, gateway) = (self.service, self.from, &self.network.hold);
        match to {
            Side::Target => {
                service.put_before(&from.hold, gateway).map_err(net("replay what was on its way"))?;
                self.put_unread_first()?;
                let towards = self.towards_target.clone();
                self.let_flow(gateway, &towards, to).map_err(net("switch the gateway's route"))?;
                self.keep_orphans();
            }
            Side::Source => {
                self.unfence()?;
                self.orphans.clear();
                // It has them still.
                self.unread.clear();
                self.let_flow(&from.hold, &service.local(), to).map_err(net("give packets back to the source"))?;
                let towards = self.towards_source.clone();
                self.let_flow(gateway, &towards, to).map_err(net("switch the gateway's route back"))?;
            }
        }
        self.released = Some(to);
        Ok(())
    }

    /// Stragglers on their way to the source go back to the gateway, which knows better now.
    fn drain(&mut self) -> Result<(), PartError> {
        if self.released != Some(Side::Target) {
            return Ok(());
        }
        self.unfence()?;
        self.room = None;
        let on = self.from.back_to_gateway();
        self.service.release(&self.from.hold, &on).map_err(net("send stragglers on"))
    }
}
