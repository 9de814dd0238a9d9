//! What a person is told about a broken file: the snapshots beside this are read like documentation.

use std::path::Path;

use godwit_model::{Family, Protocol};
use godwit_scenario::Scenario;
use proptest::prelude::*;

const GOOD: &str = "\
version: 1
name: walk
rtt_bound: 26ms
nodes:
  - { name: edge1, cpu: 0.5, memory: 1GiB }
  - { name: edge2, cpu: 0.5, memory: 1GiB }
users:
  - name: phone
    rtt:
      edge1: { start: 4ms, ramps: [ { steps: 10, every: 6s, by: 3ms } ] }
      edge2: 12ms
workloads:
  - { name: chat, node: edge1, users: [phone], port: 5555, memory: 16MiB, dirty_rate: 4MiB/s }
stress:
  - { node: edge2, from: 0s, for: 60s, stressers: 2, memory: 30%, cpu: 27% }
policy: { name: threshold, bands: { rtt: [3, 15.5] } }
control: { interval: 1s, cooldown: 35s }
probe: { interval: 200ms }
migration: { bandwidth: 50MiB/s }
";

fn error(text: &str) -> String {
    Scenario::parse(text, "walk.yaml").expect_err("it is broken").to_string()
}

/// `GOOD` with its first `good` made `bad`.
fn with(good: &str, bad: &str) -> String {
    assert!(GOOD.contains(good), "{good}");
    error(&GOOD.replacen(good, bad, 1))
}

macro_rules! told {
    ($($(#[$doc:meta])* $name:ident: $text:expr;)*) => { $(
        $(#[$doc])*
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), $text);
        }
    )* };
}

told! {
    empty_file: error("");
    no_yaml: with("users:", "users: [ {");
    wrong_version: with("version: 1", "version: 2");
    unknown_field: with("ramps:", "ramp:");
    unknown_node_in_rtt: with("edge2: 12ms", "edge7: 12ms");
    rtt_to_a_node_missing: with("      edge2: 12ms\n", "");
    misspelt_node_of_a_workload: with("node: edge1, users", "node: egde1, users");
    unknown_user: with("users: [phone]", "users: [car]");
    unit_missing: with("every: 6s", "every: 6");
    bad_units: with("every: 6s, by: 3ms", "every: 6 parsecs, by: fast");
    negative: with("start: 4ms", "start: -4ms");
    negative_duration: with("from: 0s, for: 60s", "from: -3s, for: 60s");
    duplicate_names: with("name: edge2, cpu", "name: edge1, cpu");
    duplicate_field: with("rtt_bound: 26ms", "rtt_bound: 26ms\nrtt_bound: 30ms");
    bad_name: with("name: chat", "name: My Chat");
    stress_over_cpu: with("stressers: 2, memory: 30%", "stressers: 4, memory: 30%");
    stress_over_memory: with("- { node: edge2, from: 0s, for: 60s, stressers: 2, memory: 30%",
        "- { node: edge2, for: 60s, stressers: 1, memory: 50% }\n  - { node: edge2, from: 10s, for: 60s, stressers: 2, memory: 60%");
    percent_forgotten: with("memory: 30%", "memory: 30");
    no_nodes: with("  - { name: edge1, cpu: 0.5, memory: 1GiB }\n  - { name: edge2, cpu: 0.5, memory: 1GiB }\n", "  []\n");
    no_length: error("version: 1\nname: still\nnodes: [ { name: a } ]\n");
    missing_fields: with("{ steps: 10, every: 6s, by: 3ms }", "{ steps: 10 }");
    workload_too_big: with("memory: 16MiB", "memory: 2GiB");
    no_paths: with("port: 5555", "workdir: srv, image: '', volumes: [data, /srv/../etc, /]");
    volumes_in_each_other: with("port: 5555", "volumes: [/srv/data, /srv, /proc/x, /var, /var]");
    no_environment: with("port: 5555", "env: { A: 1, B: , C: [x], '': y, A: 2 }");
    environment_of_no_map: with("port: 5555", "env: [A=1]");
    no_protocol_and_no_family: with("name: phone", "name: phone\n    protocol: upd\n    family: [ipv4, ipv6]");
    bad_hostname: with("port: 5555", "hostname: my_host");
    args_of_nothing: with("port: 5555", "args: [--fast]");
    no_containers: with("port: 5555", "containers: []");
    containers_beside_fields_of_one: with("port: 5555", "image: a.tar, env: { A: 1 }, containers: [ { name: web } ]");
    containers_that_are_alike: with("port: 5555",
        "containers: [ { name: web, command: [a] }, { name: web }, { name: db }, { nmae: x } ]");
    a_volume_of_no_container: with("port: 5555",
        "volumes: [/srv/data, /var/x], containers: [ { name: web, volumes: [/srv/data, /srv] } ]");
    a_vm_of_containers: with("port: 5555", "kind: vm, containers: [ { name: web } ]");
    list_expected: with("users: [phone]", "users: phone");
    no_value: with("rtt_bound: 26ms", "rtt_bound:");
    too_late: error(&(GOOD.replace("from: 0s", "from: 2m") + "duration: 90s\n"));
    many_at_once: error(&GOOD
        .replace("port: 5555", "port: 70000")
        .replace("by: 3ms", "by: 3")
        .replace("memory: 1GiB", "memroy: 1GB")
        .replace("interval: 200ms", "interval: 0"));
}

#[test]
fn the_good_one_is_good() {
    let scenario = Scenario::parse(GOOD, "walk.yaml").unwrap();
    assert_eq!(scenario.policy.params, serde_json::json!({"bands": {"rtt": [3, 15.5]}}));
    assert_eq!(scenario.workloads[0].users[0].as_str(), "phone");
}

#[test]
fn how_a_user_speaks() {
    let spoken = |text: &str| {
        let phone = &Scenario::parse(text, "walk.yaml").unwrap().users[0];
        (phone.protocol, phone.family)
    };
    assert_eq!(spoken(GOOD), (Protocol::Tcp, Family::Ipv4));
    let text = GOOD.replace("name: phone", "name: phone\n    protocol: udp\n    family: ipv6");
    assert_eq!(spoken(&text), (Protocol::Udp, Family::Ipv6));
}

#[test]
fn what_a_container_is_made_of() {
    let fields = "image: img/web.tar, env: { PORT: 80, A: b }, user: 'www:8', workdir: /srv, hostname: web, \
                  volumes: [/srv/data, /var/lib/x]";
    let text = GOOD.replace("port: 5555", fields);
    let web = &Scenario::parse(&text, "scenarios/walk.yaml").unwrap().workloads[0];
    assert_eq!(web.containers[0].image.as_deref(), Some(Path::new("scenarios/img/web.tar")));
    let env: Vec<_> = web.containers[0].env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(env, [("A", "b"), ("PORT", "80")]);
    assert_eq!((web.containers[0].user.as_deref(), web.hostname.as_deref()), (Some("www:8"), Some("web")));
    assert_eq!(web.containers[0].workdir.as_deref(), Some(Path::new("/srv")));
    assert_eq!(web.containers[0].volumes, [Path::new("/srv/data"), Path::new("/var/lib/x")]);

    let absolute = GOOD.replace("port: 5555", "image: /img/web");
    let absolute = Scenario::parse(&absolute, "scenarios/walk.yaml").unwrap();
    assert_eq!(absolute.workloads[0].containers[0].image.as_deref(), Some(Path::new("/img/web")));
}

#[test]
fn a_later_finding_can_point_into_the_file() {
    let error =
        Scenario::error_at(GOOD, "walk.yaml", &["policy", "bands"], "there is no band `rtt`", Some("use rtt_ms"));
    insta::assert_snapshot!("pointed_at_from_outside", error);
}

#[test]
fn all_problems_are_there_for_a_program_too() {
    let text = GOOD.replace("6s", "6").replace("35s", "35");
    let error = Scenario::parse(&text, "walk.yaml").unwrap_err();
    let lines: Vec<_> = error.problems().iter().map(|problem| problem.line()).collect();
    assert_eq!(lines, [Some(10), Some(17)]);
}

#[test]
fn anchors_and_merges_may_be_used() {
    let text = GOOD
        .replace("- { name: edge1, cpu: 0.5, memory: 1GiB }", "- &small { name: edge1, cpu: 0.5, memory: 1GiB }")
        .replace("- { name: edge2, cpu: 0.5, memory: 1GiB }", "- { <<: *small, name: edge2 }");
    assert_eq!(Scenario::parse(&text, "walk.yaml"), Scenario::parse(GOOD, "walk.yaml"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = Scenario::parse(&text, "x").map_err(|error| error.to_string());
    }

    /// Nearly good texts come further than arbitrary ones do.
    #[test]
    fn any_damage_is_read_or_refused(
        at in 0..GOOD.len(), length in 0usize..12, put in "[-0-9a-z{}\\[\\]:,%&*!|>#'\"\\n é\t.]{0,8}",
    ) {
        let mut text = GOOD.to_owned();
        text.replace_range(at..(at + length).min(GOOD.len()), &put);
        if let Err(error) = Scenario::parse(&text, "x") {
            prop_assert!(!error.problems().is_empty());
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
