//! runc's `state.json`: what runc believes of a container, and so what makes a restored one a normal container.
//!
//! The file's form changes between versions of runc. We keep whatever the node's own runc wrote and change only the
//! fields that follow from another first process, so a container may move between nodes with different versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};
use crate::node::NodeEnv;

/// A parsed `state.json`.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
    json: Value,
}

impl StateFile {
    /// Reads it from runc's directory of the container (a path of the node).
    pub(crate) fn read(env: &NodeEnv, dir: &Path) -> Result<Self> {
        let path = env.host_path(dir.join("state.json"));
        let text = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
        let json =
            serde_json::from_str(&text).map_err(|e| Error::BadFile { path: path.clone(), message: e.to_string() })?;
        let state = Self { path, json };
        state.rootfs()?;
        state.init_pid()?;
        Ok(state)
    }

    /// The pid of the container's first process, as the node sees it.
    pub fn init_pid(&self) -> Result<i32> {
        let pid = self.json["init_process_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.ok_or_else(|| self.lacks("init_process_pid"))
    }

    /// The container's root file system, a path of the node.
    pub fn rootfs(&self) -> Result<PathBuf> {
        self.json["config"]["rootfs"].as_str().map(PathBuf::from).ok_or_else(|| self.lacks("config.rootfs"))
    }

    /// Its cgroup directories, paths of the node: by controller (v1), or one by the empty name (v2).
    pub fn cgroup_paths(&self) -> BTreeMap<String, PathBuf> {
        let object = self.json["cgroup_paths"].as_object().into_iter().flatten();
        object.filter_map(|(k, v)| Some((k.clone(), PathBuf::from(v.as_str()?)))).collect()
    }

    /// Where its standard streams lead: `/dev/null`, `pipe:[1234]`.
    pub fn descriptors(&self) -> Vec<String> {
        let list = self.json["external_descriptors"].as_array().into_iter().flatten();
        list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
    }

    /// Which namespaces it was given, and shares with others (`ipc`, `net`, `uts`): the names of `/proc/PID/ns`.
    pub(crate) fn joined(&self) -> Vec<&'static str> {
        const KINDS: [(&str, &str); 3] = [("NEWNET", "net"), ("NEWUTS", "uts"), ("NEWIPC", "ipc")];
        let list = self.json["config"]["namespaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        let given = |kind: &str| {
            list.iter().any(|ns| ns["type"] == kind && ns["path"].as_str().is_some_and(|path| !path.is_empty()))
        };
        KINDS.into_iter().filter(|(kind, _)| given(kind)).map(|(_, name)| name).collect()
    }

    /// Makes `pid` (of the node, started at `start_ticks` by field 22 of its `/proc/PID/stat`) the first process, and
    /// writes the file, all or nothing.
    pub(crate) fn adopt(&mut self, pid: i32, start_ticks: u64, descriptors: &[String]) -> Result<()> {
        self.json["init_process_pid"] = json!(pid);
        self.json["init_process_start"] = json!(start_ticks);
        if !descriptors.is_empty() {
            self.json["external_descriptors"] = json!(descriptors);
        }
        if let Some(paths) = self.json["namespace_paths"].as_object_mut() {
            for path in paths.values_mut() {
                if let Some(moved) = path.as_str().and_then(|p| with_pid(p, pid)) {
                    *path = json!(moved);
                }
            }
        }
        let new = self.path.with_file_name(".state-godwit");
        fs::write(&new, self.json.to_string()).context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &self.path).context(|| format!("replace {}", self.path.display()))
    }

    fn lacks(&self, what: &str) -> Error {
        Error::BadFile { path: self.path.clone(), message: format!("it has no {what}") }
    }
}

/// `/proc/12/ns/net` with another pid; none if it is no such path.
fn with_pid(path: &str, pid: i32) -> Option<String> {
    let (old, rest) = path.strip_prefix("/proc/")?.split_once('/')?;
    old.parse::<i32>().ok()?;
    Some(format!("/proc/{pid}/{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_first_process_changes_what_follows_from_it_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"id":"app","init_process_pid":12,"init_process_start":1,"config":{"rootfs":"/r","new":true},
            "namespace_paths":{"NEWNET":"/proc/12/ns/net","NEWUSER":"/run/u"},"external_descriptors":["/dev/null"]}"#;
        fs::write(dir.path().join("state.json"), text).unwrap();
        let mut state = StateFile::read(&NodeEnv::host(), dir.path()).unwrap();
        state.adopt(77, 99, &[]).unwrap();
        let read = StateFile::read(&NodeEnv::host(), dir.path()).unwrap();
        assert_eq!(read.init_pid().unwrap(), 77);
        assert_eq!(read.json["namespace_paths"]["NEWNET"], "/proc/77/ns/net");
        assert_eq!(read.json["namespace_paths"]["NEWUSER"], "/run/u");
        assert_eq!(read.json["config"]["new"], true);
        assert_eq!(read.descriptors(), ["/dev/null"]);
    }

    #[test]
    fn namespaces_that_were_given_by_a_path_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"init_process_pid":12,"config":{"rootfs":"/r","namespaces":[{"type":"NEWPID","path":""},
            {"type":"NEWIPC","path":"/run/ipc"},{"type":"NEWNET","path":"/run/net"},{"type":"NEWUTS","path":""}]}}"#;
        fs::write(dir.path().join("state.json"), text).unwrap();
        assert_eq!(StateFile::read(&NodeEnv::host(), dir.path()).unwrap().joined(), ["net", "ipc"]);
    }

    #[test]
    fn a_file_without_a_pid_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state.json"), r#"{"config":{"rootfs":"/r"}}"#).unwrap();
        let err = StateFile::read(&NodeEnv::host(), dir.path()).unwrap_err();
        assert!(err.to_string().ends_with("state.json: it has no init_process_pid"), "{err}");
    }
}
