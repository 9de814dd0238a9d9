//! Named network namespaces, kept where `ip netns`, runc and CRIU look for them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{NetError, Result};

const DIR: &str = "/run/netns";

/// A network namespace with a name, at `/run/netns/NAME`.
///
/// Who [`create`](Netns::create)d it owns it: the namespace's name goes away when that value is dropped (or by
/// [`delete`](Netns::delete), which reports errors). An [`open`](Netns::open)ed one is a mere handle. The kernel
/// frees a namespace when its name, every process in it and every descriptor that keeps it (this value's, and
/// a [`DelayLink`](crate::DelayLink)'s or [`PacketHold`](crate::PacketHold)'s TUN) are gone.
pub struct Netns {
    name: String,
    path: PathBuf,
    file: File,
    owned: bool,
}

impl Netns {
    /// Makes a namespace with loopback up. Fails with [`NetError::NetnsExists`] if the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        check_name(name)?;
        share_dir(name)?;
        let path = Path::new(DIR).join(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o000).open(&path) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(NetError::NetnsExists { ns: name.into() });
            }
            Err(e) => return Err(NetError::netns(name, format!("create {}", path.display()), e)),
        }
        let ns = make(name, &path).inspect_err(|_| drop(unname(name, &path)))?;
        crate::Netlink::open(&ns)?.set_up("lo")?;
        Ok(ns)
    }

    /// A handle to a namespace that exists; dropping it leaves the namespace alone.
    pub fn open(name: &str) -> Result<Self> {
        check_name(name)?;
        let path = Path::new(DIR).join(name);
        let file = File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => NetError::NoNetns { ns: name.into() },
            _ => NetError::netns(name, format!("open {}", path.display()), e),
        })?;
        Ok(Self { name: name.into(), path, file, owned: false })
    }

    /// A handle to the namespace that `path` names, wherever that is; dropping it leaves the namespace alone.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let name = path.display().to_string();
        let file = File::open(&path).map_err(|e| NetError::netns(&name, format!("open {name}"), e))?;
        Ok(Self { name, path, file, owned: false })
    }

    /// Names of all namespaces that begin with `prefix`, sorted: what a killed run left behind.
    pub fn list(prefix: &str) -> Result<Vec<String>> {
        let entries = match fs::read_dir(DIR) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(NetError::netns(prefix, format!("list {DIR}"), e)),
        };
        let mut names: Vec<String> =
            entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|n| n.starts_with(prefix)).collect();
        names.sort();
        Ok(names)
    }

    /// Removes a name whatever it is (also one that never became a mount); no error if there is none.
    pub fn remove(name: &str) -> Result<()> {
        check_name(name)?;
        unname(name, &Path::new(DIR).join(name))
    }

    /// A further handle to the same namespace, not an owner.
    pub fn handle(&self) -> Result<Self> {
        let file = self.file.try_clone().map_err(|e| NetError::netns(&self.name, "duplicate its descriptor", e))?;
        Ok(Self { name: self.name.clone(), path: self.path.clone(), file, owned: false })
    }

    /// The name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path that names it, for an OCI spec or `criu --external net[…]`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's number of the namespace (the inode in `net:[…]`).
    pub fn inode(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map(|m| m.ino()).map_err(|e| NetError::netns(&self.name, "stat it", e))
    }

    /// Runs `f` on a thread of its own inside the namespace and waits for it (~50 microseconds). Sockets and
    /// files of `/proc/sys/net` that `f` opens stay in the namespace; threads that it starts and processes that
    /// it spawns are born there. A panic of `f` is passed on.
    pub fn enter<T, F>(&self, f: F) -> Result<T>
    where
        F: FnOnce() -> T + Send,
        T: Send,
    {
        let run = || -> Result<T> {
            setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|e| NetError::netns(&self.name, "enter it", e))?;
            Ok(f())
        };
        on_own_thread(&self.name, run)
    }

    /// Sets a sysctl inside, e.g. `set_sysctl("net.ipv4.ip_forward", "1")`. A key with slashes is taken as it is:
    /// `net/ipv4/conf/eth0.7/rp_filter`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.enter(|| fs::write(&path, value))?
            .map_err(|e| NetError::netns(&self.name, format!("set sysctl {key} to {value}"), e))
    }

    /// Reads a sysctl inside, without the line end.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        self.enter(|| fs::read_to_string(&path))?
            .map(|s| s.trim_end().to_owned())
            .map_err(|e| NetError::netns(&self.name, format!("read sysctl {key}"), e))
    }

    /// Takes the name away now, and says if that did not work.
    pub fn delete(mut self) -> Result<()> {
        self.owned = false;
        unname(&self.name, &self.path)
    }

    /// Gives up ownership: the namespace outlives this value, until someone removes it by name.
    pub fn leave(mut self) -> Self {
        self.owned = false;
        self
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned
            && let Err(e) = unname(&self.name, &self.path)
        {
            tracing::warn!(ns = %self.name, error = %e, "namespace left behind: `ip netns del` it");
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netns").field("name", &self.name).field("owned", &self.owned).finish_non_exhaustive()
    }
}

/// Runs `f` in a namespace without a name, which is gone afterwards: for trying what the kernel can do.
pub(crate) fn in_scratch<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T> {
    on_own_thread("(scratch)", || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetError::netns("(scratch)", "make it", e))?;
        Ok(f())
    })
}

/// A thread's namespace cannot be trusted once it was changed, so it is changed on one that ends.
fn on_own_thread<T: Send>(ns: &str, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, f)
            .map_err(|e| NetError::netns(ns, "start a thread for it", e))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn make(name: &str, path: &Path) -> Result<Netns> {
    on_own_thread(name, || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetError::netns(name, "make it", e))?;
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| NetError::netns(name, format!("bind it to {}", path.display()), e))
    })?;
    let file = File::open(path).map_err(|e| NetError::netns(name, format!("open {}", path.display()), e))?;
    Ok(Netns { name: name.into(), path: path.into(), file, owned: true })
}

/// `/run/netns` has to be a mount point of its own with shared propagation, else names made here do not show
/// in mount namespaces that were unshared earlier, and a removed name stays busy there. The lock is the one that
/// iproute2 takes.
fn share_dir(name: &str) -> Result<()> {
    let fail = |action: &str, e: io::Error| NetError::netns(name, format!("{action} {DIR}"), e);
    fs::create_dir_all(DIR).map_err(|e| fail("create", e))?;
    let dir = File::open(DIR).map_err(|e| fail("open", e))?;
    let _lock = Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, e)| fail("lock", e.into()))?;
    let share = || mount(None::<&str>, DIR, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share().is_ok() {
        return Ok(());
    }
    mount(Some(DIR), DIR, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| fail("bind", e.into()))?;
    share().map_err(|e| fail("share", e.into()))
}

fn unname(name: &str, path: &Path) -> Result<()> {
    // EINVAL: not a mount (a run was killed between the file and the mount); ENOENT: gone already.
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(e) => return Err(NetError::netns(name, format!("unmount {}", path.display()), e)),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(NetError::netns(name, format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > 200 {
        "it is longer than 200 bytes"
    } else if name == "." || name == ".." || name.contains(['/', '\0']) {
        "it must be a plain file name"
    } else {
        return Ok(());
    };
    Err(NetError::BadName { name: name.into(), what: "namespace", why })
}

fn sysctl_path(key: &str) -> PathBuf {
    let key = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    Path::new("/proc/sys").join(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_keys_with_dots_or_slashes() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), Path::new("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(sysctl_path("net/ipv4/conf/a.7/rp_filter"), Path::new("/proc/sys/net/ipv4/conf/a.7/rp_filter"));
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", "a\0b"] {
            assert!(matches!(check_name(name), Err(NetError::BadName { .. })), "{name:?}");
        }
        assert!(check_name("gwt-1-edge1").is_ok());
    }
}
