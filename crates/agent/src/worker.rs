//! A thread that owns one side of one migration, and does what it is asked in order.
//!
//! Steps block (CRIU, memory, files) and some of what they hold belongs to a thread; the server's own thread only waits for
//! their answers. A step that panics is an error of that step: what it was working on stays, because dropping it would
//! decide something.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

type Job<W> = Box<dyn FnOnce(&mut W) + Send>;

/// Somebody to ask; the thread ends when all of these are gone.
pub(crate) struct Worker<W>(mpsc::Sender<Job<W>>);

impl<W> Clone for Worker<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: 'static> Worker<W> {
    /// Starts the thread; what it owns is made there.
    pub(crate) fn start(name: &str, make: impl FnOnce() -> W + Send + 'static) -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job<W>>();
        thread::Builder::new().name(name.into()).spawn(move || {
            let mut work = make();
            for job in jobs {
                // The asker sees that no answer came; the panic's message is in the log.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut work)));
            }
        })?;
        Ok(Self(sender))
    }

    /// Asks for a step; none when it panicked.
    pub(crate) async fn run<T: Send + 'static>(&self, step: impl FnOnce(&mut W) -> T + Send + 'static) -> Option<T> {
        self.begin(|work, answer| _ = answer.send(step(work))).await
    }

    /// Asks for a step that answers before it is through.
    pub(crate) async fn begin<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut W, oneshot::Sender<T>) + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.ask(move |work| step(work, sender));
        answer.await.ok()
    }

    /// Asks for a step that answers in a way of its own.
    pub(crate) fn ask(&self, step: impl FnOnce(&mut W) + Send + 'static) {
        // The thread lives as long as this does.
        let _ = self.0.send(Box::new(step));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_run_in_order_and_one_that_panics_harms_no_other() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let worker = Worker::start("test", Vec::new).unwrap();
        worker.ask(|list: &mut Vec<u32>| list.push(1));
        assert_eq!(runtime.block_on(worker.run(|_| -> u32 { panic!("on purpose") })), None);
        worker.ask(|list| list.push(2));
        assert_eq!(runtime.block_on(worker.run(|list| list.clone())), Some(vec![1, 2]));
    }
}
