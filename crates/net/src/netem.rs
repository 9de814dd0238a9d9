//! Whether the kernel can delay packets itself.

use crate::{Netlink, Result, netns};

/// Tries whether the kernel has netem, on the loopback of a scratch namespace. An error says why not; it is no
/// reason to stop, since a [`DelayLink`](crate::DelayLink) needs none.
pub fn netem_supported() -> Result<()> {
    netns::in_scratch(|| Netlink::open_here()?.add_netem("lo"))?
}
