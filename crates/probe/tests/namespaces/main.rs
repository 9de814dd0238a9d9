//! The prober against real users: each test makes a node and a user of its own (network namespaces; needs root, and
//! skips loudly without).

mod icmp;
mod tcp;
mod world;
