//! What the report takes from the record instead of guessing, and what it shows only where it is there.

use godwit_model::{Baseline, NodeName, RunRecord, Time, WorkloadKind, WorkloadName, WorkloadSummary};
use godwit_report::{final_table, migrations_csv, reference, render_html, samples_csv};

use crate::made_up::{beside_runc, empty, run};
use crate::pages;

/// The same run with a VM `desk` that serves nobody, before the container in the alphabet and in the scenario.
fn with_vm() -> RunRecord {
    let mut record = run();
    let desk = WorkloadName::new("desk").unwrap();
    let vm = WorkloadSummary { name: desk.clone(), kind: WorkloadKind::Vm, users: Vec::new() };
    record.summary.workloads.insert(0, vm);
    let node = NodeName::new("edge2").unwrap();
    record.samples.iter_mut().for_each(|sample| drop(sample.placement.insert(desk.clone(), node.clone())));
    record
}

#[test]
fn the_reference_file_has_a_column_for_the_vm() {
    let hosts = |record: &RunRecord| reference::host_node_csv(record).unwrap().lines().nth(12).unwrap().to_owned();
    assert_eq!((hosts(&run()), hosts(&with_vm())), ("3,".into(), "3,2".into()));
    let mut only_vm = with_vm();
    only_vm.summary.workloads.truncate(1);
    assert_eq!(hosts(&only_vm), ",2");
}

#[test]
fn who_serves_whom_is_known_without_a_client() {
    let mut record = with_vm();
    record.summary.clients.clear();
    assert!(render_html(&record).contains("car: distance to each node; the band shows which node serves its video"));
    record.summary.workloads.iter_mut().for_each(|workload| workload.users.clear());
    assert!(!render_html(&record).contains("serves its"));
}

#[test]
fn bounds_are_those_of_the_parameters_in_force() {
    let mut record = run();
    let page = render_html(&record);
    assert!(page.contains(">bound 26 ms<") && page.contains(">good below 15<") && !page.contains(">bad from 26<"));
    assert!(page.contains("called a load of 8 and more bad"));
    let given = [("rtt_average_below_ms", 21.0), ("rtt_good_below_ms", 12.5), ("load_average_below", 3.0)];
    record.summary.policy_params = given.map(|(name, value)| (name.to_owned(), value)).into();
    let page = render_html(&record);
    for text in [">bound 26 ms<", ">bad from 21<", ">good below 12.5<", ">bad from 3<", "load_average_below 3"] {
        assert!(page.contains(text), "{text}");
    }
    record.summary.policy_params.clear();
    let page = render_html(&record);
    assert!(!page.contains("bad from") && !page.contains("good below") && !page.contains("more bad"));
}

#[test]
fn what_else_went_wrong_is_shown_only_where_it_did() {
    let words = ["surplus answer", "1 restart of the service", "2 returns to an older state", "4,096 pages of memory"];
    let mut record = run();
    let (page, table) = (render_html(&record), final_table(&record.summary));
    assert!(words.iter().all(|word| !page.contains(word) && !table.contains(word)));
    let client = &mut record.summary.clients[0];
    (client.duplicated, client.restarts, client.rewinds, client.memory_bad) = (3, 1, 2, 4096);
    assert!(!client.is_clean());
    record.summary.ok = false;
    let (page, table) = (render_html(&record), final_table(&record.summary));
    for word in words {
        assert!(page.contains(word) && table.contains(word), "{word}");
    }
    assert!(page.contains("went back</th>") && page.contains("bad pages</th>"));
    insta::assert_snapshot!("final_table_troubles", table);
}

#[test]
fn plain_runc_stands_beside_the_run() {
    let record = beside_runc();
    let page = render_html(&record).replace('\u{a0}', " ");
    let sentence = "the same container takes 2.4 times as long (median gap 344 ms, here 142 ms)";
    for text in [sentence, "the same container moved by plain runc, in the same run", "median of 3 moves"] {
        assert!(page.contains(text), "{text}");
    }
    // The move in the middle is the first; what its parts leave of its freeze is drawn, too.
    assert!(
        page.contains("<title>checkpoint 130 ms</title>") && page.contains("<title>between the phases 11 ms</title>")
    );
    insta::assert_snapshot!("final_table_baseline", final_table(&record.summary));
    assert!(!render_html(&run()).contains("runc"));
}

#[test]
fn a_baseline_without_gaps_or_moves_or_beside_nothing_renders() {
    let mut record = beside_runc();
    record.summary.baseline.as_mut().unwrap().moves.iter_mut().for_each(|m| m.gap_ms = None);
    let page = render_html(&record).replace('\u{a0}', " ");
    assert!(page.contains("takes 2.5 times as long (median freeze 330 ms, here 132 ms)"));
    assert!(final_table(&record.summary).contains("median gap: –; by runc checkpoint + runc restore: –\n"));

    record.summary.migrations.clear();
    assert!(!render_html(&record).contains("times as long"));
    assert!(pages(&record).iter().any(|(name, plot)| name.ends_with("gaps.svg") && plot.contains("plain runc")));

    record.summary.baseline = Some(Baseline { tool: String::new(), moves: Vec::new() });
    assert_eq!(render_html(&record), {
        record.summary.baseline = None;
        render_html(&record)
    });
    assert!(!final_table(&empty().summary).contains("median"));
}

#[test]
fn files_have_no_noise_of_the_clock() {
    let mut record = run();
    record.samples[0].at = Time::from_micros(41);
    record.samples[0].gap_ms.values_mut().for_each(|gap| *gap = 12.015519000000001);
    record.summary.migrations[0].phases[0].ms = 29.288672000000002;
    let samples = samples_csv(&record).unwrap();
    let first = samples.lines().nth(1).unwrap();
    assert!(first.starts_with("0,") && first.ends_with(",12.016"), "{first}");
    assert!(migrations_csv(&record.summary).unwrap().contains(",29.289,"));
    let json = serde_json::to_string(&record.summary).unwrap();
    assert!(json.contains("29.289") && !json.contains("29.2886"), "{json}");
    assert!(json.contains("\"start_s\":19.5"));
}
