//! The output folder: files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::ReportError;

/// Everything that Godwit puts into an output folder.
const OURS: [&str; 12] = [
    "summary.json",
    "migrations.csv",
    "samples.csv",
    "rtt.csv",
    "load.csv",
    "host_node.csv",
    "rtt.svg",
    "load.svg",
    "gaps.svg",
    "placement.svg",
    "report.html",
    "snapshots.jsonl",
];

/// Makes the output folder if it is not there, and checks that a run may write into it: it is empty or holds an earlier
/// run, and files can be made in it. Called before a run, it saves the user a run whose results cannot be kept.
pub fn prepare(out: &Path) -> Result<(), ReportError> {
    make(out)?;
    let entries = fs::read_dir(out).map_err(ReportError::io("read", out))?;
    let names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    let ours = |name: &std::ffi::OsString| OURS.iter().any(|own| name == own || *name == *part_name(own));
    if !names.is_empty() && !names.iter().any(ours) {
        return Err(ReportError::Foreign { path: out.to_owned() });
    }
    let trial = out.join(part_name("trial"));
    File::create(&trial).map_err(ReportError::io("write into", out))?;
    fs::remove_file(&trial).map_err(ReportError::io("remove", trial))
}

fn make(out: &Path) -> Result<(), ReportError> {
    match fs::metadata(out) {
        Ok(meta) if !meta.is_dir() => Err(ReportError::NotAFolder { path: out.to_owned() }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(out).map_err(ReportError::io("make the folder", out))
        }
        Err(error) => Err(ReportError::io("look at", out)(error)),
    }
}

/// The name of a file while it is being written; in the same folder, so that it can be renamed.
pub(crate) fn part_name(name: &str) -> String {
    format!(".{name}.part")
}

/// Writes all of `files`, then gives each its name, in their order. On any failure before the first rename nothing is
/// changed, and no parts are left.
pub(crate) fn put_all(out: &Path, files: &[(&str, String)]) -> Result<Vec<PathBuf>, ReportError> {
    make(out)?;
    let result = put_parts(out, files);
    if result.is_err() {
        for (name, _) in files {
            let _ = fs::remove_file(out.join(part_name(name)));
        }
    }
    result
}

fn put_parts(out: &Path, files: &[(&str, String)]) -> Result<Vec<PathBuf>, ReportError> {
    for (name, text) in files {
        let part = out.join(part_name(name));
        let write = || -> io::Result<()> {
            let mut file = File::create(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(ReportError::io("write", out.join(name)))?;
    }
    files.iter().map(|(name, _)| finish(out, name)).collect()
}

/// Gives a part its name.
pub(crate) fn finish(out: &Path, name: &str) -> Result<PathBuf, ReportError> {
    let path = out.join(name);
    fs::rename(out.join(part_name(name)), &path).map_err(ReportError::io("put in place", &path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_an_earlier_run_are_replaced_and_no_parts_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/out");
        put_all(&out, &[("summary.json", "1".into()), ("rtt.csv", "a".into())]).unwrap();
        let paths = put_all(&out, &[("summary.json", "2".into())]).unwrap();
        assert_eq!(fs::read_to_string(&paths[0]).unwrap(), "2");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
        prepare(&out).unwrap();
    }

    #[test]
    fn one_file_that_cannot_be_written_leaves_all_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        put_all(dir.path(), &[("summary.json", "old".into())]).unwrap();
        fs::create_dir(dir.path().join(part_name("rtt.csv"))).unwrap();
        let error = put_all(dir.path(), &[("summary.json", "new".into()), ("rtt.csv", "a".into())]).unwrap_err();
        assert!(error.to_string().contains("rtt.csv"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("summary.json")).unwrap(), "old");
        assert!(!dir.path().join(part_name("summary.json")).exists());
    }

    #[test]
    fn a_bad_folder_is_told_before_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(prepare(&file), Err(ReportError::NotAFolder { .. })));
        assert!(matches!(prepare(&file.join("below")), Err(ReportError::Io { .. })));
        let error = prepare(dir.path()).unwrap_err();
        assert!(matches!(error, ReportError::Foreign { .. }), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
        prepare(&dir.path().join("new")).unwrap();
    }
}
