//! The OCI runtime specification of a workload: a `config.json` with only what a migration can carry.
//!
//! No TTY, no rlimits (setting them needs CAP_SYS_RESOURCE at every restore), no cgroup mount (CRIU cannot dump one
//! on hosts that mix both cgroup versions), the network namespace by path, and as few mounts as will do: each costs
//! milliseconds of the freeze.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Context, Error, Result};

/// What a container may do besides what any process may: the set that container engines give by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A workload's specification.
///
/// ```
/// use godwit_criu::Spec;
/// let spec = Spec::new(["/usr/bin/video", "--port", "7"], "/var/lib/app/rootfs")
///     .netns("/run/netns/video")
///     .cgroups_path("/godwit/edge1/video")
///     .memory_limit(256 << 20);
/// assert!(spec.to_json().contains("\"path\": \"/run/netns/video\""));
/// ```
#[derive(Debug, Clone)]
pub struct Spec {
    config: Config,
}

impl Spec {
    /// A specification of `args` (the program first) in the root file system at `rootfs`, a path of the node.
    pub fn new<I>(args: I, rootfs: impl Into<PathBuf>) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let namespace = |kind| Namespace { r#type: kind, path: None };
        let capabilities = CAPABILITIES.to_vec();
        let config = Config {
            oci_version: "1.0.2",
            process: Process {
                terminal: false,
                user: User { uid: 0, gid: 0 },
                args: args.into_iter().map(Into::into).collect(),
                env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
                cwd: "/".into(),
                capabilities: Capabilities {
                    bounding: capabilities.clone(),
                    effective: capabilities.clone(),
                    permitted: capabilities,
                },
                no_new_privileges: true,
            },
            root: Root { path: rootfs.into(), readonly: false },
            hostname: None,
            mounts: vec![
                Mount::new("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
                Mount::new("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                Mount::new("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
            ],
            annotations: BTreeMap::new(),
            linux: Linux {
                namespaces: vec![namespace("pid"), namespace("mount"), namespace("network")],
                cgroups_path: None,
                resources: Resources { devices: vec![DeviceRule { allow: false, access: "rwm" }], memory: None },
                seccomp: None,
            },
        };
        Self { config }
    }

    /// An environment variable, in the place of one of the same name.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.config.process.env.retain(|old| old.split_once('=').is_none_or(|(name, _)| name != key));
        self.config.process.env.push(format!("{key}={value}"));
        self
    }

    /// The working directory; `/` otherwise.
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.config.process.cwd = cwd.into();
        self
    }

    /// User and group; root otherwise.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.config.process.user = User { uid, gid };
        self
    }

    /// The network namespace, by its path in the node; a new, empty one otherwise.
    pub fn netns(mut self, path: impl Into<PathBuf>) -> Self {
        self.namespace("network", Some(path.into()));
        self
    }

    /// Its cgroup, as an absolute path below the root of the hierarchies. Needed for what is to be migrated: it has
    /// to be the container's own.
    pub fn cgroups_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.linux.cgroups_path = Some(path.into());
        self
    }

    /// The most memory, in bytes; no limit otherwise.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.config.linux.resources.memory = Some(Memory { limit: bytes });
        self
    }

    /// A host name of its own; it gets a uts namespace for that.
    pub fn hostname(mut self, name: &str) -> Self {
        self.config.hostname = Some(name.into());
        self.namespace("uts", None);
        self
    }

    /// An IPC namespace of its own; the node's otherwise.
    pub fn own_ipc(mut self) -> Self {
        self.namespace("ipc", None);
        self
    }

    /// The IPC namespace, by its path in the node; CRIU does not carry what of System V or of POSIX queues is in it.
    pub fn ipc(mut self, path: impl Into<PathBuf>) -> Self {
        self.namespace("ipc", Some(path.into()));
        self
    }

    /// The uts namespace, which has the host name, by its path in the node.
    pub fn uts(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.hostname = None;
        self.namespace("uts", Some(path.into()));
        self
    }

    /// No io_uring, which CRIU cannot carry: asking for one fails with ENOSYS, as on a kernel without. Programs that merely
    /// like it (Node.js by libuv) then do without. A seccomp filter, which moves with the container.
    pub fn without_io_uring(mut self) -> Self {
        let refused = SyscallRule { names: ["io_uring_setup"], action: "SCMP_ACT_ERRNO", errno_ret: libc::ENOSYS };
        self.config.linux.seccomp = Some(Seccomp { default_action: "SCMP_ACT_ALLOW", syscalls: [refused] });
        self
    }

    /// A directory or file of the node bound into the container.
    pub fn bind(mut self, source: impl AsRef<Path>, destination: &str, options: &[&str]) -> Self {
        let source = source.as_ref().display().to_string();
        let options = [&["rbind"][..], options].concat();
        self.config.mounts.push(Mount::new(destination, "bind", &source, &options));
        self
    }

    /// One more tmpfs; what is in it moves with the container.
    pub fn tmpfs(mut self, destination: &str) -> Self {
        self.config.mounts.push(Mount::new(destination, "tmpfs", "tmpfs", &["nosuid", "nodev"]));
        self
    }

    /// An annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config.annotations.insert(key.into(), value.into());
        self
    }

    /// The text of `config.json`.
    pub fn to_json(&self) -> String {
        // Strings, numbers and paths that came from strings: there is nothing in it that serde_json refuses, except
        // a path that is no UTF-8, which no OCI runtime could read either.
        serde_json::to_string_pretty(&self.config).expect("paths are UTF-8")
    }

    /// Writes `config.json` into the bundle directory, a path of the host, making the directory if need be.
    pub fn write(&self, bundle: &Path) -> Result<()> {
        if self.config.process.args.is_empty() {
            let message = "a workload needs a program to run".into();
            return Err(Error::BadFile { path: bundle.join("config.json"), message });
        }
        fs::create_dir_all(bundle).context(|| format!("make {}", bundle.display()))?;
        let path = bundle.join("config.json");
        fs::write(&path, self.to_json()).context(|| format!("write {}", path.display()))
    }

    fn namespace(&mut self, kind: &'static str, path: Option<PathBuf>) {
        self.config.linux.namespaces.retain(|ns| ns.r#type != kind);
        self.config.linux.namespaces.push(Namespace { r#type: kind, path });
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    oci_version: &'static str,
    process: Process,
    root: Root,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    linux: Linux,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    terminal: bool,
    user: User,
    args: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
    capabilities: Capabilities,
    no_new_privileges: bool,
}

#[derive(Debug, Clone, Serialize)]
struct User {
    uid: u32,
    gid: u32,
}

#[derive(Debug, Clone, Serialize)]
struct Capabilities {
    bounding: Vec<&'static str>,
    effective: Vec<&'static str>,
    permitted: Vec<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
struct Root {
    path: PathBuf,
    readonly: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Mount {
    destination: String,
    r#type: String,
    source: String,
    options: Vec<String>,
}

impl Mount {
    fn new(destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        Self {
            destination: destination.into(),
            r#type: kind.into(),
            source: source.into(),
            options: options.iter().map(|o| (*o).into()).collect(),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<Namespace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroups_path: Option<PathBuf>,
    resources: Resources,
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<Seccomp>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    default_action: &'static str,
    syscalls: [SyscallRule; 1],
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct SyscallRule {
    names: [&'static str; 1],
    action: &'static str,
    errno_ret: i32,
}

#[derive(Debug, Clone, Serialize)]
struct Namespace {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize)]
struct Resources {
    devices: Vec<DeviceRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
}

#[derive(Debug, Clone, Serialize)]
struct DeviceRule {
    allow: bool,
    access: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct Memory {
    limit: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_in_it_that_a_migration_cannot_carry() {
        let json: serde_json::Value =
            serde_json::from_str(&Spec::new(["/bin/true"], "/r").hostname("a").hostname("b").to_json()).unwrap();
        assert_eq!(json["process"]["terminal"], false);
        assert!(json["process"].get("rlimits").is_none());
        assert_eq!(json["hostname"], "b");
        let kinds: Vec<_> = json["linux"]["namespaces"].as_array().unwrap().iter().map(|n| &n["type"]).collect();
        assert_eq!(kinds, ["pid", "mount", "network", "uts"]);
        let mounts = json["mounts"].as_array().unwrap();
        assert!(mounts.iter().all(|m| m["type"] != "cgroup" && m["type"] != "devpts"));
    }

    #[test]
    fn a_variable_is_there_once() {
        let spec = Spec::new(["/bin/true"], "/r").env("A", "1").env("PATH", "/x").env("A", "2=2");
        let json: serde_json::Value = serde_json::from_str(&spec.to_json()).unwrap();
        assert_eq!(json["process"]["env"], serde_json::json!(["PATH=/x", "A=2=2"]));
    }

    #[test]
    fn a_workload_without_a_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let err = Spec::new(Vec::<String>::new(), "/r").write(dir.path()).unwrap_err();
        assert!(err.to_string().ends_with("a workload needs a program to run"), "{err}");
    }
}
