//! What a run leaves behind, as a reader meets it.

mod made_up;
mod shown;

use std::collections::BTreeMap;

use godwit_model::{NodeName, Outcome, Phase, RunRecord, Sample, Summary, UserName};
use godwit_report::{final_table, migrations_csv, reference, render_html, samples_csv, write};
use made_up::{empty, failed, run};

fn rows(text: &str) -> Vec<BTreeMap<String, String>> {
    csv::Reader::from_reader(text.as_bytes()).deserialize().map(|row| row.unwrap()).collect()
}

#[test]
fn samples_survive_their_csv() {
    let record = run();
    let back: Vec<Sample> = rows(&samples_csv(&record).unwrap()).into_iter().map(sample).collect();
    assert_eq!(back, record.samples);
}

/// Reads a row as the documentation of `samples_csv` says.
fn sample(row: BTreeMap<String, String>) -> Sample {
    let mut json = serde_json::json!({"at_s": 0, "rtt": {}, "load": {}, "placement": {}, "gap_ms": {}});
    for (column, cell) in row.into_iter().filter(|(_, cell)| !cell.is_empty()) {
        let number = || serde_json::json!(cell.parse::<f64>().unwrap());
        match column.split('/').collect::<Vec<_>>()[..] {
            ["at_s"] => json["at_s"] = number(),
            ["rtt_ms", user, node] => json["rtt"][user][node] = number(),
            ["load", node] => json["load"][node] = number(),
            ["node", workload] => json["placement"][workload] = serde_json::json!(cell),
            ["gap_ms", user] => json["gap_ms"][user] = number(),
            _ => panic!("undocumented column {column}"),
        }
    }
    serde_json::from_value(json).unwrap()
}

#[test]
fn migrations_survive_their_csv() {
    let record = failed();
    let rows = rows(&migrations_csv(&record.summary).unwrap());
    assert_eq!(rows.len(), record.summary.migrations.len());
    for (row, m) in rows.iter().zip(&record.summary.migrations) {
        let number = |column: &str| row[column].parse::<f64>().ok();
        assert_eq!(number("id"), Some(m.id.0 as f64));
        assert_eq!((row["from"].as_str(), row["to"].as_str()), (m.from.as_str(), m.to.as_str()));
        assert_eq!(row["reason"], m.reason);
        assert_eq!([number("start_s"), number("freeze_ms")], [Some(m.start.secs()), Some(m.freeze_ms)]);
        assert_eq!([number("gap_ms"), number("total_ms")], [m.gap_ms, Some(m.total_ms)]);
        assert_eq!(row["outcome"], m.outcome.to_string());
        assert_eq!(row["error"], m.error.clone().unwrap_or_default());
        for phase in Phase::ALL {
            let ms = m.phases.iter().find(|time| time.phase == phase).map(|time| time.ms);
            assert_eq!(number(&format!("phase_{phase}_ms")), ms, "{phase}");
        }
    }
}

#[test]
fn the_references_files_have_its_columns_and_pace() {
    let record = run();
    let rtt = reference::rtt_csv(&record).unwrap();
    assert!(rtt.starts_with("rtt_node1,rtt_node2,rtt_node3\n"), "{rtt}");
    assert!(reference::load_csv(&record).unwrap().starts_with("load_node1,load_node2,load_node3\n"));
    // 60 s of samples, one a second from 0.1 s on: rows at 0, 5, … 55 s.
    assert_eq!(rtt.lines().count(), 13);
    let hosts = reference::host_node_csv(&record).unwrap();
    let hosts: Vec<_> = hosts.lines().collect();
    assert_eq!((hosts[0], hosts[1], hosts[12]), ("nodes_mec,nodes_vm3", "1,", "3,"));
    // At 30 s node 2 did not answer.
    let row = rtt.lines().nth(7).unwrap();
    assert!(row.split(',').nth(1).unwrap().is_empty() && !row.starts_with(','), "{row}");
}

#[test]
fn the_end_of_a_run_in_a_terminal() {
    insta::assert_snapshot!("final_table", final_table(&run().summary));
    insta::assert_snapshot!("final_table_failed", final_table(&failed().summary));
    insta::assert_snapshot!("final_table_empty", final_table(&empty().summary));
}

#[test]
fn everything_is_written_and_the_summary_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let record = run();
    let files = write(&record, &out).unwrap();
    let mut names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    insta::assert_snapshot!("files", names.join("\n"));
    let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
    insta::assert_snapshot!("summary", summary);
    assert_eq!(serde_json::from_str::<Summary>(&summary).unwrap(), record.summary);
    assert!(files.iter().all(|path| path.is_file()));
    write(&failed(), &out).unwrap();
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), files.len());
}

#[test]
fn a_folder_that_is_a_file_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("taken");
    std::fs::write(&file, "").unwrap();
    let error = write(&run(), &file).unwrap_err().to_string();
    assert!(error.ends_with("taken is not a folder; choose another output folder"), "{error}");
}

/// Every text that is XML or (as maud writes it) like it.
fn pages(record: &RunRecord) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let files = write(record, dir.path()).unwrap();
    let markup = files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "svg" || e == "html"));
    markup.map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn pages_are_well_formed_and_need_nothing_but_themselves() {
    for record in [run(), failed(), empty()] {
        for (name, page) in pages(&record) {
            well_formed(&page).unwrap_or_else(|why| panic!("{name}: {why}"));
            let outside = page.replace("http://www.w3.org/2000/svg", "");
            for sign in ["http:", "https:", "//", "<script", "<link", "<img", "@import", "url(", "src=", "href="] {
                assert!(!outside.contains(sign), "{name} has {sign}");
            }
            for sign in ["NaN", "inf\"", ">inf"] {
                assert!(!page.contains(sign), "{name} has {sign}");
            }
        }
    }
}

/// Tags are closed in their order, attributes are quoted, and only known entities are used.
fn well_formed(page: &str) -> Result<(), String> {
    const VOID: [&str; 2] = ["meta", "br"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find(['<', '&']) {
        rest = &rest[start..];
        if let Some(entity) = rest.strip_prefix('&') {
            let known = ["amp;", "lt;", "gt;", "quot;"];
            known.iter().find(|e| entity.starts_with(**e)).ok_or(format!("entity at {:.20}", rest))?;
            rest = entity;
            continue;
        }
        let end = rest.find('>').ok_or("a tag that does not end")?;
        let tag = &rest[1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split(' ').next().unwrap_or_default();
        if tag.starts_with(['!', '?']) || VOID.contains(&name) {
            continue;
        }
        if tag.matches('"').count() % 2 == 1 || tag.contains('<') {
            return Err(format!("a broken tag: {tag}"));
        }
        if tag.starts_with('/') {
            let last = open.pop();
            if last != Some(name) {
                return Err(format!("{last:?} is closed by {name}"));
            }
        } else {
            open.push(name);
            if name == "style" {
                rest = &rest[rest.find("</style").ok_or("style does not end")?..];
            }
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("open at the end: {open:?}")) }
}

#[test]
fn what_others_wrote_is_escaped() {
    let mut record = failed();
    let nasty = "<script>alert(\"x\")</script> & \u{1b}[31m\u{0}";
    record.summary.scenario = nasty.into();
    record.summary.policy = nasty.into();
    record.summary.migrations[1].error = Some(nasty.into());
    record.summary.migrations[0].reason = nasty.into();
    for (name, page) in pages(&record) {
        assert!(!page.contains("<script"), "{name}");
        assert!(!page.chars().any(|c| c.is_control() && c != '\n'), "{name}");
        well_formed(&page).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    assert!(!final_table(&record.summary).contains('\u{1b}'));
}

#[test]
fn the_headline_tells_what_happened() {
    let headline = |record: &RunRecord| {
        let page = render_html(record);
        let from = page.find("<h1>").unwrap() + 4;
        page[from..from + page[from..].find("</h1>").unwrap()].replace('\u{a0}', " ")
    };
    assert_eq!(
        headline(&run()),
        "The service moved twice while running; the car’s connection never broke; the longest silence was 142 ms."
    );
    assert_eq!(
        headline(&failed()),
        "The service moved once while running; the car’s connection broke; 640 bytes were lost; the longest silence was \
         2300 ms. One migration was rolled back."
    );
    assert_eq!(headline(&empty()), "The service stayed in place; no client measured what a user would have felt.");
}

#[test]
fn failures_are_seen() {
    let page = render_html(&failed());
    assert!(page.contains("NOT OK: 1 migration rolled back, 1 connection broken, 640 bytes lost"));
    assert!(page.contains("✗ rolled-back"));
    assert!(page.contains("criu: dump failed"));
}

#[test]
fn figures_that_are_none_are_not_printed() {
    let mut record = run();
    record.summary.duration_s = f64::NAN;
    record.summary.rtt_bound_ms = f64::NAN;
    for m in &mut record.summary.migrations {
        (m.freeze_ms, m.total_ms, m.gap_ms) = (f64::NAN, f64::INFINITY, Some(f64::NAN));
        m.phases.iter_mut().for_each(|time| time.ms = f64::NAN);
    }
    record.samples.iter_mut().for_each(|sample| sample.gap_ms.values_mut().for_each(|gap| *gap = f64::NAN));
    for (name, page) in pages(&record) {
        well_formed(&page).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(!page.contains("NaN") && !page.contains(">inf") && !page.contains("\"inf"), "{name}");
    }
    assert!(!migrations_csv(&record.summary).unwrap().contains("NaN"));
    assert!(!final_table(&record.summary).contains("NaN"));
}

#[test]
fn many_nodes_users_and_migrations_render() {
    let mut record = run();
    let node = |n: usize| NodeName::new(format!("a-node-with-a-very-long-name-{n}")).unwrap();
    record.summary.nodes = (0..20).map(node).collect();
    for (n, sample) in record.samples.iter_mut().enumerate() {
        let rtts: BTreeMap<_, _> =
            (0..20).map(|i| (node(i), godwit_model::Rtt::from_ms((i * n) as f64).unwrap())).collect();
        sample.rtt = (0..9).map(|user| (UserName::new(format!("user{user}")).unwrap(), rtts.clone())).collect();
        sample.placement.values_mut().for_each(|place| *place = node(n % 20));
    }
    let one = record.summary.migrations[0].clone();
    record.summary.migrations = vec![one; 700];
    record.summary.migrations[650].outcome = Outcome::RolledBack;
    for (name, page) in pages(&record) {
        well_formed(&page).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(page.len() < 3_000_000, "{name} has {} bytes", page.len());
    }
    assert!(render_html(&record).contains("200 more are in migrations.csv"));
}
