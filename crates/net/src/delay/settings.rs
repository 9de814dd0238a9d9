//! What a link does to packets, settable while it runs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// A shape that ordinary threads change and the link's thread follows.
///
/// The link's thread looks at the version only. When that has changed it takes a lock that nobody holds for longer
/// than it takes to swap a pointer, so that it does not wait for a thread that a busy machine has put aside.
pub(crate) struct Settings {
    current: Mutex<Arc<Shape>>,
    version: AtomicU64,
    changing: Mutex<()>,
}

impl Settings {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { current: Mutex::new(Arc::new(shape)), version: AtomicU64::new(1), changing: Mutex::new(()) }
    }

    /// Changes the shape. When this returns, no packet that is sent later is handled in the old way.
    pub(crate) fn change(&self, f: impl FnOnce(&mut Shape)) {
        let _turn = lock(&self.changing);
        let mut shape = Shape::clone(&self.get());
        f(&mut shape);
        let shape = Arc::new(shape);
        let old = std::mem::replace(&mut *lock(&self.current), shape);
        self.version.fetch_add(1, Ordering::SeqCst);
        drop(old);
    }

    pub(crate) fn get(&self) -> Arc<Shape> {
        Arc::clone(&lock(&self.current))
    }

    /// The shape, if it is not of the version that is known already.
    pub(crate) fn newer_than(&self, known: &mut u64) -> Option<Arc<Shape>> {
        let version = self.version.load(Ordering::SeqCst);
        // A change between the two loads is seen once more at the next packet; never is one missed.
        (version != std::mem::replace(known, version)).then(|| self.get())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
