//! The image with the servers and their load generators.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::e2e::{Bed, Call, harness, skip};

/// Where the service listens.
pub const PORT: u16 = 5555;

/// The directory that programs of the image find at /mnt.
const OUTSIDE: &str = "/mnt";

/// The image's root file system; none, and it has been said, where there is no image.
pub fn or_skip(test: &str) -> Option<PathBuf> {
    let cache = harness::cache();
    let image = cache.join("conformance/current/rootfs");
    if image.join("usr/bin/wrk").exists() {
        return Some(image.canonicalize().expect("it is there"));
    }
    skip(test, &format!("no image in {}: run scripts/setup-conformance.sh", cache.display()));
    None
}

/// The fields of a container that runs a shell's script.
fn container(image: &Path, script: &str) -> String {
    let command = serde_json::to_string(&["sh", "-ec", script]).expect("plain strings");
    let path = serde_json::to_string(image).expect("a plain path");
    format!("image: {path}, command: {command}")
}

/// A testbed with two nodes, `a` and `b`, and a workload `app` on `a` that runs a shell's script.
pub struct Server {
    pub bed: Bed,
    image: PathBuf,
    address: String,
    address_v6: Option<String>,
}

impl Server {
    /// Starts it.
    pub fn start(image: &Path, memory: &str, script: &str) -> Self {
        Self::made_of(image, memory, &container(image, script))
    }

    /// The same with several containers that run a script each, by their names.
    pub fn of_containers(image: &Path, memory: &str, scripts: &[(&str, &str)]) -> Self {
        let of = |(name, script): &(&str, &str)| format!("{{ name: {name}, {} }}", container(image, script));
        let containers = scripts.iter().map(of).collect::<Vec<_>>().join(", ");
        Self::made_of(image, memory, &format!("containers: [ {containers} ]"))
    }

    fn made_of(image: &Path, memory: &str, fields: &str) -> Self {
        let bed = Bed::of(&format!(
            "version: 1\nname: conformance\nduration: 60s\n\
             nodes: [ {{ name: a }}, {{ name: b }} ]\n\
             users: [ {{ name: car, rtt: {{ a: 2ms, b: 4ms }} }} ]\n\
             workloads:\n  - {{ name: app, node: a, users: [car], port: {PORT}, memory: {memory}, \
             {fields} }}\n"
        ));
        let status = bed.status();
        let address = |field: &str| {
            let address: SocketAddr = status["workloads"][0][field].as_str()?.parse().expect("an address");
            assert_eq!(address.port(), PORT);
            Some(address.ip().to_string())
        };
        let (address, address_v6) = (address("service").expect("an address"), address("service_v6"));
        Self { bed, image: image.to_owned(), address, address_v6 }
    }

    /// The service address, without the port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same of IPv6; of IPv4 where the kernel has no other, which is said.
    pub fn address_v6(&self) -> &str {
        self.address_v6.as_deref().unwrap_or_else(|| {
            skip("IPv6", "this kernel has none");
            &self.address
        })
    }

    /// A file for programs of the image; the path by which they find it.
    pub fn file(&self, name: &str, text: &str) -> String {
        self.bed.file(name, text);
        format!("{OUTSIDE}/{name}")
    }

    /// A program of the image, to be run in the user's network.
    pub fn program(&self, program: &str, args: &[&str]) -> Call {
        let netns = format!("--net=/run/netns/godwit.{}.user.car", self.bed.name());
        let script = format!("mount --bind \"$0\" \"$1{OUTSIDE}\" && exec chroot \"$@\"");
        let enter = [&netns, "unshare", "--mount", "--propagation", "private", "sh", "-ec", &script];
        let (files, image) = (self.bed.path(""), self.image.display().to_string());
        let files = files.display().to_string();
        let call = [&enter[..], &[&files, &image, "env", "-C", OUTSIDE, program], args].concat();
        Call::of("nsenter", call).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// What a program of the image prints, which must end well.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        self.program(program, args).run().code(0).out
    }
}
