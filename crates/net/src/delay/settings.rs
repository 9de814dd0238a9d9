//! What a link does to packets, settable while it runs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One way through the link, both directions alike.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) delay: Duration,
    pub(crate) peers: HashMap<IpAddr, Duration>,
    pub(crate) jitter: Duration,
    pub(crate) loss: f64,
    pub(crate) rate: Option<u64>,
}

/// A shape that one thread changes and another one follows without taking a lock for every packet.
pub(crate) struct Settings {
    shape: Mutex<Shape>,
    version: AtomicU64,
}

impl Settings {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape: Mutex::new(shape), version: AtomicU64::new(1) }
    }

    /// Changes the shape. When this returns, no packet that is sent later is handled in the old way.
    pub(crate) fn change(&self, f: impl FnOnce(&mut Shape)) {
        let mut shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut shape);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> Shape {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The shape, if it is not of the version that is known already.
    pub(crate) fn newer_than(&self, known: &mut u64) -> Option<Shape> {
        if self.version.load(Ordering::SeqCst) == *known {
            return None;
        }
        let shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        *known = self.version.load(Ordering::SeqCst);
        Some(shape.clone())
    }
}
