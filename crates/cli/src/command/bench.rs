//! `godwit bench`.

use crate::args::Bench;
use crate::failure::{Failure, NOT_WELL, Result};

pub fn run(command: Bench) -> Result {
    let Bench::Migrate(_args) = command;
    Err(Failure::new(NOT_WELL, "to come"))
}
