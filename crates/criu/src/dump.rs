//! The source's side: freeze, dump, hold, and then either let go or end.
//!
//! ```text
//! PreparedDump ──freeze──► FrozenDump ──dump──► HeldDump ──commit───► gone: the target runs
//!   │ drop: nothing          │ drop: thaw          │ drop: rollback
//!   ▼ has happened           ▼                     └──rollback─► ReleasedDump ──thaw──► runs on
//! ```
//!
//! While a [`HeldDump`] lives, CRIU waits in its last notification: the images are whole, the tasks stand, and their
//! TCP sockets are in repair mode, so that nothing which happens to them sends a packet. The control group is frozen
//! too, so the tasks stand even when CRIU is killed.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cgroup::{Cgroups, Freezer};
use crate::check::{self, Version};
use crate::error::{Error, Result};
use crate::images::ImagesDir;
use crate::limit::Limit;
use crate::node::NodeEnv;
use crate::plan::{self, RestorePlan};
use crate::process::{self, Member};
use crate::released::ReleasedDump;
use crate::rpc::{CgroupMode, NetworkLock, Opts, Req, ReqType};
use crate::runc::{Runc, Status};
use crate::spare::{self, Spare};
use crate::swrk::{Said, Swrk};
use crate::tmpfs;

/// The notification in which CRIU waits for the decision.
const HOLD: &str = "post-dump";

/// The notification that follows it when the memory is not in the images: CRIU is about to wait for somebody who
/// fetches the pages. Nobody will.
const SERVING: &str = "status-ready";

/// CRIU's logs of levels up to this are kept only when something fails.
const QUIET: u8 = 2;

/// How long CRIU may take to let go by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a clean-up may take that the caller cannot limit.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// What to dump, and how.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// Leave out connections that the server has not accepted yet instead of failing over them.
    pub skip_unaccepted: bool,
    /// Allow unix sockets whose other end is outside the container.
    pub external_unix_sockets: bool,
    /// Dump file locks.
    pub file_locks: bool,
    /// The largest deleted but still open file to put into the images, in bytes.
    pub ghost_limit: u32,
    /// CRIU's log level: 2 are warnings, 4 is everything and costs milliseconds.
    pub log_level: u8,
    /// Whether the memory goes into the images.
    pub memory: MemoryMode,
    /// Whether a dump may load a library of ours into CRIU, by which CRIU knows the limits of another user's processes without
    /// CAP_SYS_RESOURCE, and leaves the memory alone if the dump is a lazy one. Without it, or
    /// where it cannot be loaded, CRIU prepares to serve the memory itself, which takes 30 ms more for a gigabyte.
    pub library: bool,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            skip_unaccepted: false,
            external_unix_sockets: false,
            file_locks: true,
            ghost_limit: 64 << 20,
            log_level: 2,
            memory: MemoryMode::Copied,
            library: true,
        }
    }
}

/// Where the memory of the container is when it is dumped or restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryMode {
    /// In the images.
    #[default]
    Copied,
    /// Anonymous private memory is not in the images: they only say where there is some. The caller carries it, and on
    /// the target something serves it to the restored processes (`godwit-pages`).
    Lazy,
}

/// How long each part took; parts that did not happen are zero.
#[derive(Debug, Clone, Copy, Default)]
pub struct DumpTimes {
    /// From the request to freeze until every task stood.
    pub freeze: Duration,
    /// From the request to dump until the images were whole.
    pub dump: Duration,
    /// Commit: until the tasks were gone. Roll-back: until they could run.
    pub decision: Duration,
}

/// A failure that leaves the caller with something to finish.
#[derive(Debug)]
pub struct HandedBack<T> {
    /// Why it failed.
    pub error: Error,
    /// What is left in the caller's hands.
    pub back: T,
}

impl<T> From<Box<HandedBack<T>>> for Error {
    fn from(failed: Box<HandedBack<T>>) -> Self {
        failed.error
    }
}

/// What all states have.
#[derive(Debug)]
struct Source {
    id: String,
    env: NodeEnv,
    /// By which CRIU leaves the memory alone; none where it is copied, or where CRIU has to serve it itself.
    spare: Option<Spare>,
    freezer: Freezer,
    freezer_inside: PathBuf,
    /// Its first process, as the node sees it.
    init: i32,
    /// And as the host does.
    host_init: i32,
    version: Version,
    rootfs: PathBuf,
    images: ImagesDir,
    options: DumpOptions,
    plan: RestorePlan,
    times: DumpTimes,
}

/// Everything is ready and nothing has been touched: CRIU runs and waits.
#[derive(Debug)]
pub struct PreparedDump {
    source: Source,
    swrk: Swrk,
    images_fd: RawFd,
}

/// The container stands; nothing is dumped yet.
#[derive(Debug)]
pub struct FrozenDump {
    // None once the freeze has become another state's to undo.
    inner: Option<(Source, Swrk, RawFd)>,
}

/// The images are whole, and CRIU waits for the decision.
#[derive(Debug)]
pub struct HeldDump {
    inner: Option<(Source, Swrk)>,
}

impl PreparedDump {
    /// Starts CRIU for the running container `id` of `env`, in the namespaces that the container was given (which
    /// makes them none of CRIU's business; the network's saves 20 ms), and finds out what the target needs to know.
    pub fn new(env: &NodeEnv, id: &str, images: ImagesDir, options: DumpOptions, limit: &Limit) -> Result<Self> {
        let runc = Runc::new(env);
        let container = runc.state(id, limit)?;
        if container.status != Status::Running {
            let status = container.status.to_string();
            return Err(Error::WrongStatus { container: id.into(), status, wanted: "running" });
        }
        let state = runc.state_file(id)?;
        let cgroups = Cgroups::new(env, &state.cgroup_paths());
        let freezer = cgroups.freezer()?;
        let init = state.init_pid()?;
        let host_init = process::host_pid(env, init, &freezer.pids()?)?;
        let inside = env.beside(host_init, &state.joined());
        let spare = options.library.then(Spare::new).transpose()?;
        let (mut swrk, numbers) = Swrk::start_with(&inside, "dump", &[images.fd()], spare.as_ref())?;
        let version = check::ask_version(&mut swrk, limit)?;
        let plan = RestorePlan {
            external: plan::external_mounts(&process::mounts(host_init)?),
            descriptors: state.descriptors(),
            criu: Some(version),
        };
        let source = Source {
            id: id.into(),
            env: env.clone(),
            spare: spare.filter(|spare| options.memory == MemoryMode::Lazy && spare.works()),
            freezer,
            freezer_inside: cgroups.freezer_inside()?.to_path_buf(),
            init,
            host_init,
            version,
            rootfs: state.rootfs()?,
            images,
            options,
            plan,
            times: DumpTimes::default(),
        };
        Ok(Self { source, swrk, images_fd: numbers[0] })
    }

    /// What the target needs to know to prepare.
    pub fn plan(&self) -> &RestorePlan {
        &self.source.plan
    }

    /// The container's processes at this moment.
    pub fn members(&self) -> Result<Vec<Member>> {
        self.source.members()
    }

    /// The version of the CRIU that will dump.
    pub fn version(&self) -> Version {
        self.source.version
    }

    /// Stops the container. **Before this call** the service's packets have to be kept from its network namespace:
    /// what the kernel acknowledges after the dump is lost to the connection.
    ///
    /// On an error the container runs.
    pub fn freeze(self, limit: &Limit) -> Result<FrozenDump> {
        let Self { mut source, swrk, images_fd, .. } = self;
        match source.freezer.freeze(limit) {
            Ok(took) => {
                source.times.freeze = took;
                Ok(FrozenDump { inner: Some((source, swrk, images_fd)) })
            }
            Err(e) => Err(e.and_then_failed(source.freezer.thaw())),
        }
    }
}

impl FrozenDump {
    /// Dumps. On an error the container is handed back, still frozen, so that the caller can let packets through
    /// before it runs again.
    pub fn dump(mut self, limit: &Limit) -> Result<HeldDump, Box<HandedBack<ReleasedDump>>> {
        // Always there: only this call and drop take it.
        let Some((mut source, mut swrk, images_fd)) = self.inner.take() else { unreachable!("taken once") };
        let start = Instant::now();
        let request = source.request(&swrk, images_fd, limit);
        let said = source.sparing_memory(|| {
            source.beside_tmpfs(limit, || swrk.send(&request).and_then(|()| swrk.run_to(Some(HOLD), limit)))
        });
        let error = match said {
            Ok(Said::Notification { .. }) => {
                source.times.dump = start.elapsed();
                if source.options.log_level > QUIET {
                    swrk.keep_log(&source.images);
                }
                // CRIU thaws the cgroup once it has the tasks in its own hands.
                match source.freezer.ask() {
                    Ok(()) => return Ok(HeldDump { inner: Some((source, swrk)) }),
                    Err(e) => e,
                }
            }
            Ok(Said::Answer(resp)) => swrk.failed(&resp, &source.images),
            Ok(Said::Closed) => swrk.died(Some(&source.images)),
            Err(e) => e,
        };
        let released = release(source, swrk);
        Err(Box::new(HandedBack { error: error.and_then_failed(released.1), back: released.0 }))
    }

    /// The container's processes. They stand until the dump begins: what is read of their memory now is what the
    /// dump will find.
    pub fn members(&self) -> Result<Vec<Member>> {
        self.inner.as_ref().map_or(Ok(Vec::new()), |(source, ..)| source.members())
    }

    /// Lets the container run on.
    pub fn thaw(mut self) -> Result<()> {
        match self.inner.take() {
            Some((source, ..)) => source.freezer.thaw(),
            None => Ok(()),
        }
    }

    /// The host's pid of the CRIU that will dump.
    pub fn criu_pid(&self) -> i32 {
        self.inner.as_ref().map_or(0, |(_, swrk, _)| swrk.pid())
    }

    /// How long the freeze took.
    pub fn times(&self) -> DumpTimes {
        self.inner.as_ref().map(|(source, ..)| source.times).unwrap_or_default()
    }
}

impl Drop for FrozenDump {
    fn drop(&mut self) {
        if let Some((source, ..)) = self.inner.take() {
            let _ = source.freezer.thaw();
        }
    }
}

impl HeldDump {
    /// The images.
    pub fn images(&self) -> &ImagesDir {
        &self.source().images
    }

    /// What the target needs to know.
    pub fn plan(&self) -> &RestorePlan {
        &self.source().plan
    }

    /// How long the freeze and the dump took.
    pub fn times(&self) -> DumpTimes {
        self.source().times
    }

    /// The host's pid of the CRIU that holds.
    pub fn criu_pid(&self) -> i32 {
        self.inner.as_ref().map_or(0, |(_, swrk)| swrk.pid())
    }

    /// The container's processes; their memory can still be read.
    pub fn members(&self) -> Result<Vec<Member>> {
        self.source().members()
    }

    /// Ends the container without a packet sent: its sockets are still in repair mode. It cannot fail halfway into a
    /// running container: where CRIU does not do it, the tasks are killed as they stand.
    ///
    /// runc still knows the container, as a stopped one: `runc.delete` removes it.
    pub fn commit(mut self, limit: &Limit) -> Result<DumpTimes> {
        let Some((mut source, mut swrk)) = self.inner.take() else { unreachable!("taken once") };
        let start = Instant::now();
        if !source.ended_by(&mut swrk, limit) {
            source.freezer.ask()?;
            swrk.kill();
            source.freezer.kill_all(&Limit::within(CLEAN_UP))?;
        }
        let _ = swrk.wait(limit);
        source.times.decision = start.elapsed();
        Ok(source.times)
    }

    /// Makes CRIU let go: sockets leave repair mode, the tasks stay frozen until [`ReleasedDump::thaw`], so that the
    /// caller can let packets through first. It also works when CRIU has died.
    pub fn rollback(mut self) -> Result<ReleasedDump, Box<HandedBack<ReleasedDump>>> {
        let Some((source, swrk)) = self.inner.take() else { unreachable!("taken once") };
        let start = Instant::now();
        let _ = swrk.answer(false);
        let (mut released, result) = release(source, swrk);
        released.took(start.elapsed());
        match result {
            Ok(()) => Ok(released),
            Err(error) => Err(Box::new(HandedBack { error, back: released })),
        }
    }

    fn source(&self) -> &Source {
        match &self.inner {
            Some((source, _)) => source,
            None => unreachable!("taken once, by value"),
        }
    }
}

impl Drop for HeldDump {
    fn drop(&mut self) {
        if let Some((source, swrk)) = self.inner.take() {
            let _ = swrk.answer(false);
            // Dropping what is released thaws it.
            drop(release(source, swrk));
        }
    }
}

/// Gets the tasks out of CRIU's hands, whatever CRIU's state, into the frozen cgroup, with live sockets.
fn release(source: Source, mut swrk: Swrk) -> (ReleasedDump, Result<()>) {
    let patience = Limit::within(PATIENCE);
    // Not frozen before CRIU is through: it needs the tasks to run its own code in them. It asks for the freeze
    // itself before it lets go of them.
    loop {
        match swrk.next(&patience) {
            // A dump that comes to its end in spite of us must not end the container.
            Ok(Said::Notification { script, .. }) if swrk.answer(script != HOLD && script != SERVING).is_ok() => {}
            Ok(Said::Answer(_)) => break,
            // From here on no task runs, however the kernel takes them from a CRIU that is killed.
            _ => {
                let _ = source.freezer.ask();
                swrk.kill();
                break;
            }
        }
    }
    let limit = Limit::within(CLEAN_UP);
    let asked = source.freezer.ask();
    let _ = swrk.wait(&limit);
    let released = ReleasedDump::new(source.id, source.freezer, source.times);
    let result = asked.and_then(|()| released.revive(&limit));
    (released, result)
}

impl Source {
    fn members(&self) -> Result<Vec<Member>> {
        Ok(process::members(&self.freezer.pids()?))
    }

    /// Lets CRIU end the tasks, and says whether it did.
    fn ended_by(&self, swrk: &mut Swrk, limit: &Limit) -> bool {
        if self.served_by_criu() {
            // It would go on to serve pages, to nobody, and for ever.
            return false;
        }
        // The tasks stand in CRIU's hands; in a frozen v1 cgroup CRIU's SIGKILL would not reach them.
        let by_criu = self.freezer.thaw().and_then(|()| swrk.answer(true)).and_then(|()| swrk.run_to(None, limit));
        let gone = self.freezer.pids().map(|pids| pids.is_empty());
        matches!(by_criu, Ok(Said::Answer(ref resp)) if resp.success) && matches!(gone, Ok(true))
    }

    /// Whether CRIU offers the memory that is not in the images.
    fn served_by_criu(&self) -> bool {
        self.options.memory == MemoryMode::Lazy && self.spare.is_none()
    }

    /// Runs `dump` without the memory, if that is wanted, and meanwhile looks where there is some.
    fn sparing_memory(&self, dump: impl FnOnce() -> Result<Said>) -> Result<Said> {
        let Some(spare) = &self.spare else { return dump() };
        let spared = spare.enter(&self.env, &self.members()?)?;
        let (found, said) = std::thread::scope(|scope| {
            let looking = scope.spawn(|| spare::look(&spared));
            let said = dump();
            match looking.join() {
                Ok(found) => (found, said),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        let said = said?;
        if let Said::Notification { .. } = said {
            spare.complete(&found?, &self.images)?;
        }
        Ok(said)
    }

    /// Runs `dump`, and meanwhile saves what is in the container's tmpfs mounts: nothing runs that could change it.
    fn beside_tmpfs<T>(&self, limit: &Limit, dump: impl FnOnce() -> Result<T>) -> Result<T> {
        let with_files = tmpfs::with_files(&self.plan, self.host_init)?;
        if with_files.is_empty() {
            return dump();
        }
        std::thread::scope(|scope| {
            let images = &self.images;
            let saved = scope
                .spawn(move || with_files.iter().try_for_each(|(mount, dir)| tmpfs::save(mount, dir, images, limit)));
            let dumped = dump();
            match saved.join() {
                Ok(saved) => saved.and(dumped),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn request(&self, swrk: &Swrk, images_fd: RawFd, limit: &Limit) -> Req {
        let options = &self.options;
        let external = self.plan.external.iter().map(|m| format!("mnt[{}]:{}", m.mountpoint, m.key)).collect();
        let mut opts = Opts {
            images_dir_fd: -1,
            // CRIU resolves images_dir_fd in its client's /proc, which a client outside its pid namespace has not.
            images_dir: Some(format!("/proc/self/fd/{images_fd}")),
            pid: Some(self.init),
            root: Some(self.rootfs.display().to_string()),
            external,
            tcp_established: Some(true),
            tcp_skip_in_flight: Some(options.skip_unaccepted),
            ext_unix_sk: Some(options.external_unix_sockets),
            file_locks: Some(options.file_locks),
            ghost_limit: Some(options.ghost_limit),
            evasive_devices: Some(true),
            shell_job: Some(false),
            orphan_pts_master: Some(true),
            // A second name for an open file that has lost its own would stay in the source's file system, where the
            // restore cannot find it: better the dump fails.
            link_remap: Some(false),
            notify_scripts: Some(true),
            // The caller keeps the packets away, since before the freeze.
            network_lock: Some(NetworkLock::Skip.into()),
            manage_cgroups_mode: Some(CgroupMode::Ignore.into()),
            freeze_cgroup: Some(self.freezer_inside.display().to_string()),
            // CRIU's own alarm cleans up where ours has to kill: let it be the first.
            timeout: Some(u32::try_from(limit.left().as_secs()).unwrap_or(u32::MAX).max(1)),
            lazy_pages: self.served_by_criu().then_some(true),
            ..Opts::default()
        };
        swrk.log_to(&mut opts, self.version, options.log_level);
        Req { r#type: ReqType::Dump.into(), opts: Some(opts), ..Req::default() }
    }
}
