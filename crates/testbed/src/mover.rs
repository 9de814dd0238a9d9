//! The testbed's parts of a migration: CRIU on either node, images and memory over the backhaul, packets at the gateway.

mod precopy;
mod source;
mod target;
mod traffic;

use std::cell::RefCell;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use godwit_criu::RestorePlan;
use godwit_migration::PartError;
use godwit_transport::Sender;

pub(crate) use source::SourceSide;
pub(crate) use target::TargetSide;
pub(crate) use traffic::TrafficSide;

/// How long a step outside the freeze may take.
const STAGE_LIMIT: Duration = Duration::from_secs(30);
/// How long a step inside the freeze may take before the migration is rolled back.
const FREEZE_LIMIT: Duration = Duration::from_secs(30);

/// What source and target tell each other before the freeze.
#[derive(Debug, Default)]
pub(crate) struct Between {
    plan: Option<RestorePlan>,
    stream: Option<Sender<TcpStream>>,
}

pub(crate) type Shared = Rc<RefCell<Between>>;

fn part(what: &'static str) -> impl FnOnce(godwit_criu::Error) -> PartError {
    move |e| PartError::caused_by(what, e)
}

fn illegal(step: &str) -> PartError {
    PartError::new(format!("{step} came out of order: this is a bug in Godwit"))
}

fn remove_dir(path: &Path) -> Result<(), PartError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(PartError::caused_by(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
