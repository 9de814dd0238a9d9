//! A move without memory in the images.

#![allow(dead_code, unreachable_pub)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use godwit_criu::{
    DumpOptions, FrozenDump, HeldDump, HeldRestore, ImagesDir, MemoryMode, NodeEnv, PreparedDump, PreparedRestore,
    RestoreOptions, RestorePlan, Runc,
};
use godwit_pages::{FillOptions, HandlerProgram, LazyHandler, PageStore, Stats};

use crate::memory::{self, CHECK};
use crate::world::{BUNDLE, Client, Node, World, limit};

/// Longer than any filling.
pub const FILLING: Duration = Duration::from_secs(30);

/// Where the memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// On the target; filled when the processes run.
    Lazy,
    /// On the target; filled before the processes run.
    FilledFirst,
    /// As [`Mode::Lazy`], without a library in CRIU.
    ByCriu,
    /// In the images.
    Copied,
}

/// Everything is prepared, packets are blocked, and the source stands.
pub struct Frozen {
    pub dump: FrozenDump,
    pub restore: PreparedRestore,
    /// None when the memory is in the images.
    pub handler: Option<LazyHandler>,
    pub store: Arc<PageStore>,
}

/// A counter that runs on `a`, and its client.
pub fn running_world(image: &Path) -> (World, Client) {
    let world = World::new(image);
    world.a.run_counter("app", 16, &[]);
    let client = world.client();
    client.wait_for(10);
    (world, client)
}

/// The service runs on the source with its connection and memory, and it can be moved.
pub fn assert_unharmed(world: &World, client: Client) {
    world.b.block(false);
    client.wait_for(50);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    assert!(Runc::new(&world.b.env).list(&limit()).unwrap().is_empty(), "the target has kept something");
    move_between(world, &world.a, &world.b, "b", "again", &[]);
    client.wait_for(20);
    assert_eq!(world.ask_once(0, CHECK), 0, "wrong pages");
    client.stop().unwrap();
}

/// As an agent's: in a process of its own.
fn apart() -> FillOptions {
    let program = |path: &str| HandlerProgram { path: path.into(), args: vec!["page-handler".into()] };
    FillOptions { apart: option_env!("CARGO_BIN_EXE_pages-service").map(program), ..FillOptions::default() }
}

/// The target's side, with a store that is empty yet.
pub fn prepare(to: &NodeEnv, images: ImagesDir, plan: &RestorePlan) -> (PreparedRestore, LazyHandler, Arc<PageStore>) {
    let options = RestoreOptions { memory: MemoryMode::Lazy, ..RestoreOptions::new(BUNDLE) };
    let restore = PreparedRestore::new(to, "app", images, plan, options, &limit()).expect("a prepared restore");
    let store = Arc::new(PageStore::new());
    let handler = LazyHandler::listen(restore.images().path(), store.clone(), apart());
    (restore, handler.expect("a handler"), store)
}

/// Both sides up to the freeze, with packets blocked.
pub fn freeze(world: &World, from: &Node, to: &Node, images: &str, extra: &[&str]) -> Frozen {
    freeze_as(world, from, to, images, extra, Mode::Lazy, 2)
}

/// The same, with the memory elsewhere.
pub fn freeze_as(
    world: &World,
    from: &Node,
    to: &Node,
    images: &str,
    extra: &[&str],
    mode: Mode,
    log_level: u8,
) -> Frozen {
    let memory = if mode == Mode::Copied { MemoryMode::Copied } else { MemoryMode::Lazy };
    let library = mode != Mode::ByCriu;
    let options = DumpOptions { memory, log_level, library, ..DumpOptions::default() };
    let dump = PreparedDump::new(&from.env, "app", world.images(images), options, &limit()).expect("a prepared dump");
    to.write_bundle("app", 16, extra);
    let options = RestoreOptions { memory, log_level, ..RestoreOptions::new(BUNDLE) };
    let restore = PreparedRestore::new(&to.env, "app", world.images(images), dump.plan(), options, &limit());
    let restore = restore.expect("a prepared restore");
    let store = Arc::new(PageStore::new());
    let listen = || LazyHandler::listen(restore.images().path(), store.clone(), apart());
    let handler = (mode != Mode::Copied).then(|| listen().expect("a handler"));
    from.block(true);
    to.block(true);
    let dump = dump.freeze(&limit()).expect("frozen");
    Frozen { dump, restore, handler, store }
}

impl Frozen {
    /// Copies all memory, dumps, and restores.
    pub fn copy_and_restore(self) -> (HeldDump, HeldRestore, LazyHandler) {
        self.copy();
        let (held, restored, handler) = self.restore();
        (held, restored, handler.expect("a handler"))
    }

    /// Dumps and restores.
    pub fn restore(self) -> (HeldDump, HeldRestore, Option<LazyHandler>) {
        let held = self.dump.dump(&limit()).expect("dumped");
        let restored = self.restore.restore(&limit()).expect("restored");
        (held, restored, self.handler)
    }

    /// Copies all memory into the store, if it is to be there.
    pub fn copy(&self) {
        for member in self.dump.members().expect("members") {
            if self.handler.is_some() {
                memory::store_all(&self.store, member.pid, member.host_pid);
            }
        }
    }
}

/// A whole move, after which the source has forgotten the container.
pub fn move_between(world: &World, from: &Node, to: &Node, side: &str, images: &str, extra: &[&str]) -> Stats {
    move_as(world, from, to, side, images, extra, Mode::Lazy)
}

/// The same, in a way of one's choice (but not [`Mode::Copied`]).
pub fn move_as(world: &World, from: &Node, to: &Node, side: &str, images: &str, extra: &[&str], mode: Mode) -> Stats {
    let (held, restored, handler) = freeze_as(world, from, to, images, extra, mode, 2).copy_and_restore();
    handler.check().expect("complete");
    let pids: Vec<i32> = restored.members().expect("members").iter().map(|m| m.host_pid).collect();
    handler.guard(&pids).expect("guarded");
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
