//! The snapshots of a run, one JSON object a line.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use godwit_model::Snapshot;

use crate::ReportError;
use crate::folder::{finish, part_name};

const NAME: &str = "snapshots.jsonl";

/// Writes `snapshots.jsonl` as the run goes; the file has its name only after [`SnapshotLog::finish`]. Dropped without
/// that, it leaves nothing.
#[derive(Debug)]
pub struct SnapshotLog {
    out: PathBuf,
    /// `None` once finished.
    file: Option<BufWriter<File>>,
}

impl SnapshotLog {
    /// Begins in the folder `out`, which must be there (see [`crate::prepare`]).
    pub fn create(out: &Path) -> Result<Self, ReportError> {
        let part = out.join(part_name(NAME));
        let file = File::create(&part).map_err(ReportError::io("write", part))?;
        Ok(Self { out: out.to_owned(), file: Some(BufWriter::new(file)) })
    }

    /// Adds a line.
    pub fn append(&mut self, snapshot: &Snapshot) -> Result<(), ReportError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = serde_json::to_vec(snapshot).map_err(|source| ReportError::Json { source })?;
        line.push(b'\n');
        file.write_all(&line).map_err(ReportError::io("write", self.out.join(NAME)))
    }

    /// Puts the file in place.
    pub fn finish(mut self) -> Result<PathBuf, ReportError> {
        let path = self.out.join(NAME);
        if let Some(mut file) = self.file.take() {
            let flushed = file.flush().and_then(|()| file.get_ref().sync_all());
            if let Err(source) = flushed {
                self.file = Some(file);
                return Err(ReportError::io("write", path)(source));
            }
        }
        finish(&self.out, NAME)
    }
}

impl Drop for SnapshotLog {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(self.out.join(part_name(NAME)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let line = r#"{"at_s":1.5,"nodes":[{"name":"edge1","load":1.4}],"workloads":[]}"#;
        let snapshot: Snapshot = serde_json::from_str(line).unwrap();
        let mut log = SnapshotLog::create(dir.path()).unwrap();
        log.append(&snapshot).unwrap();
        log.append(&snapshot).unwrap();
        assert!(!dir.path().join(NAME).exists());
        let path = log.finish().unwrap();
        let text = fs::read_to_string(path).unwrap();
        let back: Vec<Snapshot> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(back, [snapshot.clone(), snapshot]);
    }

    #[test]
    fn an_unfinished_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(SnapshotLog::create(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
