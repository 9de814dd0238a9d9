//! TODO
#![allow(unreachable_pub, reason = "a test binary has no outside; pub says what its modules use of each other")]

#[path = "../e2e/mod.rs"]
mod e2e;
use std::process::ExitCode;
fn main() -> ExitCode {
    e2e::run(e2e::Needs::Testbed, vec![])
}
