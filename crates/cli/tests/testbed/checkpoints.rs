//! `godwit checkpoint`, `godwit restore`, `godwit checkpoint inspect`.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::e2e::service::{Client, echo};
use crate::e2e::{Bed, Call, call, until};

/// A service with something in memory, in its root file system and in a tmpfs.
const FILES: &str = r#"for my $f ("/kept", "/tmp/kept") { open my $k, ">", $f or die "$f: $!"; print $k "one"; close $k }
    unlink "/etc/motd";"#;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// `godwit checkpoint app`, which must end well; the file and how it went.
#[track_caller]
fn take(bed: &Bed, workload: &str, name: &str, more: &[&str]) -> (PathBuf, Value) {
    let file = bed.path(name);
    let taken = bed.call(&[&["checkpoint", workload, text(&file), "--json"], more].concat()).code(0).json();
    assert_eq!(taken["file_bytes"], fs::metadata(&file).unwrap().len(), "{taken:#}");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "it is memory: nobody else's business");
    (file, taken)
}

#[track_caller]
fn restore(bed: &Bed, file: &Path, more: &[&str]) -> Value {
    bed.call(&[&["restore", text(file), "--json"], more].concat()).code(0).json()
}

/// Nothing of a checkpoint's way is left on the nodes.
#[track_caller]
fn nothing_is_left_on_nodes(bed: &Bed) {
    for name in bed.nodes() {
        assert_eq!(bed.node(&name).images(), "", "on {name}");
        assert_eq!(bed.node(&name).sh("ls -A /run/godwit/criu 2>/dev/null || true"), "", "on {name}");
    }
}

pub fn copies_have_memory_and_files_as_they_were() {
    let bed = Bed::of(&echo(FILES));
    let mut client = Client::connect(&bed);
    (0..3).for_each(|_| client.ask());
    let (file, taken) = take(&bed, "app", "it.ckpt", &[]);
    assert!(taken["frozen_ms"].as_f64().unwrap() > 0.0 && taken["stopped"] == false, "{taken:#}");
    // The world goes on.
    (0..2).for_each(|_| client.ask());
    let change = ["runc", "exec", "app", "sh", "-c", "echo -n two >/kept; echo -n two >/tmp/kept; touch /new"];
    bed.node("a").run(change).code(0);

    let copies = [("copy-1", "a"), ("copy-2", "b"), ("copy-3", "b")];
    thread::scope(|scope| {
        for (name, node) in copies {
            let (bed, file) = (&bed, &file);
            scope.spawn(move || {
                let restored = restore(bed, file, &["--node", node, "--as", name]);
                assert_eq!((&restored["workload"], &restored["was"]), (&json!(name), &json!("app")), "{restored:#}");
                assert_eq!(restored["connections_kept"], false);
            });
        }
    });
    for (name, node) in copies {
        let mut asks = Client::connect_to(&bed, name, 3);
        asks.ask();
        let inside = ["runc", "exec", name, "sh", "-c", "cat /kept /tmp/kept; ls /new /etc/motd 2>/dev/null || true"];
        assert_eq!(bed.node(node).run(inside).code(0).out, "oneone", "{name}");
    }
    client.ask();
    let status = bed.status();
    let services: std::collections::BTreeSet<_> =
        status["workloads"].as_array().unwrap().iter().map(|w| w["service"].to_string()).collect();
    assert_eq!(services.len(), 4, "each has its own address: {status:#}");
    bed.call(&["migrate", "copy-1", "b"]).fails(2).says("copy-1 is a restored copy");
    // A copy can be kept in turn, and ended with it; its name and address are free again then.
    let (again, _) = take(&bed, "copy-1", "again.ckpt", &["--stop"]);
    assert!(bed.status()["workloads"].as_array().unwrap().iter().all(|w| w["name"] != "copy-1"));
    restore(&bed, &again, &["--node", "b", "--as", "copy-1"]);
    Client::connect_to(&bed, "copy-1", 4).ask();
    nothing_is_left_on_nodes(&bed);
}

pub fn the_service_runs_on_and_nothing_is_lost() {
    let bed = Bed::up();
    assert_eq!(bed.until_it_answers(), 0);
    let (file, taken) = take(&bed, "video", "it.ckpt", &[]);
    assert!(taken["gap_ms"].is_number(), "its client measures: {taken:#}");
    let text_of = bed.call(&["checkpoint", "video", text(&file), "--force"]).code(0);
    text_of.prints("video on edge1 is in ").prints("it stood still for ").prints("and runs on");
    assert_eq!(bed.until_it_answers(), 0, "the client's connection broke");
    bed.assert_runs_only_on("video", "edge1");

    // Who may read it needs no other right to look into it.
    let (program, copy, dir) = (bed.path("godwit"), bed.path("copy.ckpt"), bed.path(""));
    fs::copy(call::program(), &program).unwrap();
    fs::copy(&file, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", text(&program)];
    let shown = Call::of("setpriv", [&nobody[..], &["checkpoint", "inspect", text(&copy)]].concat()).run().code(0);
    shown.prints("Godwit checkpoint, format 1").prints("godwit service --listen").prints("memory pages");

    // Another than the counting service's own client would not see a page that is lost or stale.
    restore(&bed, &file, &["--node", "edge2", "--as", "twin"]);
    let status = bed.status();
    let twin = status["workloads"].as_array().unwrap().iter().find(|w| w["name"] == "twin").unwrap().clone();
    let address = twin["service"].as_str().unwrap().parse().unwrap();
    let netns = format!("/run/netns/godwit.{}.user.car", bed.name());
    let report = thread::spawn(move || {
        setns(File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        let client = godwit_traffic::Client::connect(address, godwit_traffic::ClientConfig::default()).unwrap();
        until("the twin answers", || (client.snapshot().received > 100).then_some(()));
        client.finish().unwrap()
    });
    let report = report.join().unwrap();
    assert!(report.is_clean(), "{report:#?}");
    // It is a migration's business as before.
    bed.migrate("video", "edge3");
    assert_eq!(bed.until_it_answers(), 0);
    nothing_is_left_on_nodes(&bed);
}

pub fn what_was_stopped_comes_back_elsewhere_with_its_connections() {
    let bed = Bed::of(&echo(FILES));
    let mut client = Client::connect(&bed);
    client.ask();
    let (file, taken) = take(&bed, "app", "it.ckpt", &["--stop"]);
    assert_eq!(taken["stopped"], true);
    assert_eq!(bed.status()["workloads"][0]["running"], false);
    assert_eq!(bed.node("a").containers(), []);
    bed.call(&["migrate", "app", "b"]).fails(2).says("godwit restore FILE --node NODE");
    bed.call(&["checkpoint", "app", text(&bed.path("other"))]).fails(2).says("app does not run");

    let restored = restore(&bed, &file, &["--node", "b", "--tcp", "keep"]);
    assert_eq!(restored["connections_kept"], true, "{restored:#}");
    client.ask();
    bed.assert_runs_only_on("app", "b");
    assert_eq!(bed.node("b").run(["runc", "exec", "app", "cat", "/kept"]).code(0).out, "one");
    // Once: what has gone on since cannot go on again.
    bed.call(&["restore", text(&file), "--node", "a"]).fails(2).says("app runs on b");
    let (_, _) = take(&bed, "app", "later.ckpt", &["--stop"]);
    bed.call(&["restore", text(&file), "--node", "a", "--tcp", "keep"]).fails(2).says("with another checkpoint");
    assert_eq!(bed.status()["workloads"][0]["running"], false);
    restore(&bed, &bed.path("later.ckpt"), &["--node", "a"]);
    client.ask();
    bed.migrate("app", "b");
    client.ask();
    nothing_is_left_on_nodes(&bed);
}

pub fn what_was_stopped_comes_back_with_its_connections_closed() {
    let bed = Bed::of(&echo(""));
    let mut client = Client::connect(&bed);
    client.ask();
    let (file, _) = take(&bed, "app", "it.ckpt", &["--stop"]);
    let said = bed.call(&["restore", text(&file), "--node", "a", "--tcp", "close"]).code(0);
    said.prints("app runs on a at 10.").prints("its TCP connections were closed");
    client.is_closed();
    Client::connect_to(&bed, "app", 1).ask();
    bed.assert_runs_only_on("app", "a");
    // A workload that has ended by itself comes back as well.
    bed.node("a").run(["runc", "kill", "app", "KILL"]).code(0);
    until("it has ended", || (bed.status()["workloads"][0]["running"] == false).then_some(()));
    restore(&bed, &file, &["--node", "b"]);
    Client::connect_to(&bed, "app", 1).ask();
    bed.assert_runs_only_on("app", "b");
}

pub fn an_oci_image_is_restored() {
    let bed = Bed::of(&echo(FILES));
    let mut client = Client::connect(&bed);
    client.ask();
    let (file, _) = take(&bed, "app", "it.tar", &["--format", "oci"]);
    let index = Call::of("tar", ["-xOf", text(&file), "index.json"]).run().code(0).json();
    let image = &index["manifests"][0];
    for annotations in [&index["annotations"], &image["annotations"]] {
        assert_eq!(annotations["io.kubernetes.cri-o.annotations.checkpoint.name"], "app", "{index:#}");
        assert_eq!(annotations["io.podman.annotations.checkpoint.name"], "app", "{index:#}");
        assert_eq!(annotations["org.criu.checkpoint.container.name"], "app", "{index:#}");
    }
    let said = bed_less(&["checkpoint", "inspect", text(&file)]).code(0);
    said.prints("OCI checkpoint image").prints("app").prints("listening").prints("perl");
    restore(&bed, &file, &["--node", "b", "--as", "twin"]);
    Client::connect_to(&bed, "twin", 1).ask();
    assert_eq!(bed.node("b").run(["runc", "exec", "twin", "cat", "/kept", "/tmp/kept"]).code(0).out, "oneone");
    client.ask();
}

/// Without a testbed's name.
fn bed_less(args: &[&str]) -> crate::e2e::Ran {
    crate::e2e::godwit(args)
}

/// A dump of the node's own runc, packed as CRI-O and containerd do it for the kubelet.
pub fn an_archive_as_the_kubelet_makes_it_is_restored() {
    let bed = Bed::of(&echo(FILES));
    Client::connect(&bed).ask();
    let node = bed.node("a");
    node.sh("set -e; cd /var/lib/godwit/state; mkdir pack; \
         runc checkpoint --leave-running --tcp-skip-in-flight --tcp-established --image-path pack/checkpoint \
             --work-path pack app; \
         cp bundles/app/config.json pack/spec.dump; \
         tar -C bundles/app/upper --exclude=./etc -cf pack/rootfs-diff.tar .; \
         echo '[\"etc/motd\"]' >pack/deleted.files; \
         echo '{\"id\":\"0123\",\"name\":\"app\",\"rootfsImageName\":\"localhost/app:1\",\"runtime\":\"runc\",\
                \"createdTime\":\"2026-11-24T11:00:00Z\"}' >pack/config.dump; \
         tar -C pack -cf archive.tar .; rm -r pack");
    let file = bed.path("archive.tar");
    fs::copy(node.path("/var/lib/godwit/state/archive.tar"), &file).unwrap();
    node.sh("rm /var/lib/godwit/state/archive.tar");
    let inspected = bed_less(&["checkpoint", "inspect", text(&file), "--json"]).code(0).json();
    assert_eq!((&inspected["format"], &inspected["workload"]), (&json!("kubelet"), &json!("app")));
    assert_eq!(inspected["processes"][0]["name"], "perl", "{inspected:#}");
    assert!(inspected["sockets"].as_array().unwrap().iter().any(|s| s["state"] == "listening"), "{inspected:#}");

    bed.call(&["restore", text(&file), "--node", "b"]).fails(2).says("give it a name: --as NAME");
    let said = bed.call(&["restore", text(&file), "--node", "b", "--as", "pod"]).code(0);
    said.prints("pod runs on b");
    let inside = ["runc", "exec", "pod", "sh", "-c", "cat /kept /tmp/kept; ls /etc/motd 2>/dev/null || true"];
    assert_eq!(bed.node("b").run(inside).code(0).out, "oneone");
    let listens = bed.node("b").run(["runc", "exec", "pod", "cat", "/proc/net/tcp"]).code(0).out;
    assert!(listens.lines().any(|line| line.contains(":15B3") && line.contains(" 0A ")), "it listens: {listens}");
    Client::connect_to(&bed, "app", 1).ask();
    nothing_is_left_on_nodes(&bed);
}

pub fn damage_restores_nothing() {
    let bed = Bed::of(&echo(""));
    let (file, _) = take(&bed, "app", "it.ckpt", &[]);
    let good = fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bad in [&good[..good.len() / 2], &good[..good.len() - 1], &flipped] {
        fs::write(&file, bad).unwrap();
        let refused = bed.call(&["restore", text(&file), "--node", "b", "--as", "twin"]).fails(2);
        refused.says("is damaged").says("nothing of it was restored");
        bed_less(&["checkpoint", "inspect", text(&file)]).fails(2).says("is damaged");
    }
    assert_eq!(bed.status()["workloads"].as_array().unwrap().len(), 1);
    assert_eq!(bed.node("b").containers(), []);
    nothing_is_left_on_nodes(&bed);
    fs::write(&file, good).unwrap();
    // The name was not used up.
    restore(&bed, &file, &["--node", "b", "--as", "twin"]);
}

pub fn what_cannot_be_is_refused_and_changes_nothing() {
    let bed = Bed::of(&echo(""));
    let mut client = Client::connect(&bed);
    client.ask();
    let (file, _) = take(&bed, "app", "it.ckpt", &[]);
    let there = text(&file);
    let new = bed.path("new");
    let nowhere = bed.path("no/such/dir/file");
    for (args, says) in [
        (&["checkpoint", "nobody", text(&new)][..], "there is no workload nobody; there is app"),
        (&["checkpoint", "app", there], "exists already"),
        (&["checkpoint", "app", text(&nowhere)], "No such file or directory"),
        (&["restore", there, "--node", "moon", "--as", "x"], "there is no node moon; there is a, b"),
        (&["restore", there, "--node", "b"], "app runs on a; restore a copy beside it: --as NAME"),
        (&["restore", there, "--node", "b", "--as", "app"], "app is a workload of this testbed"),
        (&["restore", there, "--node", "b", "--as", "x", "--tcp", "keep"], "a copy has another address"),
        (&["restore", text(&new), "--node", "b", "--as", "x"], "No such file or directory"),
    ] {
        bed.call(args).fails(2).says(says);
    }
    client.ask();
    assert!(!new.exists());
    bed.assert_runs_only_on("app", "a");
    nothing_is_left_on_nodes(&bed);
}

pub fn who_goes_away_leaves_no_half_of_a_file() {
    let scenario = "version: 1\nname: big\nduration: 60s\nnodes: [ { name: a, memory: 2GiB } ]\n\
         users: [ { name: car, rtt: { a: 1ms } } ]\n\
         workloads:\n  - { name: app, node: a, users: [car], memory: 192MiB }\n";
    let bed = Bed::of(scenario);
    assert_eq!(bed.until_it_answers(), 0);
    let file = bed.path("it.ckpt");
    for more in [&["--stop"][..], &[]] {
        let args = [&["checkpoint", "app", text(&file), "--name", bed.name()], more].concat();
        let mut started = Call::of(call::program(), args).start();
        until("it is written", || (!parts(&file).is_empty() || started.has_ended()).then_some(()));
        assert!(!started.has_ended(), "it was too quick to be interrupted");
        started.signal(Signal::SIGKILL);
        until("nothing is left of it", || parts(&file).is_empty().then_some(()));
        assert!(!file.exists(), "it goes on for nobody");
        assert_eq!(bed.until_it_answers(), 0, "the service runs on");
        bed.assert_runs_only_on("app", "a");
        until("its images are gone", || bed.node("a").images().is_empty().then_some(()));
    }
    let asked = bed.ask(&json!({"ask": "checkpoint", "workload": "app", "path": file}));
    until("it is written", || (!parts(&file).is_empty()).then_some(()));
    bed.call(&["migrate", "app", "a"]).fails(2).says("a checkpoint of app is being taken");
    bed.call(&["checkpoint", "app", text(&bed.path("other"))]).fails(2).says("a checkpoint of app is being taken");
    // It ends while a checkpoint is being written, and nothing of either is left.
    let dir = file.parent().unwrap().to_owned();
    bed.call(&["testbed", "down"]).code(0);
    assert!(parts(&file).is_empty() && !file.exists(), "{:?}", fs::read_dir(dir).unwrap().collect::<Vec<_>>());
    drop(asked);
}

/// Halves of files beside it.
fn parts(file: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(file.parent().unwrap()).unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "part")).collect()
}
