//! `godwit bench migrate`.

use std::fs;

use crate::e2e::{Bed, left};

pub fn all_that_can_move_it_is_measured_beside_each_other() {
    let bed = Bed::none();
    let dir = tempfile::tempdir().unwrap();
    let document = dir.path().join("performance.md");
    fs::write(&document, "# Kept\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nkept too\n").unwrap();
    let into = document.to_str().unwrap();
    let args = [
        "bench",
        "migrate",
        "--memory",
        "8MiB",
        "--runs",
        "1",
        "--strategy",
        "stop-copy,auto",
        "--json",
        "--into",
        into,
    ];
    let outcome = bed.call(&args).code(0).json();
    left::assert_nothing(bed.name());

    let rows = outcome["rows"].as_array().unwrap();
    let by: Vec<_> = rows.iter().map(|row| row["by"].as_str().unwrap()).collect();
    assert_eq!(by, ["stop-copy", "auto", "runc", "runc-lazy-pages"]);
    for row in rows {
        assert_eq!(
            (&row["moves"], &row["failed"], &row["memory"]),
            (&1.into(), &0.into(), &(8 << 20).into()),
            "{row:#}"
        );
        for figure in ["gap_ms", "freeze_ms", "total_ms", "stall_ms"] {
            assert!(row[figure]["median"].as_f64().unwrap() > 0.0, "{figure}: {row:#}");
        }
        let frozen = row["parts"].as_array().unwrap().iter().filter(|part| part["frozen"] == true);
        assert!(frozen.count() >= 4, "{row:#}");
    }
    assert_eq!(outcome["moves"].as_array().unwrap().len(), 4);
    // Nothing of 16 MiB was moved, so no measure is known.
    assert!(outcome["measures"].as_array().unwrap().iter().all(|measure| measure["met"].is_null()));

    let text = fs::read_to_string(&document).unwrap();
    assert!(text.starts_with("# Kept\n") && text.ends_with("kept too\n") && !text.contains("\nold\n"), "{text}");
    assert!(text.contains("| 8MiB | runc-lazy-pages | 1 |"), "{text}");
}

pub fn a_document_without_a_place_for_the_tables_is_told_before_anything_is_moved() {
    let bed = Bed::none();
    let dir = tempfile::tempdir().unwrap();
    let document = dir.path().join("performance.md");
    fs::write(&document, "nothing\n").unwrap();
    let said = bed.call(&["bench", "migrate", "--into", document.to_str().unwrap()]).code(2);
    assert!(said.err.contains("has no place for the tables"), "{}", said.err);
}
