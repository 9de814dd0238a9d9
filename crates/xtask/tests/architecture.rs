//! The rules of ARCHITECTURE.md that the compiler does not hold: which crate may depend on which, what the pure ones may
//! link, where `unsafe` may be written. From `cargo metadata` and the source text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// `model <- policy, migration <- control <- worlds <- cli`: a crate may depend on crates of earlier rows only.
const LAYERS: &[&[&str]] = &[
    &["godwit-model"],
    &[
        "godwit-checkpoint",
        "godwit-criu",
        "godwit-image",
        "godwit-layer",
        "godwit-memory",
        "godwit-migration",
        "godwit-net",
        "godwit-pages",
        "godwit-policy",
        "godwit-probe",
        "godwit-report",
        "godwit-scenario",
        "godwit-traffic",
        "godwit-transport",
    ],
    &["godwit-agent", "godwit-control"],
    &["godwit-sim", "godwit-testbed"],
    &["godwit"],
];

/// Crates whose answers depend on nothing but what they are given.
const PURE: &[&str] = &["godwit-model", "godwit-policy", "godwit-scenario", "godwit-control", "godwit-sim"];

/// What leads outside: system calls, runtimes, clocks, the system's randomness.
const OUTSIDE: &[&str] = &[
    "async-std",
    "chrono",
    "ctrlc",
    "fs-err",
    "getrandom",
    "jiff",
    "libc",
    "linux-raw-sys",
    "mio",
    "nix",
    "polling",
    "rand",
    "rayon",
    "rustix",
    "signal-hook",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "walkdir",
    "windows-sys",
];

/// Crates that may write `unsafe`: system calls without a safe wrapper.
const MAY_BE_UNSAFE: &[&str] = &["criu", "memory", "net", "pages", "probe"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The graph of normal dependencies on the platform that Godwit is built for: name to names.
///
/// Packages of one name and several versions are one here: a question about a closure then answers for all of them.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let name_of: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut graph = BTreeMap::<String, BTreeSet<String>>::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let depends = graph.entry(name_of[node["id"].as_str().unwrap()].to_owned()).or_default();
        for dep in node["deps"].as_array().unwrap() {
            // `kind` is null for a normal dependency, "dev" or "build" for the others.
            if dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null()) {
                depends.insert(name_of[dep["pkg"].as_str().unwrap()].to_owned());
            }
        }
    }
    graph
}

/// How `from` comes to depend on each crate of its closure: the names on the way.
fn ways<'a>(graph: &'a BTreeMap<String, BTreeSet<String>>, from: &'a str) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut found = BTreeMap::from([(from, vec![from])]);
    let mut waiting = vec![from];
    while let Some(name) = waiting.pop() {
        for next in &graph[name] {
            if !found.contains_key(next.as_str()) {
                let mut way = found[name].clone();
                way.push(next);
                found.insert(next, way);
                waiting.push(next);
            }
        }
    }
    found
}

fn crates() -> Vec<PathBuf> {
    let mut folders: Vec<_> = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn arrows_point_downwards_only() {
    let graph = graph();
    let layer: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(row, names)| names.iter().map(move |name| (*name, row))).collect();
    let mut wrong = Vec::new();
    for (name, depends) in graph.iter().filter(|(name, _)| name.starts_with("godwit")) {
        let Some(own) = layer.get(name.as_str()) else {
            wrong.push(format!("{name} has no row in LAYERS: say where it belongs"));
            continue;
        };
        for below in depends.iter().filter(|below| below.starts_with("godwit")) {
            if layer.get(below.as_str()).is_none_or(|row| row >= own) {
                wrong.push(format!("{name} depends on {below}, which does not lie below it"));
            }
        }
    }
    for gone in layer.keys().filter(|name| !graph.contains_key(**name)) {
        wrong.push(format!("{gone} has a row in LAYERS and is no crate"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_crates_link_nothing_that_leads_outside() {
    let graph = graph();
    assert!(ways(&graph, "godwit").contains_key("libc"), "this test finds nothing at all");
    let mut wrong = Vec::new();
    for name in PURE {
        let ways = ways(&graph, name);
        wrong.extend(OUTSIDE.iter().filter_map(|outside| ways.get(outside)).map(|way| way.join(" -> ")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_crates_are_linted_as_such() {
    let strict = fs::read_to_string(root().join("clippy-pure.toml")).unwrap();
    for name in PURE {
        let folder = root().join("crates").join(name.trim_start_matches("godwit-"));
        let own = fs::read_to_string(folder.join("clippy.toml")).unwrap_or_default();
        assert!(own == strict, "{name}: its clippy.toml is not a link to clippy-pure.toml");
        let mut files = Vec::new();
        rust_files(&folder.join("src"), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("clippy::disallowed"), "{} lifts a lint that keeps it pure", file.display());
        }
    }
}

#[test]
fn unsafe_is_allowed_only_where_there_is_no_safe_wrapper() {
    for folder in crates() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        // Without this line the crate would not have the workspace's `unsafe_code = "deny"` at all.
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} does not take the workspace's lints");
        if MAY_BE_UNSAFE.contains(&name) {
            continue;
        }
        let mut files = Vec::new();
        rust_files(&folder, &mut files);
        for file in files.iter().filter(|file| !file.ends_with(file!())) {
            let text = fs::read_to_string(file).unwrap();
            for lifted in ["allow(unsafe_code", "expect(unsafe_code", "warn(unsafe_code"] {
                assert!(!text.contains(lifted), "{} allows unsafe; only {MAY_BE_UNSAFE:?} may", file.display());
            }
        }
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"deny\""), "the workspace does not deny unsafe_code");
}
