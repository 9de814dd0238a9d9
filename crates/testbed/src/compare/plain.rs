//! One move by the plain tools.
//!
//! It gets the best that a script can do around the commands: images on tmpfs, sent over the same backhaul, the client's
//! packets held and replayed by the same hold. What is left is runc and CRIU as they come.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use godwit_criu::{Limit, NodeEnv};
use godwit_model::{BaselineMove, Bytes, NodeName, WorkloadName};
use godwit_transport::{NoPages, Receiver, Sender};

use super::lazy::{self, Serving};
use crate::backhaul;
use crate::error::TestbedError;
use crate::network::NodeNet;
use crate::node::Node;
use crate::world::Testbed;

/// How long one runc call may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) type Result<T> = std::result::Result<T, TestbedError>;

/// How the plain tools carry the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Plain {
    /// In the images.
    StopCopy,
    /// CRIU's own post-copy: `--lazy-pages` on both sides, its page server over the backhaul.
    LazyPages,
}

/// A move as it was.
#[derive(Debug)]
pub(crate) struct PlainMove {
    pub(crate) from: NodeName,
    pub(crate) to: NodeName,
    /// The moments between the steps: the start, dumped, sent, restored, switched.
    at: [Instant; 5],
    /// With [`Plain::LazyPages`]: when the target had all its memory.
    pub(crate) drained: Option<Instant>,
    /// The images that were sent; CRIU's page server does not say what else was.
    pub(crate) images: Bytes,
}

impl PlainMove {
    /// From the start of the checkpoint until the restored container's packets flow.
    pub(crate) fn freeze(&self) -> (Instant, Instant) {
        (self.at[0], self.at[4])
    }

    pub(crate) fn record(&self, gap_ms: Option<f64>) -> BaselineMove {
        let ms = |from: usize, to: usize| (self.at[to] - self.at[from]).as_secs_f64() * 1e3;
        BaselineMove {
            from: self.from.clone(),
            to: self.to.clone(),
            freeze_ms: ms(0, 4),
            gap_ms,
            checkpoint_ms: ms(0, 1),
            transfer_ms: ms(1, 2),
            restore_ms: ms(2, 3),
            switch_ms: ms(3, 4),
        }
    }
}

/// Both ends of a move.
pub(super) struct Ends<'a> {
    pub(super) workload: &'a WorkloadName,
    pub(super) source: &'a Node,
    pub(super) target: &'a Node,
    pub(super) source_net: &'a NodeNet,
    /// In any node, a tmpfs: for the images, and for CRIU's logs and sockets.
    pub(super) images: PathBuf,
    pub(super) work: PathBuf,
    bundle: PathBuf,
}

pub(super) fn failed(what: &str) -> impl FnOnce(godwit_criu::Error) -> TestbedError + use<'_> {
    move |source| TestbedError::Compare { what: what.into(), source: Some(source) }
}

pub(super) fn broken(what: impl Into<String>) -> TestbedError {
    TestbedError::Compare { what: what.into(), source: None }
}

impl Ends<'_> {
    /// runc's command, with what all of them have.
    pub(super) fn runc(&self, env: &NodeEnv, args: &[&str]) -> godwit_criu::NodeCommand {
        let command = env.command("runc").args(args).arg("--image-path").arg(&self.images);
        command.arg("--work-path").arg(&self.work)
    }

    fn restore(&self, extra: &[&str]) -> Result<()> {
        let args = [&["restore", "--detach", "--tcp-established"], extra].concat();
        let command = self.runc(&self.target.env(), &args).arg("--bundle").arg(&self.bundle);
        // runc's detached restore keeps its output open: none is caught.
        let status =
            command.arg(self.workload.as_str()).spawn().and_then(|mut runc| runc.wait(&Limit::within(PATIENCE)));
        let status = status.map_err(failed("runc restore"))?;
        if status.success() { Ok(()) } else { Err(broken(why(self.target, &self.work, "restore.log", "runc restore"))) }
    }

    fn send(&self, to: &NodeNet) -> Result<Bytes> {
        let lost = |what: &str, error: &dyn std::fmt::Display| broken(format!("{what} the images: {error}"));
        let (stream, incoming) =
            backhaul::connect(self.source_net, to).map_err(|e| lost("connect to send", &e.chain()))?;
        let (sent, received) = (self.source.host_path(&self.images), self.target.host_path(&self.images));
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| Receiver::new(incoming, &received).run(&mut NoPages));
            let sent = Sender::new(stream).and_then(|mut sender| {
                sender.dir(&sent, |name| !name.ends_with(".log"))?;
                sender.finish()
            });
            let bytes = sent.map_err(|e| lost("send", &e))?;
            receiver.join().map_err(|_| lost("receive", &"panicked"))?.map_err(|e| lost("receive", &e))?;
            Ok(bytes)
        })
    }
}

/// What a tool's log says of its failure.
pub(super) fn why(node: &Node, work: &Path, log: &str, what: &str) -> String {
    let text = fs::read_to_string(node.host_path(work.join(log))).unwrap_or_default();
    match text.lines().rfind(|line| line.contains("Error")) {
        Some(line) => format!("{what}: {}", line.trim()),
        None => format!("{what} fails and its log says nothing"),
    }
}

/// Moves `workload` from its node to `to`. `number` is no other migration's of this testbed.
pub(crate) fn plain_move(
    testbed: &Testbed,
    workload: &WorkloadName,
    to: &NodeName,
    number: u64,
    plain: Plain,
) -> Result<PlainMove> {
    let from = testbed.placement()[workload].clone();
    let container = testbed.container(workload);
    let (source, target) = (testbed.node(&from), testbed.node(to));
    let network = testbed.network();
    let (source_net, target_net) = (network.node(&from), network.node(to));
    let service = network.service(workload);
    let images = container.images(number);
    let work = container.images(number).with_extension("work");
    let ends = Ends { workload, source, target, source_net, images, work, bundle: container.bundle() };
    let dirs = [source, target].map(|node| [&ends.images, &ends.work].map(|path| node.host_path(path)));
    for path in dirs.as_flattened() {
        fs::create_dir_all(path).map_err(|source| TestbedError::File { what: "make", path: path.clone(), source })?;
    }
    service.lead(&target_net.netlink, &service.local())?;
    service.capture(&source_net.hold)?;
    service.capture(&network.hold)?;

    let start = Instant::now();
    let mut serving: Option<Serving> = None;
    if plain == Plain::LazyPages {
        serving = Some(lazy::checkpoint(&ends)?);
    } else {
        let runc = ends.runc(&source.env(), &["checkpoint", "--tcp-established"]).arg(workload.as_str());
        runc.run(&Limit::within(PATIENCE)).map_err(failed("runc checkpoint"))?;
    }
    let dumped = Instant::now();
    let sent = ends.send(target_net)?;
    let transferred = Instant::now();
    match &mut serving {
        None => ends.restore(&[])?,
        Some(serving) => {
            serving.fetch(&ends)?;
            ends.restore(&["--lazy-pages"])?;
        }
    }
    let restored = Instant::now();
    service.put_before(&source_net.hold, &network.hold)?;
    service.release(&network.hold, &network.towards(to))?;
    let end = Instant::now();
    service.release(&source_net.hold, &source_net.back_to_gateway())?;
    testbed.placement().insert(workload.clone(), to.clone());
    let drained = serving.map(|serving| serving.drained(&ends)).transpose()?;

    // CRIU leaves its lock in the namespace that the connections were dumped from, and would find it at the way back.
    let unlock = "nft flush ruleset; for t in iptables ip6tables; do $t -F; $t -X; done";
    let netns = network.service_netns(&from, workload).path();
    let unlocked = source.env().in_netns(netns).command("sh").args(["-c", unlock]).run(&Limit::within(PATIENCE));
    unlocked.map_err(failed("runc checkpoint's network lock"))?;
    for path in dirs.as_flattened() {
        let _ = fs::remove_dir_all(path);
    }
    let at = [start, dumped, transferred, restored, end];
    Ok(PlainMove { from, to: to.clone(), at, drained, images: sent })
}
