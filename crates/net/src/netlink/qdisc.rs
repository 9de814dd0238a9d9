//! Queueing disciplines: netem, which delays packets in the kernel where the kernel has it, and one that drops them all.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{Dev, Netlink};
use crate::Result;

const TCA_OPTIONS: u16 = 2;

impl Netlink {
    /// From here on the device sends nothing: what it is given is dropped without a word, whatever route it came by. Also the
    /// loopback device, which is so without any address or connection being lost. Done already is done well.
    pub fn silence(&self, dev: impl Into<Dev>) -> Result<()> {
        let dev = dev.into();
        let mut message = self.root_of(&dev)?;
        message.attributes = vec![TcAttribute::Kind("blackhole".into())];
        self.request(Message::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE, || format!("silence {dev}"))
    }

    /// The device sends again. Done already is done well.
    pub fn unsilence(&self, dev: impl Into<Dev>) -> Result<()> {
        let dev = dev.into();
        let message = self.root_of(&dev)?;
        match self.request(Message::DelQueueDiscipline(message), 0, || format!("let {dev} send again")) {
            // What it has by itself cannot be taken away.
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
            done => done,
        }
    }

    fn root_of(&self, dev: &Dev) -> Result<TcMessage> {
        let mut message = TcMessage::with_index(self.index(dev)?.cast_signed());
        message.header.parent = TcHandle::ROOT;
        Ok(message)
    }

    /// Puts a netem without any delay at a device's root; `ENOENT` if the kernel has no netem.
    pub(crate) fn add_netem(&self, dev: impl Into<Dev>) -> Result<()> {
        let dev = dev.into();
        let mut message = TcMessage::with_index(self.index(&dev)?.cast_signed());
        message.header.parent = TcHandle::ROOT;
        // struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter.
        let mut options = vec![0; 24];
        options[4..8].copy_from_slice(&1000u32.to_ne_bytes());
        message.attributes =
            vec![TcAttribute::Kind("netem".into()), TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options))];
        self.request(Message::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("put netem on {dev}")
        })
    }
}
