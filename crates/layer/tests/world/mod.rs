//! A source and a target, real overlays or directories on a tmpfs, and what can be done in them.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use godwit_layer::{Form, Incoming, Mapped, Outgoing, Place, Sent};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

/// On a thread of its own, whose mounts go with it.
pub fn in_own_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            work()
        });
        done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub struct Pair {
    dir: TempDir,
    form: Form,
    out: Outgoing,
    into: Incoming,
}

impl Pair {
    pub fn new(form: Form) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let none = None::<&str>;
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        for name in ["lower", "source", "target", "source.upper", "source.work", "target.upper", "target.work"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["a", "a/b", "c"] {
            fs::create_dir(at("lower").join(name)).unwrap();
            fs::write(at("lower").join(name).join("c"), "below").unwrap();
        }
        symlink("c/c", at("lower/e")).unwrap();
        let upper = |side: &str| at(&format!("{side}.upper"));
        if form == Form::Upper {
            for side in ["source", "target"] {
                let layers = format!(
                    "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off,index=off",
                    at("lower").display(),
                    upper(side).display(),
                    at(&format!("{side}.work")).display()
                );
                mount(Some("overlay"), &at(side), Some("overlay"), MsFlags::empty(), Some(layers.as_str())).unwrap();
            }
        } else {
            fs::write(at("target").join("a stranger"), "not the source's").unwrap();
        }
        let path = if form == Form::Upper { upper("source") } else { at("source") };
        let out = Outgoing::new(vec![Place { path, form, inside: at("source") }]);
        let into = Incoming::new(vec![at("target")]);
        Self { dir, form, out, into }
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    pub fn sync(&mut self, mapped: &Mapped) -> Sent {
        let before = self.into.syncs();
        let into = &mut self.into;
        let sent = self.out.sync(mapped, &mut |message| Ok(into.take(message)?)).unwrap();
        assert_eq!(self.into.syncs(), before + 1, "{:?}", self.form);
        sent
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for side in ["source", "target"] {
            let _ = nix::mount::umount2(&self.dir.path().join(side), nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = nix::mount::umount2(self.dir.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Waits until what is there was not changed just now.
pub fn age(dir: &Path) {
    let newest = listing(dir);
    assert!(!newest.is_empty());
    let marker = dir.join("age");
    let wanted = fs::metadata(dir).unwrap().ctime_nsec() + fs::metadata(dir).unwrap().ctime() * 1_000_000_000;
    loop {
        fs::write(&marker, "").unwrap();
        let now = fs::metadata(&marker).unwrap();
        fs::remove_file(&marker).unwrap();
        if now.ctime() * 1_000_000_000 + now.ctime_nsec() - wanted > 2 * godwit_layer::RACY.as_nanos() as i64 {
            break;
        }
    }
}

/// A path of a few short names, so that steps meet.
fn path() -> impl Strategy<Value = PathBuf> {
    vec(prop_oneof!["a", "b", "c", "e"], 1..4).prop_map(|parts| parts.iter().collect())
}

#[derive(Debug, Clone)]
pub enum Step {
    Write(PathBuf, Vec<u8>),
    Sparse(PathBuf, u32),
    Dir(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf, String),
    Mode(PathBuf, u32),
    Owner(PathBuf, u32),
    Attribute(PathBuf, u8),
    Fifo(PathBuf),
    Device(PathBuf),
    Socket(PathBuf),
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (path(), vec(any::<u8>(), 0..50)).prop_map(|(p, b)| Step::Write(p, b)),
        1 => (path(), 0..3_000_000_u32).prop_map(|(p, at)| Step::Sparse(p, at)),
        3 => path().prop_map(Step::Dir),
        3 => path().prop_map(Step::Remove),
        3 => (path(), path()).prop_map(|(p, q)| Step::Rename(p, q)),
        2 => (path(), path()).prop_map(|(p, q)| Step::Link(p, q)),
        1 => (path(), "[a-c/.]{1,5}").prop_map(|(p, t)| Step::Symlink(p, t)),
        1 => (path(), 0..0o7777_u32).prop_map(|(p, m)| Step::Mode(p, m)),
        1 => (path(), 0..3_u32).prop_map(|(p, u)| Step::Owner(p, u)),
        1 => (path(), any::<u8>()).prop_map(|(p, v)| Step::Attribute(p, v)),
        1 => path().prop_map(Step::Fifo),
        1 => path().prop_map(Step::Device),
        1 => path().prop_map(Step::Socket),
    ];
    vec(step, 0..25)
}

impl Step {
    /// Does it if it can be done: many cannot, which is as good.
    pub fn take(&self, root: &Path) {
        let _ = self.tried(root);
    }

    fn tried(&self, root: &Path) -> std::io::Result<()> {
        // Not through a link: it may lead out of the test.
        let at = |path: &Path| {
            let mut here = root.to_owned();
            for part in path.parent().into_iter().flatten() {
                here.push(part);
                if !fs::symlink_metadata(&here)?.is_dir() {
                    return Err(std::io::ErrorKind::NotADirectory.into());
                }
            }
            Ok::<_, std::io::Error>(root.join(path))
        };
        let no_link = |path: PathBuf| match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() || !(meta.is_file() || meta.is_dir()) => {
                Err(std::io::Error::from(std::io::ErrorKind::InvalidInput))
            }
            _ => Ok(path),
        };
        let new = |path: PathBuf| match fs::symlink_metadata(&path) {
            Ok(_) => Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists)),
            Err(_) => Ok(path),
        };
        let tool = |name: &str, args: &[&str], path: PathBuf| {
            Command::new(name).args(args).arg(path).stderr(Stdio::null()).status().map(drop)
        };
        match self {
            Self::Write(path, bytes) => fs::write(no_link(at(path)?)?, bytes),
            Self::Sparse(path, offset) => {
                let file = File::options().create(true).truncate(false).write(true).open(no_link(at(path)?)?)?;
                file.write_all_at(b"far", u64::from(*offset))?;
                file.set_len(u64::from(*offset) + 100_000)
            }
            Self::Dir(path) => fs::create_dir(at(path)?),
            Self::Remove(path) => fs::remove_dir_all(at(path)?).or_else(|_| fs::remove_file(at(path)?)),
            Self::Rename(path, to) => fs::rename(at(path)?, at(to)?),
            Self::Link(path, to) => fs::hard_link(at(path)?, at(to)?),
            Self::Symlink(path, target) => symlink(target, at(path)?),
            Self::Mode(path, mode) => fs::set_permissions(no_link(at(path)?)?, Permissions::from_mode(*mode)),
            Self::Owner(path, uid) => chown(no_link(at(path)?)?, Some(*uid), Some(uid + 1)),
            Self::Attribute(path, value) => {
                let flags = rustix::fs::XattrFlags::empty();
                Ok(rustix::fs::setxattr(no_link(at(path)?)?, "trusted.test", &[*value], flags)?)
            }
            Self::Fifo(path) => tool("mkfifo", &[], new(at(path)?)?),
            Self::Device(path) => {
                let path = new(at(path)?)?;
                let path = path.to_str().unwrap_or_default();
                Command::new("mknod").args([path, "c", "1", "3"]).status().map(drop)
            }
            Self::Socket(path) => std::os::unix::net::UnixListener::bind(at(path)?).map(drop),
        }
    }
}

/// Everything that is to be the same, by name.
pub fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut all, mut inodes) = (BTreeMap::new(), BTreeMap::new());
    list(root, root, &mut all, &mut inodes);
    all
}

fn list(root: &Path, path: &Path, all: &mut BTreeMap<PathBuf, String>, inodes: &mut BTreeMap<u64, PathBuf>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().to_owned();
    let kind = meta.file_type();
    let mut says = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
    // An overlay that nothing was written into says when it was mounted.
    if !name.as_os_str().is_empty() {
        says += &format!(" {}.{:09}", meta.mtime(), meta.mtime_nsec());
    }
    if kind.is_file() {
        let mut bytes = Vec::new();
        File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
        says += &format!(" {} bytes {:?} same as {first:?}", bytes.len(), sum(&bytes));
    }
    if kind.is_file() || kind.is_dir() {
        let mut value = [0; 16];
        if let Ok(n) = rustix::fs::getxattr(path, "trusted.test", &mut value) {
            says += &format!(" {:?}", &value[..n]);
        }
    }
    if kind.is_symlink() {
        says += &format!(" to {:?}", fs::read_link(path).unwrap());
    }
    if kind.is_char_device() {
        says += &format!(" device {}", meta.rdev());
    }
    all.insert(name, says);
    if kind.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| list(root, entry, all, inodes));
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .enumerate()
        .fold(0, |sum: u64, (n, byte)| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)).wrapping_add(n as u64 & 1))
}

/// A process that has a file mapped shared and writes into it when it is told to.
pub struct Mapper(Child);

impl Mapper {
    pub fn start(path: &Path) -> Self {
        // mmap by its number; what is written through /proc/self/mem is written as by a plain store.
        let program = r#"use POSIX; my $mmap = (POSIX::uname())[4] eq "aarch64" ? 222 : 9; $| = 1;
            open my $f, "+<", $ARGV[0] or die "$!"; my $at = syscall($mmap, 0, 8192, 3, 1, fileno($f), 0);
            $at > 0 or die "mmap: $!"; open my $m, "+<", "/proc/self/mem" or die "$!"; close $f;
            sub put { sysseek $m, $at, 0; syswrite $m, $_[0], 1 or die "$!" } put("a"); print "ready\n";
            while (my $line = <STDIN>) { put($line); print "done\n" }"#;
        let mut child = Command::new("perl")
            .args(["-e", program])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        line(&mut child);
        Self(child)
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    pub fn write(&mut self, byte: u8) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{}", byte as char).unwrap();
        line(&mut self.0);
    }
}

fn line(child: &mut Child) {
    let mut out = BufReader::new(child.stdout.as_mut().unwrap());
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    assert!(!text.is_empty());
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
