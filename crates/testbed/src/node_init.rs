//! The first process of a node: makes the node's file system its root, then waits and reaps.
//!
//! It is started by the testbed in fresh mount, pid, uts and ipc namespaces, in the node's network namespace and
//! cgroup. When its standard input ends it exits, and with it, as the kernel has it, every process of the node: so a
//! testbed that dies in whatever way takes its nodes along. Nothing that it mounts is seen outside.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{chdir, pivot_root, sethostname};
use serde::{Deserialize, Serialize};

/// Where a node keeps the read-only layers that its containers' root file systems are made of.
pub(crate) const IMAGE_DIR: &str = "/var/lib/godwit/image";
/// Where a node keeps the layer with Godwit's own program.
pub(crate) const APP_DIR: &str = "/var/lib/godwit/app";
/// Where a node keeps bundles, images of checkpoints and work files; a tmpfs.
pub(crate) const STATE_DIR: &str = "/var/lib/godwit/state";

/// Where a node keeps the read-only root file system of the `number`th image of its testbed.
pub(crate) fn image_dir(number: usize) -> PathBuf {
    Path::new("/var/lib/godwit/images").join(number.to_string())
}

/// What the first process of a node is told, as one JSON argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInit {
    /// Host name in the node.
    pub hostname: String,
    /// The node image's root file system, the lower layer.
    pub image: PathBuf,
    /// The layer with Godwit's program.
    pub app: PathBuf,
    /// Root file systems of workloads' images.
    pub images: Vec<PathBuf>,
    /// An empty directory to mount upon.
    pub scratch: PathBuf,
}

/// Runs the node's first process; returns only when it could not set the node up.
pub fn run(config: &NodeInit) -> io::Result<std::convert::Infallible> {
    // The pid as the host sees it: /proc is still the host's.
    let pid = fs::read_link("/proc/self")?;
    let mut reap = SigSet::empty();
    reap.add(Signal::SIGCHLD);
    reap.thread_block()?;
    set_up(config)?;
    let mut out = io::stdout();
    writeln!(out, "{}", pid.display())?;
    out.flush()?;
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        process::exit(0);
    });
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                _ => {}
            }
        }
        let _ = reap.wait();
    }
}

fn set_up(config: &NodeInit) -> io::Result<()> {
    let none = None::<&str>;
    // Not private: what is a copy of a private mount cannot follow any other.
    step("make mounts followers", mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none))?;
    let scratch = &config.scratch;
    step("mount the scratch tmpfs", mount(Some("tmpfs"), scratch, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")))?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| scratch.join(name));
    for dir in [&upper, &work, &root] {
        fs::create_dir(dir)?;
    }
    let layers = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        config.app.display(),
        config.image.display(),
        upper.display(),
        work.display()
    );
    step(
        "mount the root overlay",
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str())),
    )?;

    let tmpfs = |path: &str, options: &str| {
        let target = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(&target)?;
        step(path, mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), Some(options)))
    };
    tmpfs("/dev", "mode=0755,size=64k")?;
    tmpfs("/run", "mode=0755")?;
    tmpfs("/tmp", "mode=1777")?;
    tmpfs(STATE_DIR, "mode=0700")?;
    devices(&root.join("dev"))?;
    bind(&config.image, &root.join(&IMAGE_DIR[1..]), true)?;
    bind(&config.app, &root.join(&APP_DIR[1..]), true)?;
    for (number, image) in config.images.iter().enumerate() {
        let target = image_dir(number);
        bind(image, &root.join(target.strip_prefix("/").expect("an absolute path")), true)?;
    }
    // Named network namespaces that are made later must show here, and their removal too: it follows the host's mount.
    let netns = root.join("run/netns");
    bind(Path::new("/run/netns"), &netns, false)?;
    bind(Path::new("/sys/fs/cgroup"), &scratch.join("cgroup"), false)?;

    step("enter the new root", pivot(&root))?;
    step("mount /proc", mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none))?;
    step("mount /sys", mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none))?;
    let old = Path::new("/old").join(scratch.strip_prefix("/").expect("an absolute path"));
    step(
        "mount cgroups",
        mount(Some(&old.join("cgroup")), "/sys/fs/cgroup", none, MsFlags::MS_BIND | MsFlags::MS_REC, none),
    )?;
    step("leave the host's root", umount2("/old", MntFlags::MNT_DETACH))?;
    fs::remove_dir("/old")?;
    step("name the host", sethostname(&config.hostname))
}

fn pivot(root: &Path) -> nix::Result<()> {
    let old = root.join("old");
    let _ = fs::create_dir(&old);
    pivot_root(root, &old)?;
    chdir("/")
}

fn devices(dev: &Path) -> io::Result<()> {
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let target = dev.join(name);
        File::create(&target)?;
        let source = Path::new("/dev").join(name);
        step(name, mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>))?;
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")]
    {
        symlink(target, dev.join(name))?;
    }
    for (name, kind, options) in
        [("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"), ("shm", "tmpfs", "mode=1777")]
    {
        let target = dev.join(name);
        fs::create_dir(&target)?;
        step(name, mount(Some(kind), &target, Some(kind), MsFlags::empty(), Some(options)))?;
    }
    if Path::new("/dev/net/tun").exists() {
        fs::create_dir(dev.join("net"))?;
        File::create(dev.join("net/tun"))?;
        step("tun", mount(Some("/dev/net/tun"), &dev.join("net/tun"), None::<&str>, MsFlags::MS_BIND, None::<&str>))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    let none = None::<&str>;
    fs::create_dir_all(target)?;
    let what = format!("bind {}", source.display());
    step(&what, mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none))?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        step(&what, mount(none, target, none, flags, none))?;
    }
    Ok(())
}

fn step<T>(what: &str, result: nix::Result<T>) -> io::Result<T> {
    result.map_err(|errno| io::Error::new(io::Error::from(errno).kind(), format!("{what}: {errno}")))
}

/// Reads the line that [`run`] writes when the node is ready: the pid of its first process as the host sees it.
pub(crate) fn read_ready(out: &mut impl Read) -> Option<i32> {
    let mut line = Vec::new();
    let mut byte = [0];
    while out.read(&mut byte).ok()? == 1 {
        if byte[0] == b'\n' {
            return String::from_utf8(line).ok()?.parse().ok();
        }
        line.push(byte[0]);
    }
    None
}
