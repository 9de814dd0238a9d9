//! Two sides over real sockets.

mod cancelled;
mod damage;
mod proxy;
mod requests;
mod resumption;
mod security;
mod sides;
mod versions;
mod whole;
