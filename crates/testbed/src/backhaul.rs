//! A connection from node to node, over the network that has no users on it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use godwit_migration::PartError;

use crate::network::NodeNet;

/// How long the stream may stall.
const STALL: Duration = Duration::from_secs(10);

/// Both ends: the source's, the target's.
pub(crate) fn connect(from: &NodeNet, to: &NodeNet) -> Result<(TcpStream, TcpStream), PartError> {
    let failed = |what: &str| {
        let what = format!("{what} over the backhaul");
        move |e| PartError::caused_by(what, e)
    };
    let enter = |what| move |e| PartError::caused_by(what, e);
    let listener = (to.netns)
        .enter(|| TcpListener::bind((to.backhaul(), 0)))
        .map_err(enter("enter the target's network"))?
        .map_err(failed("listen"))?;
    let address: SocketAddr = listener.local_addr().map_err(failed("listen"))?;
    let stream = (from.netns)
        .enter(|| TcpStream::connect_timeout(&address, STALL))
        .map_err(enter("enter the source's network"))?
        .map_err(failed("connect"))?;
    let (incoming, _) = listener.accept().map_err(failed("accept"))?;
    for end in [&stream, &incoming] {
        end.set_nodelay(true).map_err(failed("set up the stream"))?;
        end.set_write_timeout(Some(STALL)).map_err(failed("set up the stream"))?;
    }
    stream.set_read_timeout(Some(STALL)).map_err(failed("set up the stream"))?;
    Ok((stream, incoming))
}
