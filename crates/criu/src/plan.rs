//! What the target has to know before the dump, to have everything ready when the images come.

use serde::{Deserialize, Serialize};

use crate::check::Version;
use crate::process::MountInfo;

/// Made by the source when it prepares, carried to the target as JSON or in any other form of serde's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// The mounts that are not in the images: the target makes them beforehand.
    pub external: Vec<ExternalMount>,
    /// Where the container's standard streams led: `/dev/null`, `pipe:[1234]`.
    pub descriptors: Vec<String>,
    /// The CRIU that writes the images, where the source says.
    #[serde(default)]
    pub criu: Option<Version>,
}

/// A mount that both nodes make by themselves, from the container's specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalMount {
    /// Its name in CRIU's images.
    pub key: String,
    /// Its place in the container.
    pub mountpoint: String,
    /// Whether files in it are the container's own and move with it (a tmpfs), beside CRIU's images.
    #[serde(default)]
    pub content: bool,
}

/// Which of a container's mounts are left out of the images.
///
/// Binds have to be: CRIU cannot follow them out of the container. `/dev` holds what the runtime puts there. Any
/// other tmpfs is left out too because we carry its files faster than CRIU does. The rest is made anew by CRIU, like
/// proc for the new pid namespace.
pub(crate) fn external_mounts(mounts: &[MountInfo]) -> Vec<ExternalMount> {
    let own = ["proc", "sysfs", "devpts", "mqueue"];
    let mut external: Vec<ExternalMount> = Vec::new();
    for mount in mounts.iter().filter(|m| m.mountpoint != "/") {
        let is_own = own.contains(&mount.fstype.as_str()) && mount.root == "/";
        // A bind of the container's own /proc/sys onto itself, to make it read-only, is not from outside.
        let is_of_own_proc = mount.fstype == "proc" && mount.mountpoint.starts_with("/proc/");
        if !is_own && !is_of_own_proc {
            let key = format!("godwit{}", external.len());
            let content = mount.fstype == "tmpfs" && mount.root == "/" && mount.mountpoint != "/dev";
            external.push(ExternalMount { key, mountpoint: mount.mountpoint.clone(), content });
        }
    }
    external
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(root: &str, mountpoint: &str, fstype: &str) -> MountInfo {
        MountInfo { id: 0, root: root.into(), mountpoint: mountpoint.into(), fstype: fstype.into() }
    }

    #[test]
    fn what_criu_need_not_make_is_external_and_a_tmpfs_has_content() {
        let mounts = [
            mount("/x/rootfs", "/", "overlay"),
            mount("/", "/proc", "proc"),
            mount("/sys", "/proc/sys", "proc"),
            mount("/", "/dev", "tmpfs"),
            mount("/null", "/proc/kcore", "tmpfs"),
            mount("/", "/tmp", "tmpfs"),
            mount("/data", "/data", "ext4"),
        ];
        let external = external_mounts(&mounts);
        let places: Vec<_> = external.iter().map(|e| (e.mountpoint.as_str(), e.content)).collect();
        assert_eq!(places, [("/dev", false), ("/proc/kcore", false), ("/tmp", true), ("/data", false)]);
        assert_ne!(external[0].key, external[1].key);
    }
}
