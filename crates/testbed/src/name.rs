//! A testbed's name, and every other name and address that follows from it.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use godwit_model::{NodeName, UserName, WorkloadName};

/// Where running testbeds keep their sockets and scratch files.
const RUN_DIR: &str = "/run/godwit";

/// Names a testbed: 1 to 24 of a-z, 0-9 and '-'. Two testbeds with different names share nothing: their namespaces,
/// cgroups, files and addresses are all derived from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TestbedName(String);

/// The text is no testbed name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no testbed name: use 1 to 24 of a-z, 0-9 and '-', beginning and ending with a letter or digit")]
pub struct BadName(String);

impl FromStr for TestbedName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let fits = text.len() <= 24 && !text.contains('.') && NodeName::new(text).is_ok();
        if fits { Ok(Self(text.to_owned())) } else { Err(BadName(text.to_owned())) }
    }
}

impl fmt::Display for TestbedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TestbedName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Scratch files and the control socket: `/run/godwit/NAME`.
    pub fn run_dir(&self) -> PathBuf {
        Path::new(RUN_DIR).join(&self.0)
    }

    /// The socket that `godwit status`, `migrate` and `testbed down` speak to.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    /// The journal of its migrations, while it runs.
    pub fn journal(&self) -> PathBuf {
        self.run_dir().join("journal.db")
    }

    /// What the names of all its network namespaces begin with. It ends with a '.', which no testbed name contains, so
    /// that `a`'s is never a prefix of `a-b`'s.
    pub fn netns_prefix(&self) -> String {
        format!("godwit.{}.", self.0)
    }

    pub(crate) fn gateway_netns(&self) -> String {
        self.netns_prefix() + "gateway"
    }

    pub(crate) fn node_netns(&self, node: &NodeName) -> String {
        format!("{}node.{node}", self.netns_prefix())
    }

    pub(crate) fn user_netns(&self, user: &UserName) -> String {
        format!("{}user.{user}", self.netns_prefix())
    }

    pub(crate) fn service_netns(&self, node: &NodeName, workload: &WorkloadName) -> String {
        format!("{}service.{workload}.{node}", self.netns_prefix())
    }

    /// The cgroup below which everything runs.
    pub(crate) fn cgroup(&self) -> String {
        format!("godwit-{}", self.0)
    }

    /// The second byte of its addresses, 10.N.0.0/16, from a hash of the name. (They live in namespaces without a way
    /// out, so that two testbeds with the same byte do not collide either; it helps whoever reads a capture.)
    fn second_byte(&self) -> u8 {
        64 + (crc32fast::hash(self.0.as_bytes()) % 128) as u8
    }

    fn address(&self, kind: u8, index: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second_byte(), kind, u8::try_from(index + 1).expect("at most 254 of a kind"))
    }

    /// The gateway, on all its links.
    pub(crate) fn gateway_address(&self) -> Ipv4Addr {
        self.address(0, 0)
    }

    /// A node towards the gateway and the users.
    pub(crate) fn node_address(&self, index: usize) -> Ipv4Addr {
        self.address(1, index)
    }

    /// A user.
    pub(crate) fn user_address(&self, index: usize) -> Ipv4Addr {
        self.address(2, index)
    }

    /// A workload's service address, which follows it.
    pub(crate) fn service_address(&self, index: usize) -> Ipv4Addr {
        self.address(3, index)
    }

    /// A node towards the other nodes.
    pub(crate) fn backhaul_address(&self, index: usize) -> Ipv4Addr {
        self.address(4, index)
    }
}

/// How many nodes, users or workloads a testbed takes (the last byte of an address).
pub(crate) const MAX_OF_A_KIND: usize = 254;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_prefixes_do_not_overlap() {
        for bad in ["", "A", "a.b", "a/b", "-a", "x123456789012345678901234567890"] {
            assert!(bad.parse::<TestbedName>().is_err(), "{bad}");
        }
        let (a, ab): (TestbedName, TestbedName) = ("a".parse().unwrap(), "a-b".parse().unwrap());
        assert!(!ab.netns_prefix().starts_with(&a.netns_prefix()));
        assert_ne!(a.run_dir(), ab.run_dir());
    }
}
