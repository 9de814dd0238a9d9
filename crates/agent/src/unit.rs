//! The containers of a workload: mostly one, of the workload's name; of several each is an ordinary runc container in a control
//! group of the workload's, with namespaces for pids and mounts of its own and the others in common.

use std::fs;
use std::path::{Path, PathBuf};

use godwit_criu::{Limit, Member, NodeEnv};
use godwit_migration::PartError;
use serde_json::Value;

use crate::config::AgentConfig;
use crate::files::{self, Layout};
use crate::source::part;

/// Pids have so many bits at most (the kernel's PID_MAX_LIMIT): above them is which container it is.
const PID_BITS: u32 = 22;
/// So many containers a workload may have.
pub const MOST_CONTAINERS: usize = 1 << (31 - PID_BITS);

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// As runc knows it.
    pub(crate) id: String,
    /// Its name in the workload; none if it is the only one.
    pub(crate) name: Option<String>,
    /// As the node sees it.
    pub(crate) bundle: PathBuf,
}

/// The containers of a workload on a node.
#[derive(Debug, Clone)]
pub struct Units {
    pub(crate) env: NodeEnv,
    pub(crate) list: Vec<Unit>,
}

/// The id by which runc knows the container `name` of a workload of several.
pub fn container_id(workload: &str, name: &str) -> String {
    format!("{workload}.{name}")
}

impl Units {
    /// Of a workload, by the bundle on its node.
    pub(crate) fn of(config: &AgentConfig, workload: &str) -> Result<Self, PartError> {
        Self::at(&config.env(), workload, &config.bundle(workload))
    }

    /// The same by the place of the bundle in the node `env`.
    pub fn at(env: &NodeEnv, workload: &str, bundle: &Path) -> Result<Self, PartError> {
        let layout = files::layout(&env.host_path(bundle))?.unwrap_or_default();
        let several = layout.containers.iter().map(|container| Unit {
            id: container_id(workload, &container.name),
            name: Some(container.name.clone()),
            bundle: bundle.join(Layout::place_of(&container.name)),
        });
        let mut list: Vec<Unit> = several.collect();
        if list.is_empty() {
            list.push(Unit { id: workload.to_owned(), name: None, bundle: bundle.to_owned() });
        }
        Ok(Self { env: env.clone(), list })
    }

    /// Whether there are several, which have to stop and start at one instant.
    pub(crate) fn are_several(&self) -> bool {
        self.list.len() > 1 || self.list[0].name.is_some()
    }

    /// As runc knows them.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|unit| unit.id.as_str())
    }

    /// The processes of all that are there, each with the pid that goes over the wire.
    pub(crate) fn members(&self) -> godwit_criu::Result<Vec<Member>> {
        told(self.ids().map(|id| godwit_criu::members(&self.env, id)))
    }

    /// What of the workload is left of its containers: those that have a process that lives.
    pub(crate) fn surviving(&self, limit: &Limit) -> Result<Vec<&str>, PartError> {
        let mut left = Vec::new();
        for id in self.ids() {
            if godwit_criu::survives(&self.env, id, limit).map_err(part("look for its processes"))? {
                left.push(id);
            }
        }
        Ok(left)
    }

    /// The network namespace that they were given, as this process finds it; by the first one's specification.
    pub(crate) fn netns(&self) -> Result<PathBuf, PartError> {
        let path = self.env.host_path(self.list[0].bundle.join("config.json"));
        let failed = |e| PartError::caused_by(format!("read {}", path.display()), e);
        let text = fs::read(&path).map_err(failed)?;
        let spec: Value = serde_json::from_slice(&text).map_err(|e| failed(e.into()))?;
        let namespaces = spec["linux"]["namespaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        let network = namespaces.iter().find(|ns| ns["type"] == "network").and_then(|ns| ns["path"].as_str());
        let inside = network.ok_or_else(|| PartError::new("its specification names no network namespace"))?;
        Ok(self.env.host_path(inside))
    }
}

impl Unit {
    /// Its images, in the directory of the migration's.
    pub(crate) fn images(&self, all: &Path) -> PathBuf {
        self.name.as_ref().map_or_else(|| all.to_owned(), |name| all.join(name))
    }

    /// What a file among its images is called by the stream.
    pub(crate) fn file(&self, file: &str) -> String {
        self.name.as_ref().map_or_else(|| file.to_owned(), |name| format!("{name}/{file}"))
    }
}

/// The pid of a process by which the other side knows it: in pid namespaces of several containers there are equal ones.
pub(crate) fn wire_pid(unit: usize, pid: i32) -> i32 {
    ((unit as i32) << PID_BITS) | pid
}

/// Which container's, and its pid there.
pub(crate) fn unit_and_pid(wire: i32) -> (usize, i32) {
    ((wire >> PID_BITS) as usize, wire & ((1 << PID_BITS) - 1))
}

/// The processes of containers, in their order, each with the pid that goes over the wire.
pub(crate) fn told(
    of_units: impl Iterator<Item = godwit_criu::Result<Vec<Member>>>,
) -> godwit_criu::Result<Vec<Member>> {
    let mut all = Vec::new();
    for (unit, members) in of_units.enumerate() {
        let wire = |member: Member| Member { pid: wire_pid(unit, member.pid), ..member };
        all.extend(members?.into_iter().map(wire));
    }
    Ok(all)
}

/// The processes of one container among all of them, with the pids of its images.
pub(crate) fn members_of(unit: usize, all: &[Member]) -> Vec<Member> {
    let own = all.iter().map(|member| (unit_and_pid(member.pid), member)).filter(|((of, _), _)| *of == unit);
    own.map(|((_, pid), member)| Member { pid, ..*member }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_of_several_containers_are_told_apart_and_the_first_ones_are_as_they_were() {
        for (unit, pid) in [(0, 1), (0, (1 << 22) - 1), (1, 1), (MOST_CONTAINERS - 1, (1 << 22) - 1)] {
            assert_eq!(unit_and_pid(wire_pid(unit, pid)), (unit, pid));
        }
        assert_eq!(wire_pid(0, 77), 77);
        let members = [vec![Member { host_pid: 10, pid: 1 }], vec![Member { host_pid: 20, pid: 1 }]];
        let all = told(members.into_iter().map(Ok)).unwrap();
        assert_eq!(members_of(1, &all), [Member { host_pid: 20, pid: 1 }]);
        assert_ne!(all[0].pid, all[1].pid);
    }
}
