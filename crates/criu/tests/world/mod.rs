//! Two small nodes and a client, made of namespaces, for tests and benchmarks of this crate.
//!
//! ```text
//!   client netns (10.77.0.1) ──ra── service netns a (10.77.0.2) ◄─ containers of node a
//!                            ──rb── service netns b (10.77.0.2) ◄─ containers of node b
//! ```
//! A node is a process tree with mount, pid, uts and ipc namespaces of its own and an overlay of the node image as
//! its root. Everything is gone when the [`World`] is dropped.

#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use godwit_criu::{
    DumpOptions, HeldDump, ImagesDir, Limit, NodeEnv, PreparedDump, PreparedRestore, RestoreOptions, RestorePlan, Runc,
    Spec, Streams,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};

/// Where the service listens, whatever node it is on.
pub const SERVICE: &str = "10.77.0.2:7000";

/// The container's bundle, in either node.
pub const BUNDLE: &str = "/var/lib/godwit/app";

/// For everything that is not measured.
pub fn limit() -> Limit {
    Limit::seconds(30)
}

/// The node image's root, or the reason why tests that need it are skipped.
pub fn node_image() -> Result<PathBuf, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".into());
    }
    let cache = std::env::var_os("GODWIT_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(|| "/root".into());
        home.join(".cache/godwit")
    });
    let image = cache.join("node-image/current");
    if !image.join("complete").exists() {
        return Err(format!("no node image in {}: run scripts/setup-node-image.sh", cache.display()));
    }
    Ok(image.join("rootfs"))
}

/// The workload's binary, of the package that the test or example is in: cargo tells integration tests where it is; an
/// example finds it beside itself.
fn counter() -> PathBuf {
    let given = option_env!("CARGO_BIN_EXE_criu-counter").or(option_env!("CARGO_BIN_EXE_pages-service"));
    if let Some(path) = given.or(option_env!("CARGO_BIN_EXE_agent-counter")) {
        return path.into();
    }
    let name = if env!("CARGO_PKG_NAME") == "godwit-pages" { "pages-service" } else { "criu-counter" };
    let exe = std::env::current_exe().expect("our own path");
    let found = exe.ancestors().map(|dir| dir.join(name)).find(|path| path.is_file());
    found.expect("the workload beside us: cargo build --bins of the same package, with the same profile")
}

/// One node.
pub struct Node {
    unshare: Child,
    pub env: NodeEnv,
    pub netns: String,
    pub cgroup: String,
}

/// Two nodes and a client's network namespace.
pub struct World {
    name: String,
    pub a: Node,
    pub b: Node,
    _dir: tempfile::TempDir,
    images: tempfile::TempDir,
}

static WORLDS: AtomicUsize = AtomicUsize::new(0);

impl World {
    /// Makes it.
    pub fn new(image: &Path) -> Self {
        let name = format!("gwt{}x{}", std::process::id(), WORLDS.fetch_add(1, Ordering::SeqCst));
        // CRIU moves page contents through pipes larger than the default; root without CAP_SYS_RESOURCE may not.
        fs::write("/proc/sys/fs/pipe-max-size", "4194304").expect("raise pipe-max-size");
        let client = format!("{name}c");
        ip(&["netns", "add", &client]);
        ip(&["-n", &client, "link", "set", "lo", "up"]);
        ip(&["-n", &client, "addr", "add", "10.77.0.1/32", "dev", "lo"]);
        for side in ["a", "b"] {
            let (service, veth) = (format!("{name}{side}"), format!("r{side}"));
            ip(&["netns", "add", &service]);
            ip(&["-n", &client, "link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &service]);
            let mac = ["address", "02:00:00:00:00:01"];
            ip(&[&["-n", &client, "link", "set", &veth][..], &mac[..], &["up"]].concat());
            ip(&["-n", &service, "link", "set", "lo", "up"]);
            ip(&["-n", &service, "addr", "add", "10.77.0.2/32", "dev", "eth0"]);
            ip(&["-n", &service, "link", "set", "eth0", "address", "02:00:00:00:00:02", "up"]);
            ip(&["-n", &service, "route", "add", "10.77.0.1", "dev", "eth0"]);
            let neighbour = |ns: &str, address: &str, mac: &str, dev: &str| {
                ip(&["-n", ns, "neigh", "replace", address, "lladdr", mac, "dev", dev, "nud", "permanent"]);
            };
            neighbour(&service, "10.77.0.1", "02:00:00:00:00:01", "eth0");
            neighbour(&client, "10.77.0.2", "02:00:00:00:00:02", &veth);
        }
        let dir = tempfile::Builder::new().prefix("gwt").tempdir().expect("a directory");
        let images = tempfile::Builder::new().prefix("gwt").tempdir_in("/dev/shm").expect("a directory on tmpfs");
        let node = |side: &str| Node::new(&name, side, image, dir.path());
        let world = Self { a: node("a"), b: node("b"), name: name.clone(), _dir: dir, images };
        world.route_to("a");
        for node in [&world.a, &world.b] {
            let found = godwit_criu::check(&node.env, &limit()).expect("a CRIU that works");
            assert!(found.complaints.is_empty(), "criu complains: {:?}", found.complaints);
        }
        world
    }

    /// Sends the client's packets to one of the nodes.
    pub fn route_to(&self, side: &str) {
        ip(&[
            "-n",
            &format!("{}c", self.name),
            "route",
            "replace",
            "10.77.0.2",
            "dev",
            &format!("r{side}"),
            "src",
            "10.77.0.1",
        ]);
    }

    /// A directory for images, on tmpfs.
    pub fn images(&self, name: &str) -> ImagesDir {
        ImagesDir::create(self.images.path().join(name)).expect("a directory")
    }

    /// A directory for images with little room: a tmpfs that goes with the world.
    pub fn small_images(&self, bytes: u64) -> ImagesDir {
        let dir = self.images.path().join("small");
        fs::create_dir_all(&dir).expect("a directory");
        let options = format!("size={bytes}");
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("a tmpfs");
        let images = ImagesDir::create(&dir).expect("a directory");
        // Detached at once: it lives as long as the descriptor.
        umount2(&dir, MntFlags::MNT_DETACH).expect("unmounted");
        images
    }

    /// The source's side of a move up to the decision: packets blocked, container frozen and dumped.
    pub fn hold_source(&self, id: &str) -> (HeldDump, PreparedRestore) {
        let options = DumpOptions::default();
        let dump = PreparedDump::new(&self.a.env, id, self.images("i"), options, &limit()).expect("a prepared dump");
        let restore = self.prepare_target(id, dump.plan());
        self.a.block(true);
        self.b.block(true);
        let frozen = dump.freeze(&limit()).expect("a frozen container");
        (frozen.dump(&limit()).expect("a dumped container"), restore)
    }

    /// The target's side of a move of what is in the images "i".
    pub fn prepare_target(&self, id: &str, plan: &RestorePlan) -> PreparedRestore {
        self.b.write_bundle(id, 16, &[]);
        let options = RestoreOptions::new(BUNDLE);
        let restore = PreparedRestore::new(&self.b.env, id, self.images("i"), plan, options, &limit());
        restore.expect("a prepared restore")
    }

    /// A whole move, after which the source has forgotten the container.
    pub fn move_between(&self, from: &Node, to: &Node, to_side: &str, id: &str, images: &str) {
        let options = DumpOptions::default();
        let dump = PreparedDump::new(&from.env, id, self.images(images), options, &limit()).expect("a prepared dump");
        to.write_bundle(id, 16, &[]);
        let options = RestoreOptions::new(BUNDLE);
        let restore = PreparedRestore::new(&to.env, id, self.images(images), dump.plan(), options, &limit());
        let restore = restore.expect("a prepared restore");
        from.block(true);
        to.block(true);
        let held = dump.freeze(&limit()).expect("frozen").dump(&limit()).expect("dumped");
        let restored = restore.restore(&limit()).expect("restored");
        self.route_to(to_side);
        let running = restored.resume(&limit()).expect("running");
        to.block(false);
        held.commit(&limit()).expect("committed");
        running.finish(&limit()).expect("finished");
        Runc::new(&from.env).delete(id, false, &limit()).expect("deleted");
        from.block(false);
    }

    /// A client that is connected and has had its first answer.
    pub fn client(&self) -> Client {
        Client::start(&format!("/run/netns/{}c", self.name))
    }

    /// Asks one number over a connection of its own, `further` ports above the service's.
    pub fn ask_once(&self, further: u16, number: u64) -> u64 {
        let ns = fs::File::open(format!("/run/netns/{}c", self.name)).expect("the client's netns");
        let mut address: SocketAddr = SERVICE.parse().expect("an address");
        address.set_port(address.port() + further);
        let asking = std::thread::spawn(move || {
            setns(&ns, CloneFlags::CLONE_NEWNET).expect("in the client's netns");
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).expect("connected");
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            stream.write_all(&number.to_le_bytes()).expect("asked");
            let mut answer = [0; 16];
            stream.read_exact(&mut answer).expect("answered");
            u64::from_le_bytes(answer[8..].try_into().expect("8 bytes"))
        });
        asking.join().expect("no panic")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in [&mut self.a, &mut self.b] {
            node.end(&self.name);
        }
        for side in ["a", "b", "c"] {
            ip(&["netns", "del", &format!("{}{side}", self.name)]);
        }
        for (_, dir) in hierarchies() {
            for side in ["a", "b"] {
                remove_cgroup(&dir.join(&self.name).join(side));
            }
            remove_cgroup(&dir.join(&self.name));
        }
    }
}

impl Node {
    fn new(world: &str, side: &str, image: &Path, dir: &Path) -> Self {
        let base = dir.join(side);
        fs::create_dir_all(&base).expect("a directory");
        let netns = format!("/run/netns/{world}{side}");
        let cgroup = format!("/{world}/{side}");
        let mut dirs = Vec::new();
        for (_, hierarchy) in hierarchies() {
            let mut made = hierarchy.clone();
            for part in [world, side] {
                made = made.join(part);
                fs::create_dir_all(&made).expect("a cgroup");
                // A new cpuset has no CPUs, and nothing can be in it until it has.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if let Ok(all) = fs::read_to_string(made.parent().expect("a parent").join(file)) {
                        let _ = fs::write(made.join(file), all);
                    }
                }
            }
            dirs.push(made);
        }
        let script = r#"
            set -e
            mount -t tmpfs tmpfs "$BASE"
            cd "$BASE"
            mkdir up work root appup appwork
            mount -t overlay overlay -o "lowerdir=$IMAGE,upperdir=up,workdir=work" root
            mkdir -p root/var/lib/godwit/app/rootfs root/run/netns root/old
            cp "$COUNTER" appup/counter
            mount -t overlay overlay -o "lowerdir=$IMAGE,upperdir=appup,workdir=appwork" root/var/lib/godwit/app/rootfs
            mount -t proc proc root/proc
            mount --rbind /sys root/sys
            mount --rbind /dev root/dev
            mount -t tmpfs tmpfs root/run
            mkdir -p root/run/netns root/tmp
            touch "root$NETNS"
            mount --bind "$NETNS" "root$NETNS"
            mount -t tmpfs tmpfs root/tmp
            cd root
            pivot_root . old
            umount -l /old
            echo ready
            exec >/dev/null 2>&1 </dev/null
            trap : TERM
            while :; do sleep 1000 & wait; done
        "#;
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--propagation", "private"])
            .args(["bash", "-c", script])
            .env("BASE", &base)
            .env("IMAGE", fs::canonicalize(image).expect("the image"))
            .env("COUNTER", counter())
            .env("NETNS", &netns)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        let mut out = BufReader::new(unshare.stdout.take().expect("a pipe"));
        out.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "the node did not come up");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = fs::read_to_string(children).expect("children").trim().parse().expect("one child");
        let env = NodeEnv::node(init).in_cgroups(dirs);
        Self { unshare, env, netns, cgroup }
    }

    /// Writes the bundle and starts the counter in it.
    pub fn run_counter(&self, id: &str, mib: usize, extra: &[&str]) {
        self.write_bundle(id, mib, extra);
        let bundle = Path::new(BUNDLE);
        Runc::new(&self.env).run(id, bundle, Streams::default(), &limit()).expect("a running container");
    }

    /// Writes the bundle.
    pub fn write_bundle(&self, id: &str, mib: usize, extra: &[&str]) {
        let mib = mib.to_string();
        let args = [&["/counter", "7000", &mib, "4"][..], extra].concat();
        Spec::new(args, format!("{BUNDLE}/rootfs"))
            .netns(&self.netns)
            .cgroups_path(format!("{}/{id}", self.cgroup))
            .write(&self.env.host_path(BUNDLE))
            .expect("a bundle");
    }

    /// What [`Node::env_of`] makes the node's environment from, in another process.
    pub fn description(&self) -> String {
        format!("{} {}", self.env.init_pid().expect("a node"), self.cgroup)
    }

    /// The environment of a node of another process.
    pub fn env_of(description: &str) -> NodeEnv {
        let (init, cgroup) = description.split_once(' ').expect("two words");
        NodeEnv::node(init.parse().expect("a pid")).in_cgroups(cgroups(cgroup))
    }

    /// The node's cgroups, a directory a hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        cgroups(&self.cgroup)
    }

    /// Keeps all packets from the service and from its peers, or lets them through again.
    pub fn block(&self, on: bool) {
        let script = if on {
            "add table inet godwit; add chain inet godwit in { type filter hook input priority -300; policy drop; }; \
             add chain inet godwit out { type filter hook output priority -300; policy drop; }"
        } else {
            "delete table inet godwit"
        };
        self.env.in_netns(&self.netns).command("nft").arg(script).run(&limit()).expect("nft");
    }

    fn end(&mut self, world: &str) {
        // --kill-child: the node's first process dies with it, and everything in the node with that.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        if let Some(init) = self.env.init_pid() {
            // Ended is enough: whoever adopts orphans on this host may take seconds to wait for it.
            let start = Instant::now();
            while fs::read_to_string(format!("/proc/{init}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
                // What a failed test has left frozen cannot die with its node, and whoever was about to freeze it may do so
                // only now.
                hierarchies().iter().for_each(|(_, dir)| thaw(&dir.join(world)));
                if start.elapsed() > Duration::from_secs(20) {
                    eprintln!("node {init} does not end");
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}

fn cgroups(path: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|(_, dir)| dir.join(&path[1..])).collect()
}

/// The mounted cgroup hierarchies: v1 controllers, or the one of v2.
fn hierarchies() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mut found = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if matches!(fields[2], "cgroup" | "cgroup2") {
            found.push((fields[3].to_owned(), PathBuf::from(fields[1])));
        }
    }
    found
}

/// Thaws all below a control group.
fn thaw(dir: &Path) {
    for (file, text) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if dir.join(file).exists() {
            let _ = fs::write(dir.join(file), text);
        }
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            thaw(&entry.path());
        }
    }
}

fn remove_cgroup(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // EBUSY while the last processes leave it.
    let start = Instant::now();
    while dir.exists() && fs::remove_dir(dir).is_err() && start.elapsed() < Duration::from_secs(5) {
        std::thread::yield_now();
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A client that asks every 2 ms over one connection and checks each answer.
pub struct Client {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: JoinHandle<Result<Seen, String>>,
}

/// What a client has seen.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub answers: u64,
    pub longest_gap: Duration,
}

impl Client {
    fn start(netns: &str) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let ns = fs::File::open(netns).expect("the client's netns");
        let thread = std::thread::spawn({
            let (stop, answers) = (stop.clone(), answers.clone());
            move || {
                setns(&ns, CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
                // Said here too: whoever waits for answers panics before it joins.
                ask(&stop, &answers).inspect_err(|e| eprintln!("the client's connection: {e}"))
            }
        });
        let client = Self { stop, answers, thread };
        client.wait_for(1);
        client
    }

    /// Waits until that many more answers have come.
    pub fn wait_for(&self, more: u64) {
        let target = self.answers.load(Ordering::SeqCst) + more;
        let start = Instant::now();
        while self.answers.load(Ordering::SeqCst) < target {
            assert!(!self.thread.is_finished(), "the client has given up");
            assert!(start.elapsed() < Duration::from_secs(60), "no answer for 60 s");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it; an error if the connection broke, or an answer was wrong, lost or doubled.
    pub fn stop(self) -> Result<Seen, String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("no panic")
    }
}

/// On a loaded machine packets are kept away for seconds, and TCP would wait for as long again. (Older kernels than Linux
/// 6.15 do, which only takes time.) It would also give up after fifteen tries, which are then fifteen seconds.
#[allow(unsafe_code)]
fn retransmit_often(stream: &TcpStream) {
    const TCP_RTO_MAX_MS: libc::c_int = 44;
    for (option, ms) in [(TCP_RTO_MAX_MS, 1000), (libc::TCP_USER_TIMEOUT, 120_000)] {
        let ms: libc::c_int = ms;
        let len = size_of_val(&ms) as libc::socklen_t;
        // SAFETY: the kernel reads `len` bytes from `ms`.
        unsafe {
            libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const ms).cast(), len);
        }
    }
}

fn ask(stop: &AtomicBool, answers: &AtomicU64) -> Result<Seen, String> {
    let address: SocketAddr = SERVICE.parse().expect("an address");
    let start = Instant::now();
    let mut stream = loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(stream) => break stream,
            // The server has not yet called listen.
            Err(_) if start.elapsed() < Duration::from_secs(20) => std::thread::sleep(Duration::from_millis(2)),
            Err(e) => return Err(format!("cannot connect: {e}")),
        }
    };
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    retransmit_often(&stream);
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(|e| e.to_string())?;
    let mut seen = Seen { answers: 0, longest_gap: Duration::ZERO };
    let (mut counted, mut last) = (None, Instant::now());
    while !stop.load(Ordering::SeqCst) {
        stream.write_all(&seen.answers.to_le_bytes()).map_err(|e| format!("write: {e}"))?;
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).map_err(|e| format!("read: {e}"))?;
        let number = |i: usize| u64::from_le_bytes(answer[i..i + 8].try_into().expect("8 bytes"));
        if number(0) != seen.answers {
            return Err(format!("asked {} and was answered {}", seen.answers, number(0)));
        }
        // Alone on the server, so its count goes up by one each time, or its memory is not what it was.
        if counted.is_some_and(|c: u64| c + 1 != number(8)) {
            return Err(format!("the count went from {counted:?} to {}", number(8)));
        }
        counted = Some(number(8));
        seen.answers += 1;
        seen.longest_gap = seen.longest_gap.max(last.elapsed());
        last = Instant::now();
        answers.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(seen)
}

/// The node image, or a return from the test that says so.
#[macro_export]
macro_rules! image_or_skip {
    () => {
        match $crate::world::node_image() {
            Ok(image) => image,
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return;
            }
        }
    };
}
