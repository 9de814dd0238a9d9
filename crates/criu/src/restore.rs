//! The target's side: prepare, restore, hold, and then either run or vanish.
//!
//! ```text
//! PreparedRestore ──restore──► HeldRestore ──resume──► RestoredContainer ──finish──► a normal runc container
//!   │ drop: as before             │ drop: abort
//!   ▼                             └──abort──► as before
//! ```
//!
//! The container is first *created* by the node's own runc, from the same specification, before the freeze: that
//! makes its cgroups with their limits, its mounts and runc's record of it, by the rules of the runc that will have to
//! live with it. Its waiting first process is then killed, and CRIU, which runs inside the container's cgroups and
//! network namespace already, puts the restored processes in its place.
//!
//! While a [`HeldRestore`] lives the processes exist and do not run, and their TCP sockets are in repair mode: no
//! packet leaves, and an abort is as if nothing had been.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cgroup::{Cgroups, Freezer};
use crate::check::{self, Version};
use crate::dump::MemoryMode;
use crate::error::{Context, Result};
use crate::images::ImagesDir;
use crate::limit::Limit;
use crate::node::{NodeEnv, open_ns};
use crate::plan::RestorePlan;
use crate::process::{self, Member};
use crate::rpc::{CgroupMode, InheritFd, NetworkLock, Opts, Req, ReqType};
use crate::runc::{self, Runc, Streams};
use crate::stage::Stage;
use crate::state::StateFile;
use crate::swrk::{Said, Swrk};
use crate::sys;
use crate::tmpfs;

/// The last notification in which sockets are still in repair mode. After it CRIU takes them out and lets the
/// tasks go; a later "pre-resume" could not be refused any more.
const HOLD: &str = "post-restore";

/// Sent when the tasks run.
const RUNNING: &str = "post-resume";

/// CRIU's logs of levels up to this are kept only when something fails.
const QUIET: u8 = 2;

/// How long CRIU may take to give up by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a clean-up may take that the caller cannot limit.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// The socket in the images' directory on which a lazy restore expects whoever has the memory. CRIU's own name for it.
pub const LAZY_SOCKET: &str = "lazy-pages.socket";

/// What to restore, and how.
#[derive(Debug)]
pub struct RestoreOptions {
    /// The container's bundle in the target node, with the same `config.json` but for paths. Its `cgroupsPath` and
    /// network namespace are where the container will be.
    pub bundle: PathBuf,
    /// CRIU's log level: 2 are warnings, 4 is everything and costs milliseconds.
    pub log_level: u8,
    /// With [`MemoryMode::Lazy`] something listens on [`LAZY_SOCKET`] in the directory of the images, from before
    /// [`PreparedRestore::restore`] on, takes over a userfaultfd of each process there, and serves its memory.
    pub memory: MemoryMode,
    /// What takes the place of standard streams that were pipes; `/dev/null` where none is given.
    pub streams: Streams,
    /// What becomes of TCP connections.
    pub connections: Connections,
    /// The images are those of another program that drives CRIU, which called the container's network namespace by this
    /// name; the container gets the one of its bundle's `config.json`.
    pub netns_key: Option<String>,
}

/// What becomes of the TCP connections in the images. What listens goes on to listen either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connections {
    /// They go on. Only right once, at the same address, and while their other ends still hold them.
    #[default]
    Kept,
    /// The service finds them closed.
    Closed,
}

impl RestoreOptions {
    /// The usual, for a bundle.
    pub fn new(bundle: impl Into<PathBuf>) -> Self {
        Self {
            bundle: bundle.into(),
            log_level: 2,
            memory: MemoryMode::Copied,
            streams: Streams::default(),
            connections: Connections::Kept,
            netns_key: None,
        }
    }
}

/// How long each part took; parts that did not happen are zero.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreTimes {
    /// Before the freeze: everything that could be made ready.
    pub prepare: Duration,
    /// From the request to restore until the processes stood ready.
    pub restore: Duration,
    /// From the decision until they ran.
    pub resume: Duration,
}

/// What all states have. Dropped while it is `ours`, it takes everything away again.
#[derive(Debug)]
struct Target {
    env: NodeEnv,
    id: String,
    runc: Runc,
    state: StateFile,
    freezer: Freezer,
    stage: Option<Stage>,
    images: ImagesDir,
    times: RestoreTimes,
    // Until the container runs here.
    ours: bool,
}

// In all states CRIU comes first, so that a drop ends it before what it works on is taken away.

/// Everything is ready for the images; runc knows the container as stopped.
#[derive(Debug)]
pub struct PreparedRestore {
    swrk: Swrk,
    target: Target,
    request: Opts,
    version: Version,
    log_level: u8,
    plan: RestorePlan,
}

/// The processes exist and wait for the decision.
#[derive(Debug)]
pub struct HeldRestore {
    swrk: Swrk,
    target: Target,
    pid: i32,
    host_pid: i32,
}

/// The container runs. [`RestoredContainer::finish`] clears up behind it; dropping does too, but silently.
#[derive(Debug)]
pub struct RestoredContainer {
    swrk: Swrk,
    target: Target,
    pid: i32,
    host_pid: i32,
}

impl PreparedRestore {
    /// Makes the container's shell with the node's runc and starts CRIU in it. `plan` is the source's; the images may
    /// come into `images` until [`PreparedRestore::restore`].
    pub fn new(
        env: &NodeEnv,
        id: &str,
        images: ImagesDir,
        plan: &RestorePlan,
        options: RestoreOptions,
        limit: &Limit,
    ) -> Result<Self> {
        let start = Instant::now();
        let runc = Runc::new(env);
        runc.create(id, &options.bundle, Streams::default(), limit)?;
        let made = Self::in_shell(env, id, runc.clone(), images, plan, options, limit);
        match made {
            Ok(mut prepared) => {
                prepared.target.times.prepare = start.elapsed();
                Ok(prepared)
            }
            Err(e) => Err(e.and_then_failed(runc.delete(id, true, &Limit::within(CLEAN_UP)))),
        }
    }

    fn in_shell(
        env: &NodeEnv,
        id: &str,
        runc: Runc,
        images: ImagesDir,
        plan: &RestorePlan,
        options: RestoreOptions,
        limit: &Limit,
    ) -> Result<Self> {
        let state = runc.state_file(id)?;
        let cgroups = Cgroups::new(env, &state.cgroup_paths());
        let freezer = cgroups.freezer()?;
        let shell = process::host_pid(env, state.init_pid()?, &freezer.pids()?)?;
        let stage = Stage::new(env, id, &state.rootfs()?, &plan.external, shell)?;

        let null: OwnedFd =
            File::options().read(true).write(true).open("/dev/null").context(|| "open /dev/null".into())?.into();
        let streams = [&options.streams.stdin, &options.streams.stdout, &options.streams.stderr];
        let pipes: Vec<(&String, &OwnedFd)> = (plan.descriptors.iter().zip(streams))
            .filter(|(key, _)| key.starts_with("pipe:"))
            .map(|(key, stream)| (key, stream.as_ref().unwrap_or(&null)))
            .collect();
        let inside = env.beside(shell, &state.joined()).in_cgroups(cgroups.dirs());
        let netns = match &options.netns_key {
            Some(key) => Some((key, open_ns(shell, "net")?)),
            None => None,
        };
        let mut inherited = pipes;
        inherited.extend(netns.iter().map(|(key, fd)| (*key, fd)));
        let mut fds = vec![images.fd()];
        fds.extend(inherited.iter().map(|(_, fd)| *fd));
        let (mut swrk, numbers) = Swrk::start(&inside, "restore", &fds)?;
        let version = check::ask_version(&mut swrk, limit)?;
        check::must_understand(version, plan.criu)?;
        let inherit = inherited.iter().zip(&numbers[1..]);
        let inherit = inherit.map(|((key, _), fd)| InheritFd { key: key.to_string(), fd: *fd }).collect();
        let mut request = request(&stage, plan, inherit, numbers[0]);
        if options.connections == Connections::Closed {
            request.tcp_established = None;
            request.tcp_close = Some(true);
        }
        request.lazy_pages = (options.memory == MemoryMode::Lazy).then_some(true);
        swrk.log_to(&mut request, version, options.log_level);

        // The shell has served; CRIU's processes take its place. Until then runc calls the container stopped.
        let pidfd = sys::pidfd_open(shell).context(|| "watch the container's shell".into())?;
        sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL).context(|| "end the container's shell".into())?;
        limit.wait_readable(&pidfd, "the end of the container's shell")?;
        runc::remove_if_there(&runc.exec_fifo(id))?;
        let target = Target {
            env: env.clone(),
            id: id.into(),
            runc,
            state,
            freezer,
            stage: Some(stage),
            images,
            times: RestoreTimes::default(),
            ours: true,
        };
        Ok(Self { target, swrk, request, version, log_level: options.log_level, plan: plan.clone() })
    }

    /// Where the images have to be before [`PreparedRestore::restore`].
    pub fn images(&self) -> &ImagesDir {
        &self.target.images
    }

    /// The host's pid of the CRIU that will restore.
    pub fn criu_pid(&self) -> i32 {
        self.swrk.pid()
    }

    /// The version of the CRIU that will restore.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Restores up to the point where the processes could run. On an error the node is as it was before
    /// [`PreparedRestore::new`].
    pub fn restore(self, limit: &Limit) -> Result<HeldRestore> {
        let Self { mut swrk, mut target, request, log_level, plan, .. } = self;
        let start = Instant::now();
        let req = Req { r#type: ReqType::Restore.into(), opts: Some(request), ..Req::default() };
        let said = target
            .load_tmpfs(&plan, limit)
            .and_then(|()| swrk.send(&req))
            .and_then(|()| swrk.run_to(Some(HOLD), limit));
        let error = match said {
            Ok(Said::Notification { pid: Some(pid), .. }) => match target.adopt(pid, &plan.descriptors) {
                Ok(host_pid) => {
                    target.times.restore = start.elapsed();
                    if log_level > QUIET {
                        swrk.keep_log(&target.images);
                    }
                    return Ok(HeldRestore { swrk, target, pid, host_pid });
                }
                Err(e) => e,
            },
            Ok(Said::Notification { script, .. }) => swrk.surprise(&script),
            Ok(Said::Answer(resp)) => swrk.failed(&resp, &target.images),
            Ok(Said::Closed) => swrk.died(Some(&target.images)),
            Err(e) => e,
        };
        Err(error.and_then_failed(target.undo(swrk)))
    }

    /// Gives up: the node is as before.
    pub fn cancel(self) -> Result<()> {
        let Self { mut target, mut swrk, .. } = self;
        // It was asked for nothing yet, so it would not say anything either.
        swrk.kill();
        target.undo(swrk)
    }
}

impl HeldRestore {
    /// The pid of the container's first process, as the node sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The host's pid of the CRIU that holds.
    pub fn criu_pid(&self) -> i32 {
        self.swrk.pid()
    }

    /// The container's processes; CRIU's own, which is in its control group, is not among them.
    pub fn members(&self) -> Result<Vec<Member>> {
        let mut members = process::members(&self.target.freezer.pids()?);
        members.retain(|member| process::comes_from(member.host_pid, self.host_pid));
        Ok(members)
    }

    /// How long the parts took.
    pub fn times(&self) -> RestoreTimes {
        self.target.times
    }

    /// Lets the container run: it is a normal container of the node's runc from here on. Returns as soon as it runs;
    /// [`RestoredContainer::finish`] may wait until the packets flow.
    ///
    /// On an error nothing runs here, and the node is as before.
    pub fn resume(self, limit: &Limit) -> Result<RestoredContainer> {
        let Self { mut swrk, mut target, pid, host_pid } = self;
        let start = Instant::now();
        let said = swrk.answer(true).and_then(|()| swrk.run_to(Some(RUNNING), limit));
        let error = match said {
            Ok(Said::Notification { .. }) => {
                target.times.resume = start.elapsed();
                target.ours = false;
                return Ok(RestoredContainer { swrk, target, pid, host_pid });
            }
            Ok(Said::Answer(resp)) => swrk.failed(&resp, &target.images),
            Ok(Said::Closed) => swrk.died(Some(&target.images)),
            Err(e) => e,
        };
        Err(error.and_then_failed(target.undo(swrk)))
    }

    /// Ends the processes without a packet sent; the node is as before.
    pub fn abort(self) -> Result<()> {
        let Self { swrk, mut target, .. } = self;
        // CRIU kills its processes itself, and clears up what it made on the way.
        let _ = swrk.answer(false);
        target.undo(swrk)
    }
}

impl RestoredContainer {
    /// The pid of the container's first process, as the node sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The pid of the container's first process, as the host sees it.
    pub fn host_pid(&self) -> i32 {
        self.host_pid
    }

    /// How long the parts took.
    pub fn times(&self) -> RestoreTimes {
        self.target.times
    }

    /// Lets CRIU leave and takes the staging mounts away. A failure leaves the container running.
    pub fn finish(self, limit: &Limit) -> Result<RestoreTimes> {
        let Self { mut swrk, mut target, .. } = self;
        swrk.answer(true)?;
        swrk.run_to(None, limit)?;
        swrk.wait(limit)?;
        target.stage.take().map_or(Ok(()), Stage::remove)?;
        Ok(target.times)
    }
}

impl Target {
    /// Puts back what was in the container's tmpfs mounts.
    fn load_tmpfs(&self, plan: &RestorePlan, limit: &Limit) -> Result<()> {
        let Some(stage) = &self.stage else { return Ok(()) };
        tmpfs::load(&plan.external, |n| stage.host_place(n), &self.images, limit)
    }

    /// Enters the restored first process into runc's record, and returns the host's pid of it.
    fn adopt(&mut self, pid: i32, descriptors: &[String]) -> Result<i32> {
        let host_pid = process::host_pid(&self.env, pid, &self.freezer.pids()?)?;
        // The start time is the same from everywhere, so the host's /proc will do.
        let started = process::start_ticks(format!("/proc/{host_pid}").as_ref())?;
        self.state.adopt(pid, started, descriptors)?;
        Ok(host_pid)
    }

    /// Takes everything away, whatever is there.
    fn undo(&mut self, mut swrk: Swrk) -> Result<()> {
        self.ours = false;
        let patience = Limit::within(PATIENCE);
        // Refuse whatever it still asks; one that does not give up is killed with its processes.
        while let Ok(Said::Notification { .. }) = swrk.next(&patience) {
            if swrk.answer(false).is_err() {
                break;
            }
        }
        swrk.kill();
        drop(swrk);
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        let limit = Limit::within(CLEAN_UP);
        let killed = self.freezer.kill_all(&limit);
        let removed = self.stage.take().map_or(Ok(()), Stage::remove);
        let deleted = self.runc.delete(&self.id, true, &limit);
        killed.and(removed).and(deleted)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.ours {
            let _ = self.clear();
        }
    }
}

fn request(stage: &Stage, plan: &RestorePlan, inherit_fd: Vec<InheritFd>, images_fd: RawFd) -> Opts {
    Opts {
        images_dir_fd: -1,
        // CRIU resolves images_dir_fd in its client's /proc, which a client outside its pid namespace has not.
        images_dir: Some(format!("/proc/self/fd/{images_fd}")),
        root: Some(stage.root().display().to_string()),
        external: stage.external_options(&plan.external),
        inherit_fd,
        tcp_established: Some(true),
        ext_unix_sk: Some(true),
        file_locks: Some(true),
        evasive_devices: Some(true),
        shell_job: Some(false),
        orphan_pts_master: Some(true),
        notify_scripts: Some(true),
        network_lock: Some(NetworkLock::Skip.into()),
        // CRIU is in the container's cgroups, and so are its children.
        manage_cgroups_mode: Some(CgroupMode::Ignore.into()),
        ..Opts::default()
    }
}
