//! What a user has at hand: help, completions, man pages, the doctor.

use std::fs;

use tempfile::tempdir;

use crate::e2e::{Call, godwit, skip};

/// Every command that a user types.
const COMMANDS: [&[&str]; 21] = [
    &["demo"],
    &["run"],
    &["testbed"],
    &["testbed", "up"],
    &["testbed", "status"],
    &["testbed", "down"],
    &["migrate"],
    &["checkpoint"],
    &["checkpoint", "inspect"],
    &["restore"],
    &["status"],
    &["scenario"],
    &["scenario", "check"],
    &["policy"],
    &["policy", "list"],
    &["policy", "schema"],
    &["policy", "decide"],
    &["bench", "migrate"],
    &["doctor"],
    &["completions"],
    &["man"],
];

pub fn every_command_shows_its_example() {
    let with_example = [
        "demo",
        "run",
        "testbed up",
        "migrate",
        "checkpoint",
        "checkpoint inspect",
        "restore",
        "scenario check",
        "policy decide",
        "bench migrate",
        "completions",
    ];
    for command in COMMANDS {
        let name = command.join(" ");
        let help = godwit([command, &["--help"]].concat()).code(0);
        assert_eq!(help.err, "");
        assert!(help.out.contains(&format!("Usage: godwit {name}")), "{name}: {help}");
        assert!(!help.out.contains("node-init"), "what is for nodes alone shows in the help of {name}");
        if with_example.contains(&name.as_str()) {
            assert!(help.out.contains("Example") && help.out.contains(&format!("godwit {name}")), "{name}: {help}");
        }
    }
}

pub fn exit_codes_are_documented() {
    let help = godwit(["--help"]).code(0).out;
    let codes = help.split("Exit status:").nth(1).expect("a section");
    for code in ["0 ", "1 ", "2 ", "3 ", "130 "] {
        assert!(codes.lines().any(|line| line.trim_start().starts_with(code)), "{code}: {codes}");
    }
    assert!(help.contains("Examples:"));
    for command in COMMANDS.iter().map(|command| command[0]) {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is not listed");
    }
    let version = godwit(["--version"]).code(0).out;
    assert_eq!(version, format!("godwit {}\n", env!("CARGO_PKG_VERSION")));
}

pub fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = godwit(["completions", shell]).code(0).out;
        for command in COMMANDS.iter().map(|command| command[0]) {
            assert!(script.contains(command), "{shell} does not complete {command}");
        }
        assert!(!script.contains("node-init"), "{shell} completes what is for nodes alone");
    }
    let bash = godwit(["completions", "bash"]).code(0).out;
    Call::of("bash", ["-n"]).stdin(bash).run().code(0);
    godwit(["completions", "telepathy"]).code(2).says("possible values");
}

pub fn man_pages_are_complete_and_well_formed() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("man");
    godwit(["man", folder.to_str().unwrap()]).code(0).prints("godwit.1");
    for command in COMMANDS {
        let name = format!("godwit-{}.1", command.join("-"));
        let page = fs::read_to_string(folder.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        for section in [".TH", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
            assert!(page.contains(section), "{name} has no {section}");
        }
    }
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    godwit(["man", file.to_str().unwrap()]).fails(1).says("file cannot be made");

    let mut pages: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    if std::process::Command::new("groff").arg("--version").output().is_err() {
        skip("hand::man_pages_are_complete_and_well_formed", "no groff to lint the pages with");
        return;
    }
    for page in pages {
        let page = page.to_str().unwrap();
        let ran = Call::of("groff", ["-k", "-Kutf8", "-man", "-ww", "-z", page]).run().code(0);
        assert_eq!(ran.err, "", "{page}");
    }
}

pub fn doctor_says_the_same_to_people_and_programs() {
    let text = godwit(["doctor"]);
    let json = godwit(["doctor", "--json"]);
    assert_eq!(text.status(), json.status());
    let findings = json.json();
    let lacks = findings.as_array().unwrap().iter().any(|finding| finding["has"] == "no");
    assert_eq!(json.status(), Some(if lacks { 3 } else { 0 }), "{json}");
    for finding in findings.as_array().unwrap() {
        let line = text.out.lines().find(|line| line[4..].trim_start().starts_with(finding["what"].as_str().unwrap()));
        let mark = match finding["has"].as_str().unwrap() {
            "yes" => "ok",
            "partly" => "note",
            "no" => "MISS",
            other => panic!("{other}"),
        };
        assert!(line.expect("it is in the text").starts_with(mark), "{finding}: {text}");
        assert!(finding["has"] != "no" || finding["follows"].is_string(), "nothing to do about {finding}");
    }
    let verdict = if lacks { "cannot run here" } else { "can run here" };
    assert!(text.out.contains(verdict), "{text}");

    let without = godwit(["doctor", "--node-image", "/nonexistent"]).code(3);
    without.prints("none at /nonexistent").prints("scripts/setup-node-image.sh");
}
