//! What this host has and lacks, and what follows.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use godwit_criu::{Limit, NodeEnv};
use godwit_net::Netns;
use nix::unistd::geteuid;
use serde::Serialize;

use crate::cgroup::{Cgroup, Version};
use crate::host;
use crate::node::{Node, NodeConfig, Size};

/// Whether the host has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Has {
    /// Yes.
    Yes,
    /// Not, or not all of it; Godwit works round it.
    Partly,
    /// No, and the testbed needs it.
    No,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// Whether it is there.
    pub has: Has,
    /// What was seen.
    pub detail: String,
    /// What follows, or what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
}

fn finding(what: &str, has: Has, detail: impl Into<String>, follows: Option<&str>) -> Finding {
    Finding { what: what.into(), has, detail: detail.into(), follows: follows.map(Into::into) }
}

/// Looks at everything that the testbed needs or can use. `image` is the node image's root file system.
pub fn examine(image: &Path) -> Vec<Finding> {
    let root = geteuid().is_root();
    let mut findings = vec![
        if root {
            finding("root", Has::Yes, "running as root", None)
        } else {
            finding("root", Has::No, "not running as root", Some("run it with sudo; --world sim needs no root"))
        },
        kernel(),
        tun(),
        netem(root),
        cgroups(),
        resource_capability(),
        programs(),
        node_image(image),
    ];
    findings.extend(criu(image, root));
    findings.push(memory_tracking(root));
    findings.push(kvm());
    findings
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    finding("kernel", Has::Yes, release.trim(), None)
}

fn tun() -> Finding {
    match godwit_net::tun_supported() {
        Ok(()) => finding("tun", Has::Yes, "/dev/net/tun works", None),
        Err(why) => {
            finding("tun", Has::No, why, Some("load it with `modprobe tun`; in a container, hand /dev/net/tun in"))
        }
    }
}

fn netem(root: bool) -> Finding {
    if !root {
        return finding("netem", Has::Partly, "not looked for without root", None);
    }
    match godwit_net::netem_supported() {
        Ok(()) => finding("netem", Has::Yes, "the kernel can delay packets", None),
        Err(why) => {
            finding("netem", Has::Partly, why.to_string(), Some("links are delayed by Godwit itself, in user space"))
        }
    }
}

fn cgroups() -> Finding {
    match Version::detect() {
        Version::V2 => finding("cgroups", Has::Yes, "version 2", None),
        Version::V1 => {
            let missing: Vec<&str> = ["cpu", "cpuacct", "memory", "freezer"]
                .into_iter()
                .filter(|controller| !Path::new("/sys/fs/cgroup").join(controller).is_dir())
                .collect();
            if missing.is_empty() {
                finding("cgroups", Has::Yes, "version 1 or hybrid", None)
            } else {
                let detail = format!("version 1 without {}", missing.join(", "));
                finding("cgroups", Has::No, detail, Some("mount them, or boot with systemd.unified_cgroup_hierarchy=1"))
            }
        }
    }
}

fn resource_capability() -> Finding {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim);
    let has =
        bits.and_then(|bits| u64::from_str_radix(bits, 16).ok()).is_some_and(|bits| bits >> CAP_SYS_RESOURCE & 1 == 1);
    if has {
        finding("CAP_SYS_RESOURCE", Has::Yes, "held", None)
    } else {
        let follows = "fs.pipe-max-size is raised to 4 MiB while a testbed runs; workloads get no rlimits";
        finding("CAP_SYS_RESOURCE", Has::Partly, "not held", Some(follows))
    }
}

fn programs() -> Finding {
    let missing = host::missing_programs();
    if missing.is_empty() {
        finding("util-linux", Has::Yes, "nsenter and unshare", None)
    } else {
        let detail = format!("{} missing", missing.join(", "));
        finding("util-linux", Has::No, detail, Some("apt-get install util-linux"))
    }
}

fn node_image(image: &Path) -> Finding {
    match host::require_image(image) {
        Ok(()) => finding("node image", Has::Yes, image.display().to_string(), None),
        Err(_) => {
            let detail = format!("none at {}", image.display());
            finding("node image", Has::No, detail, Some("make it with: scripts/setup-node-image.sh (as root)"))
        }
    }
}

/// Asks the node image's own CRIU, in its root.
fn criu(image: &Path, root: bool) -> Vec<Finding> {
    if !root || host::require_image(image).is_err() {
        return vec![finding("criu", Has::Partly, "not asked without root and a node image", None)];
    }
    let follows = Some("what cannot be dumped is rolled back; the service runs on");
    match scratch_node(image) {
        Err(why) => vec![finding("criu", Has::No, why, Some("see the node image's criu: `criu check --all`"))],
        Ok(can) => {
            let mut found = vec![match can.complaints.first() {
                None => finding("criu", Has::Yes, format!("{}: looks good", can.version), None),
                Some(complaint) => finding("criu", Has::Partly, format!("{}: {complaint}", can.version), follows),
            }];
            found.push(if can.memory_tracking {
                finding("soft-dirty", Has::Yes, "memory changes can be tracked by CRIU", None)
            } else {
                finding(
                    "soft-dirty",
                    Has::Partly,
                    "not in this kernel",
                    Some("Godwit tracks memory by write protection instead: next line"),
                )
            });
            found.push(if can.lazy_pages {
                finding("userfaultfd", Has::Yes, "memory can follow later", None)
            } else {
                finding("userfaultfd", Has::Partly, "not usable", Some("post-copy cannot work; stop-copy does"))
            });
            found
        }
    }
}

fn memory_tracking(root: bool) -> Finding {
    if !root {
        return finding("memory tracking", Has::Partly, "not tried without root", None);
    }
    match godwit_memory::supported() {
        Ok(method) => finding("memory tracking", Has::Yes, format!("{method}: pre-copy works"), None),
        Err(why) => finding("memory tracking", Has::Partly, why, Some("pre-copy cannot work; stop-copy does")),
    }
}

fn scratch_node(image: &Path) -> Result<godwit_criu::Capabilities, String> {
    let pid = std::process::id();
    let scratch = std::env::temp_dir().join(format!("godwit-doctor-{pid}"));
    let netns = Netns::create(&format!("godwit.doctor.{pid}")).map_err(|e| godwit_model::chain(&e))?;
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    fs::create_dir_all(scratch.join("app")).map_err(|e| e.to_string())?;
    let cgroup = Cgroup::new(format!("godwit-doctor-{pid}"));
    let node = Node::start(NodeConfig {
        name: &godwit_model::NodeName::new("doctor").expect("a name"),
        size: Size { cpu: 1.0, memory: godwit_model::Bytes(1 << 30) },
        netns: &netns,
        cgroup: cgroup.clone(),
        program: &program,
        image,
        app: &scratch.join("app"),
        images: &[],
        scratch: scratch.join("node"),
    })
    .map_err(|e| godwit_model::chain(&e))
    .and_then(|node| {
        let env: NodeEnv = node.env();
        godwit_criu::check(&env, &Limit::within(Duration::from_secs(20))).map_err(|e| godwit_model::chain(&e))
    });
    let _ = fs::remove_dir_all(&scratch);
    // A node that stood has taken it away itself.
    if cgroup.dirs().iter().any(|dir| dir.exists())
        && let Err(error) = cgroup.destroy(Duration::from_secs(5))
    {
        tracing::warn!(%error, "left behind");
    }
    node
}

fn kvm() -> Finding {
    let follows = Some("virtual machines (to come) would run emulated");
    let is_device = fs::metadata("/dev/kvm").is_ok_and(|m| m.file_type().is_char_device());
    if is_device && File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        finding("kvm", Has::Yes, "/dev/kvm opens (whether guests run in it is not tried)", None)
    } else {
        let detail = if is_device { "/dev/kvm cannot be opened" } else { "no /dev/kvm" };
        finding("kvm", Has::Partly, detail, follows)
    }
}
