//! The testbed's part of a migration that is not its agents': packets at the gateway.

mod door;
mod traffic;

pub(crate) use traffic::TrafficSide;
