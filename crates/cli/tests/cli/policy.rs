//! `godwit policy list | schema | decide`.

use crate::e2e::{Call, Ran, godwit};

pub const ISSUE_S_LINE: &str = r#"{"nodes":[{"name":"edge1","load":1.4}],"users":[{"name":"car","rtt_ms":{"edge1":3.2}}],"workloads":[{"name":"video","kind":"container","node":"edge1","users":["car"]}]}"#;

fn decide(more: &[&str], lines: &str) -> Ran {
    Call::new([&["policy", "decide"], more].concat()).stdin(lines).run()
}

/// The line with a second node, nearer the farther `edge1` is.
fn far(ms: f64) -> String {
    let near = ISSUE_S_LINE.replace(r#""load":1.4}"#, r#""load":1.4},{"name":"edge2","load":1.1}"#);
    near.replace(r#"{"edge1":3.2}"#, &format!(r#"{{"edge1":{ms},"edge2":4.0}}"#))
}

pub fn the_issue_s_own_line_is_answered() {
    let answer = decide(&["--policy", "threshold", "-"], ISSUE_S_LINE).code(0);
    let decision = answer.json();
    assert_eq!((&decision["workload"], &decision["action"]), (&"video".into(), &"stay".into()));
    assert!(!decision["reason"].as_str().unwrap().is_empty());

    let decisions = decide(&[], &format!("{}\n\n{}\n", far(3.0), far(30.0))).code(0).json_lines();
    assert_eq!(decisions.len(), 2, "one a snapshot, empty lines aside");
    assert_eq!(decisions[0]["action"], "stay");
    assert_eq!((&decisions[1]["action"], &decisions[1]["to"]), (&"move".into(), &"edge2".into()));
    let strict = decide(&["--set", "rtt_good_below_ms=1", "--set", "rtt_average_below_ms=2"], &far(3.0)).code(0).json();
    assert_ne!(strict["rule"], decisions[0]["rule"]);
}

pub fn several_workloads_make_a_list() {
    let two = ISSUE_S_LINE.replace(r#""workloads":["#, r#""workloads":[{"name":"chat","node":"edge1"},"#);
    let answer = decide(&[], &two).code(0).json();
    let names: Vec<_> =
        answer["decisions"].as_array().unwrap().iter().map(|d| d["workload"].as_str().unwrap()).collect();
    assert_eq!(names, ["chat", "video"]);
}

pub fn a_bad_line_stops_it_with_its_number() {
    let said = decide(&[], &format!("{ISSUE_S_LINE}\n{{\"nodes\":[]}}\n{ISSUE_S_LINE}\n"));
    assert_eq!(said.out.lines().count(), 1, "the decisions before it were printed, those after it were not: {said}");
    let said = said.fails(2).says("<stdin>:2:").says("missing field `workloads`");
    assert!(!said.err.contains("line 1"), "two places for one mistake: {said}");
    decide(&[], "hello").fails(2).says("<stdin>:1:1: this is no snapshot");
    decide(&[], &ISSUE_S_LINE.replace("users\":[\"car", "usres\":[\"car")).fails(2).says("unknown field `usres`");
    decide(&["no-such.jsonl"], "").fails(2).says("no-such.jsonl cannot be read");
}

pub fn names_that_are_nearly_right_are_suggested() {
    decide(&["--policy", "treshold"], "").fails(2).says(r#"did you mean "threshold"?"#);
    decide(&["--policy", "xyz"], "").fails(2).says("the policies are threshold, nearest, never");
    decide(&["--set", "rtt_good_below=3"], "").fails(2).says(r#"did you mean "rtt_good_below_ms"?"#);
    godwit(["policy", "schema", "nearst"]).fails(2).says(r#"did you mean "nearest"?"#);
    decide(&["--set", "rtt_good_below_ms=30"], "").fails(2);
    decide(&["--set", "rtt_good_below_ms"], "").code(2).says("PARAMETER=VALUE");
    decide(&["--set", "rtt_good_below_ms=far"], "").code(2).says("\"far\" is no number");
}

pub fn list_and_schema_fit_together() {
    let list = godwit(["policy", "list", "--json"]).code(0).json();
    let text = godwit(["policy", "list"]).code(0).out;
    assert_eq!(text.lines().count(), list.as_array().unwrap().len());
    for policy in list.as_array().unwrap() {
        let name = policy["name"].as_str().unwrap();
        assert!(text.contains(name) && text.contains(policy["description"].as_str().unwrap()), "{text}");
        let schema = godwit(["policy", "schema", name]).code(0).json();
        assert_eq!(schema["type"], "object", "{schema:#}");
        // Its own defaults are accepted.
        for (parameter, rules) in schema["properties"].as_object().into_iter().flatten() {
            let set = format!("{parameter}={}", rules["default"]);
            decide(&["--policy", name, "--set", &set], ISSUE_S_LINE).code(0);
        }
    }
}
