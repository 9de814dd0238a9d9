//! `godwit scenario check`. (What can be wrong with a file is tested where files are read; here is how it is told.)

use std::fs;

use tempfile::tempdir;

use crate::e2e::{Call, godwit, shipped};

/// The car's file with its comments taken off, so that a snapshot shows what matters.
fn car() -> String {
    let text = fs::read_to_string(shipped("car.yaml")).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

fn check(text: &str) -> String {
    let ran = Call::new(["scenario", "check", "-"]).stdin(text).run().fails(2);
    assert_eq!(ran.out, "");
    ran.err
}

pub fn the_shipped_ones_are_good() {
    let files = ["car.yaml", "load.yaml", "car-and-load.yaml"].map(shipped);
    let ran =
        godwit(["scenario".as_ref(), "check".as_ref()].into_iter().chain(files.iter().map(|f| f.as_os_str()))).code(0);
    assert_eq!(ran.err, "");
    let folder = files[0].parent().unwrap().to_str().unwrap();
    insta::assert_snapshot!("good_scenarios", ran.out.replace(folder, "scenarios"));
}

pub fn every_problem_is_shown_with_its_place() {
    let bad =
        car().replace("node: edge1\n", "node: egde1\n").replace("every: 6s, by: -3ms } # comes back", "every: 6 }");
    insta::assert_snapshot!("bad_scenario", check(&bad));
    insta::assert_snapshot!("bad_policy", check(&car().replace("name: threshold", "name: treshold")));
    let bad = car().replace("name: threshold", "name: threshold, rtt_good_below_ms: 40");
    insta::assert_snapshot!("bad_policy_parameter", check(&bad));
    insta::assert_snapshot!("no_yaml", check("version: 1\nnodes: [\n"));
}

pub fn one_bad_file_does_not_hide_another() {
    let dir = tempdir().unwrap();
    let (bad, good) = (dir.path().join("bad.yaml"), shipped("load.yaml"));
    fs::write(&bad, car().replace("version: 1", "version: 9")).unwrap();
    let args = ["scenario", "check", "no-such.yaml", bad.to_str().unwrap(), good.to_str().unwrap()];
    let ran = godwit(args).code(2).says("no-such.yaml cannot be read").says("bad.yaml:1:");
    ran.prints("load.yaml: ok");
    // `run` shows the same message as `check`.
    let checked = check(&car().replace("version: 1", "version: 9"));
    let run =
        Call::new(["run", "-", "--world", "sim"]).stdin(car().replace("version: 1", "version: 9")).dir(dir.path());
    assert_eq!(run.run().fails(2).err, checked);
}
