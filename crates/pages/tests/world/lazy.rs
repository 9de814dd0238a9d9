//! A move without memory in the images.

#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;
use std::time::Duration;

use godwit_criu::{
    DumpOptions, FrozenDump, HeldDump, HeldRestore, MemoryMode, PreparedDump, PreparedRestore, RestoreOptions, Runc,
};
use godwit_pages::{FillOptions, LazyHandler, PageStore, Stats};

use crate::memory;
use crate::world::{BUNDLE, Node, World, limit};

/// Longer than any filling.
pub const FILLING: Duration = Duration::from_secs(30);

/// Everything is prepared, packets are blocked, and the source stands.
pub struct Frozen {
    pub dump: FrozenDump,
    pub restore: PreparedRestore,
    pub handler: LazyHandler,
    pub store: Arc<PageStore>,
}

/// Both sides up to the freeze, with packets blocked.
pub fn freeze(world: &World, from: &Node, to: &Node, images: &str, extra: &[&str]) -> Frozen {
    let options = DumpOptions { memory: MemoryMode::Lazy, ..DumpOptions::default() };
    let dump = PreparedDump::new(&from.env, "app", world.images(images), options, &limit()).expect("a prepared dump");
    to.write_bundle("app", 16, extra);
    let options = RestoreOptions { memory: MemoryMode::Lazy, ..RestoreOptions::new(BUNDLE) };
    let restore = PreparedRestore::new(&to.env, "app", world.images(images), dump.plan(), options, &limit());
    let restore = restore.expect("a prepared restore");
    let store = Arc::new(PageStore::new());
    let handler = LazyHandler::listen(restore.images().path(), store.clone(), FillOptions::default());
    let handler = handler.expect("a handler");
    from.block(true);
    to.block(true);
    let dump = dump.freeze(&limit()).expect("frozen");
    Frozen { dump, restore, handler, store }
}

impl Frozen {
    /// Copies all memory, dumps, and restores.
    pub fn restore(self) -> (HeldDump, HeldRestore, LazyHandler) {
        self.copy();
        let held = self.dump.dump(&limit()).expect("dumped");
        let restored = self.restore.restore(&limit()).expect("restored");
        (held, restored, self.handler)
    }

    /// Copies all memory into the store.
    pub fn copy(&self) {
        for member in self.dump.members().expect("members") {
            memory::store_all(&self.store, member.pid, member.host_pid);
        }
    }
}

/// A whole move, after which the source has forgotten the container.
pub fn move_between(world: &World, from: &Node, to: &Node, side: &str, images: &str, extra: &[&str]) -> Stats {
    let (held, restored, handler) = freeze(world, from, to, images, extra).restore();
    handler.check().expect("complete");
    world.route_to(side);
    let running = restored.resume(&limit()).expect("running");
    to.block(false);
    held.commit(&limit()).expect("committed");
    let stats = handler.wait_filled(FILLING).expect("filled");
    running.finish(&limit()).expect("finished");
    Runc::new(&from.env).delete("app", false, &limit()).expect("deleted");
    from.block(false);
    stats
}
