//! `godwit bench migrate`.

use crate::e2e::{Bed, left};

pub fn plain_runc_is_measured_beside() {
    let bed = Bed::none();
    let rows = bed.call(&["bench", "migrate", "--memory", "8MiB", "--runs", "1", "--json"]).code(0).json();
    left::assert_nothing(bed.name());
    let row = &rows[0];
    assert_eq!((&row["memory"], &row["runs"]), (&(8 << 20).into(), &1.into()));
    for who in ["godwit", "plain_runc"] {
        for figure in ["freeze", "gap"] {
            assert!(row[who][figure]["median_ms"].as_f64().unwrap() > 0.0, "{who} {figure}: {row:#}");
        }
    }
}
