//! A checkpoint that runc made for a container engine: what of its configuration can hold in the testbed.

use std::fs;
use std::path::{Path, PathBuf};

use godwit_criu::{ExternalMount, RestorePlan};
use serde_json::{Value, json};

use super::NotDone;

/// How runc names the network namespace that it was given by path.
pub(super) const NETNS_KEY: &str = "extRootNetNS";

/// Files that engines bind into containers; any other bind whose source is not here becomes a directory.
const FILES: [&str; 6] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/termination-log",
    "/run/.containerenv",
    "/run/secrets/kubernetes.io/serviceaccount/token",
];

/// Where the restored container is to be.
#[derive(Debug)]
pub(super) struct Place<'p> {
    /// Its root file system, in the node.
    pub(super) rootfs: &'p Path,
    /// Its network namespace, in the node.
    pub(super) netns: &'p Path,
    /// Its control group.
    pub(super) cgroup: &'p str,
}

/// The configuration with which a container of this checkpoint is made at `place`.
pub(super) fn moved(spec: &Value, place: &Place<'_>) -> Result<Value, NotDone> {
    let mut spec = spec.clone();
    let refused = |why: &str| NotDone::Refused(format!("its OCI configuration cannot hold here: {why}"));
    if spec["process"]["terminal"] == true {
        return Err(refused("the container has a terminal, which belongs to a session that is gone"));
    }
    if !spec["process"].is_object() || !spec["linux"].is_object() {
        return Err(refused("it has no process or is not for Linux"));
    }
    spec["root"] = json!({"path": place.rootfs, "readonly": false});
    spec["linux"]["cgroupsPath"] = json!(place.cgroup);
    let mut has_network = false;
    for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        let Some(namespace) = namespace.as_object_mut() else { continue };
        // The pod's namespaces are gone; new ones are made.
        namespace.remove("path");
        if namespace.get("type") == Some(&json!("network")) {
            namespace.insert("path".into(), json!(place.netns));
            has_network = true;
        }
    }
    if !has_network {
        return Err(refused("the container used its host's network"));
    }
    if let Some(fields) = spec.as_object_mut() {
        // They are programs of the host that it ran on.
        fields.remove("hooks");
    }
    if let Some(process) = spec["process"].as_object_mut() {
        // Profiles of the host that it ran on; and limits, which runc cannot raise without CAP_SYS_RESOURCE, CRIU restores.
        for host_bound in ["apparmorProfile", "selinuxLabel", "rlimits", "oomScoreAdj"] {
            process.remove(host_bound);
        }
    }
    Ok(spec)
}

/// Gives a container of several the namespaces that they have in common, in the place of those that are gone.
pub(super) fn join(spec: &mut Value, namespaces: &Path) {
    for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        let kind = namespace["type"].as_str().unwrap_or_default();
        if ["ipc", "uts"].contains(&kind) {
            namespace["path"] = json!(namespaces.join(kind));
        }
    }
}

/// Makes something to bind where a bind's source is not on this node: `host` leads there from here, `dir` is a directory of
/// the node for it. Returns the destinations.
pub(super) fn stand_in(spec: &mut Value, host: impl Fn(&Path) -> PathBuf, dir: &Path) -> std::io::Result<Vec<String>> {
    let mut made = Vec::new();
    for (number, mount) in spec["mounts"].as_array_mut().into_iter().flatten().enumerate() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (destination, source) = (text(&mount["destination"]), text(&mount["source"]));
        if !is_bind(mount) || (!source.is_empty() && host(Path::new(&source)).exists()) {
            continue;
        }
        let place = dir.join(number.to_string());
        fs::create_dir_all(host(dir))?;
        if FILES.contains(&destination.as_str()) {
            fs::write(host(&place), "")?;
        } else {
            fs::create_dir_all(host(&place))?;
        }
        mount["source"] = json!(place);
        made.push(destination);
    }
    Ok(made)
}

/// What the restore has to know beforehand, which runc does not write down but does by rule.
pub(super) fn plan(spec: &Value, images: &Path) -> RestorePlan {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let external = |key: String, mountpoint: String| ExternalMount { key, mountpoint, content: false };
    let binds = spec["mounts"].as_array().into_iter().flatten().filter(|mount| is_bind(mount));
    let mut mounts: Vec<ExternalMount> =
        binds.map(|m| external(text(&m["destination"]), text(&m["destination"]))).collect();
    let masked = spec["linux"]["maskedPaths"].as_array().into_iter().flatten().map(text);
    // Only files: over directories there is an empty tmpfs, which is in the images.
    let is_there = |path: &String| path.starts_with("/proc/") && Path::new(path).is_file();
    mounts.extend(masked.filter(is_there).map(|path| external("/dev/null".into(), path)));
    let descriptors = fs::read_to_string(images.join("descriptors.json")).unwrap_or_default();
    let descriptors = serde_json::from_str(&descriptors).unwrap_or_default();
    // A checkpoint says it in its manifest, for a person; who restores an archive from elsewhere may know better.
    RestorePlan { external: mounts, descriptors, criu: None }
}

/// Binds what is at these places of the container from elsewhere in the node.
pub(super) fn bind<'p>(spec: &mut Value, volumes: impl Iterator<Item = (&'p PathBuf, PathBuf)>) {
    for (inside, source) in volumes {
        for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
            if is_bind(mount) && mount["destination"] == json!(inside) {
                mount["source"] = json!(source);
            }
        }
    }
}

fn is_bind(mount: &Value) -> bool {
    let options = mount["options"].as_array().into_iter().flatten();
    mount["type"] == "bind" || options.filter_map(Value::as_str).any(|option| option == "bind" || option == "rbind")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Value {
        json!({
            "process": {"args": ["/app"], "apparmorProfile": "cri", "rlimits": []},
            "root": {"path": "/var/lib/containers/x"},
            "hooks": {"prestart": []},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/etc/hosts", "type": "bind", "source": "/no/such/hosts", "options": ["rbind"]},
                {"destination": "/data", "type": "bind", "source": "/no/such/data", "options": ["rbind"]},
                {"destination": "/host", "type": "bind", "source": "/", "options": ["rbind"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/proc/9/ns/ipc"},
                    {"type": "network", "path": "/var/run/netns/x"}],
                "maskedPaths": ["/proc/version", "/proc/self", "/proc/no-such-file"],
            },
        })
    }

    #[test]
    fn what_belongs_to_the_old_host_is_left_there() {
        let place = Place { rootfs: Path::new("/b/rootfs"), netns: Path::new("/run/netns/n"), cgroup: "/g" };
        let moved = moved(&spec(), &place).unwrap();
        assert_eq!(moved["root"]["path"], "/b/rootfs");
        let namespaces = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "network", "path": "/run/netns/n"}]);
        assert_eq!(moved["linux"]["namespaces"], namespaces);
        assert_eq!(moved["process"], json!({"args": ["/app"]}));
        assert!(moved.get("hooks").is_none());
        let mut with_terminal = spec();
        with_terminal["process"]["terminal"] = json!(true);
        assert!(super::moved(&with_terminal, &place).is_err());
    }

    #[test]
    fn binds_are_external_by_runcs_rule_and_stood_in_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec();
        let made = stand_in(&mut spec, Path::to_owned, dir.path()).unwrap();
        assert_eq!(made, ["/etc/hosts", "/data"]);
        assert!(dir.path().join("1").is_file() && dir.path().join("2").is_dir());
        fs::write(dir.path().join("descriptors.json"), r#"["/dev/null","pipe:[3]","pipe:[4]"]"#).unwrap();
        let plan = plan(&spec, dir.path());
        let external: Vec<_> = plan.external.iter().map(|m| (m.key.as_str(), m.mountpoint.as_str())).collect();
        let bind = |place| (place, place);
        assert_eq!(external, [bind("/etc/hosts"), bind("/data"), bind("/host"), ("/dev/null", "/proc/version")]);
        assert_eq!(plan.descriptors.len(), 3);
    }
}
