//! The same move by plain `runc checkpoint` and `runc restore`, for comparison, and many moves of both kinds in turn.
//!
//! The plain move gets the best that a script can do around the two commands: images on tmpfs, sent over the same
//! backhaul, the client's packets held and replayed by the same hold. What is left is runc and CRIU as they come.

use std::fs;
use std::time::{Duration, Instant};

use godwit_control::Order;
use godwit_criu::Limit;
use godwit_migration::Cancel;
use godwit_model::{
    BaselineMove, MigrationId, MigrationRecord, NodeName, StrategyChoice, Time, UserName, WorkloadName,
};
use godwit_traffic::{Client, ClientConfig};
use godwit_transport::{NoPages, Receiver, Sender};

use crate::backhaul;
use crate::error::TestbedError;
use crate::stop::Stop;
use crate::world::Testbed;

/// How long one runc call may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after a move its gap is looked at, and how long the connection is left alone before the next.
const SETTLES: Duration = Duration::from_millis(700);
/// How long before the move and after it a silence still belongs to it.
const MARGIN: Duration = Duration::from_millis(100);

type Result<T> = std::result::Result<T, TestbedError>;

/// Moves of both kinds.
#[derive(Debug, Default)]
pub struct Compared {
    /// By Godwit.
    pub own: Vec<MigrationRecord>,
    /// By plain runc.
    pub plain: Vec<BaselineMove>,
}

/// Moves `workload` there and back between its node and `other`, `rounds` times: by Godwit (if `own`) and by plain runc in
/// turn, while a client of `user` measures. Ends early, with what there is, when stopped.
#[allow(clippy::too_many_arguments)]
pub fn compare(
    testbed: &Testbed,
    workload: &WorkloadName,
    user: &UserName,
    other: &NodeName,
    rounds: u32,
    own: Option<StrategyChoice>,
    stop: &Stop,
    mut note: impl FnMut(&str),
) -> Result<Compared> {
    let address = testbed.service_address(workload);
    let client = testbed.network().user_netns(user).enter(|| Client::connect(address, ClientConfig::default()))?;
    let client = client.map_err(|source| TestbedError::Client { user: user.clone(), source })?;
    // A service that is still filling its memory has not accepted the connection yet.
    let deadline = Instant::now() + PATIENCE;
    while client.snapshot().received < 20 && !stop.is_asked() {
        if Instant::now() >= deadline {
            let what = format!("{workload} does not answer within {} s", PATIENCE.as_secs());
            return Err(TestbedError::Compare { what, source: None });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let home = testbed.placement()[workload].clone();
    let mut compared = Compared::default();
    let gap = |from: Instant, to: Instant| {
        std::thread::sleep(SETTLES);
        client.worst_gap_between(from - MARGIN, to + MARGIN).map(|gap| gap.len().as_secs_f64() * 1e3)
    };
    for round in 0..rounds * 2 {
        if stop.is_asked() {
            break;
        }
        let from = testbed.placement()[workload].clone();
        let to = if from == home { other } else { &home };
        if let (Some(wanted), 0) = (own, round % 2) {
            let record = own_move(testbed, workload, &from, to, round, wanted, &gap);
            note(&format!("godwit: {from} -> {to}: stood still for {:.0} ms", record.freeze_ms));
            let failed = record.error.clone();
            compared.own.push(record);
            if let Some(error) = failed {
                return Err(TestbedError::Compare { what: format!("godwit's move to {to}: {error}"), source: None });
            }
        } else {
            let (mut moved, window) = plain_move(testbed, workload, &from, to, round)?;
            moved.gap_ms = gap(window.0, window.1);
            note(&format!("plain runc: {from} -> {to}: stood still for {:.0} ms", moved.freeze_ms));
            compared.plain.push(moved);
        }
    }
    Ok(compared)
}

fn own_move(
    testbed: &Testbed,
    workload: &WorkloadName,
    from: &NodeName,
    to: &NodeName,
    round: u32,
    wanted: StrategyChoice,
    gap: &dyn Fn(Instant, Instant) -> Option<f64>,
) -> MigrationRecord {
    let order = Order {
        id: MigrationId(1_000_000 + u64::from(round)),
        workload: workload.clone(),
        from: from.clone(),
        to: to.clone(),
        rule: "compare".into(),
        reason: "compared with plain runc".into(),
    };
    let (chosen, ended) = testbed.migrate(&order, wanted, &Cancel::default(), &mut |_| ());
    let gap_ms = ended.freeze.and_then(|(from, to)| gap(from, to));
    MigrationRecord {
        id: order.id,
        workload: order.workload,
        from: order.from,
        to: order.to,
        strategy: chosen.strategy,
        strategy_why: chosen.why,
        reason: order.reason,
        start: Time::ZERO,
        freeze_ms: ended.freeze_ms(),
        rounds: ended.rounds,
        phases: ended.phases,
        gap_ms,
        total_ms: ended.total.as_secs_f64() * 1e3,
        bytes: ended.bytes,
        outcome: ended.outcome,
        error: ended.error,
    }
}

fn plain_move(
    testbed: &Testbed,
    workload: &WorkloadName,
    from: &NodeName,
    to: &NodeName,
    round: u32,
) -> Result<(BaselineMove, (Instant, Instant))> {
    let container = testbed.container(workload);
    let (source, target) = (testbed.node(from), testbed.node(to));
    let network = testbed.network();
    let (source_net, target_net) = (network.node(from), network.node(to));
    let service = network.service(workload);
    let images = container.images(2_000_000 + u64::from(round));
    let (sent, received) = (source.host_path(&images), target.host_path(&images));
    for path in [&sent, &received] {
        fs::create_dir_all(path).map_err(|source| TestbedError::File { what: "make", path: path.clone(), source })?;
    }
    let failed =
        |what: &'static str| move |source| TestbedError::Compare { what: format!("runc {what}"), source: Some(source) };
    let lost = |what: &str, error: &dyn std::fmt::Display| TestbedError::Compare {
        what: format!("{what} the images: {error}"),
        source: None,
    };
    let (stream, mut incoming) =
        backhaul::connect(source_net, target_net).map_err(|e| lost("connect to send", &e.chain()))?;
    target_net.netlink.replace_route(&service.local().route(service.ip()))?;

    source_net.hold.capture(service.ip())?;
    network.hold.capture(service.ip())?;
    let start = Instant::now();
    let runc = |env: godwit_criu::NodeEnv, args: &[&str]| {
        let mut command = env.command("runc").args(args.iter().copied());
        if args[0] == "restore" {
            command = command.arg("--bundle").arg(container.bundle());
        }
        command.arg("--image-path").arg(&images).arg(workload.as_str()).run(&Limit::within(PATIENCE))
    };
    runc(source.env(), &["checkpoint", "--tcp-established"]).map_err(failed("checkpoint"))?;
    let dumped = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| Receiver::new(&mut incoming, &received).run(&mut NoPages));
        let sent = Sender::new(stream).and_then(|mut sender| {
            sender.dir(&sent, |name| !name.ends_with(".log"))?;
            sender.finish()
        });
        sent.map_err(|e| lost("send", &e))?;
        receiver.join().map_err(|_| lost("receive", &"panicked"))?.map_err(|e| lost("receive", &e))
    })?;
    let transferred = Instant::now();
    // runc's detached restore keeps its output open: none is caught.
    runc(target.env(), &["restore", "--detach", "--tcp-established"]).map_err(failed("restore"))?;
    let restored = Instant::now();
    network.hold.prepend(service.ip(), source_net.hold.take(service.ip())?)?;
    network.hold.release(service.ip(), &network.towards(to))?;
    let end = Instant::now();
    source_net.hold.release(service.ip(), &source_net.back_to_gateway())?;
    testbed.placement().insert(workload.clone(), to.clone());
    // CRIU leaves its lock in the namespace that the connections were dumped from, and would find it at the way back.
    let unlock = "nft flush ruleset; for t in iptables ip6tables; do $t -F; $t -X; done";
    let netns = network.service_netns(from, workload).path();
    let unlocked = source.env().in_netns(netns).command("sh").args(["-c", unlock]).run(&Limit::within(PATIENCE));
    unlocked.map_err(failed("checkpoint's network lock"))?;
    for path in [sent, received] {
        let _ = fs::remove_dir_all(path);
    }
    let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
    let moved = BaselineMove {
        from: from.clone(),
        to: to.clone(),
        freeze_ms: ms(start, end),
        gap_ms: None,
        checkpoint_ms: ms(start, dumped),
        transfer_ms: ms(dumped, transferred),
        restore_ms: ms(transferred, restored),
        switch_ms: ms(restored, end),
    };
    Ok((moved, (start, end)))
}
