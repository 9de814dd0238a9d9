//! A load generator beside three migrations.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::e2e::until;
use crate::image::Server;

/// Runs `pass` again and again until the service has moved three times; each pass is a whole run of a load generator, which
/// begins and ends with connections of its own, and panics where that saw an error. How many passes there were.
pub fn beside_three_migrations(server: &Server, pass: impl Fn() + Sync) -> u64 {
    let (over, begun, ended) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let passes = || {
        while !over.load(Ordering::SeqCst) {
            begun.fetch_add(1, Ordering::SeqCst);
            pass();
            ended.fetch_add(1, Ordering::SeqCst);
        }
    };
    thread::scope(|scope| {
        let loading = scope.spawn(passes);
        // Whatever panics here must end the passes too.
        let over = EndsAtDrop(&over);
        until("the load has begun", || (begun.load(Ordering::SeqCst) > 0).then_some(()));
        for to in ["b", "a", "b"] {
            assert!(!loading.is_finished(), "the load generator has given up");
            server.bed.migrate("app", to);
        }
        drop(over);
        if let Err(panic) = loading.join() {
            std::panic::resume_unwind(panic);
        }
    });
    server.bed.assert_runs_only_on("app", "b");
    ended.into_inner()
}

struct EndsAtDrop<'a>(&'a AtomicBool);

impl Drop for EndsAtDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
