//! The containers of a workload.

use std::path::{Path, PathBuf};

use super::{contents, parts};
use crate::fields::{Fields, Problems, text_of};
use crate::problem::Problem;
use crate::scenario::Container;
use crate::tree::Tree;

/// What each container has for itself.
const OWN: [&str; 6] = ["command", "args", "image", "env", "user", "workdir"];
const CONTAINER: [&str; 8] = ["name", "command", "args", "image", "env", "user", "workdir", "volumes"];

/// What the containers of a workload have in common, and the containers.
pub(super) fn of(workload: &Fields<'_>, dir: &Path, problems: &Problems) -> (Vec<PathBuf>, Vec<Container>) {
    let Some(list) = workload.get("containers") else {
        let only = container(workload, dir, problems);
        return (Vec::new(), vec![Container { volumes: contents::volumes(workload, problems), ..only }]);
    };
    for field in OWN {
        if let Some(tree) = workload.get(field) {
            let what = format!("`{field}` is each container's own in a workload with `containers`");
            problems.add(Problem::new(tree.at, what).help("move it into one of them"));
        }
    }
    let trees = workload.list("containers");
    if trees.is_empty() {
        let problem = Problem::new(list.at, "a workload needs at least one container");
        problems.add(problem.help("add it, for example `- { name: web }`, or leave `containers` out"));
    }
    let mut all: Vec<Container> = Vec::new();
    for tree in trees {
        if let Some(container) = named(tree, dir, problems) {
            unlike_others(tree, &container, &all, problems);
            all.push(container);
        }
    }
    let common = contents::volumes(workload, problems);
    for volume in common.iter().filter(|volume| !all.iter().any(|container| container.volumes.contains(volume))) {
        let at = workload.get("volumes").map_or(list.at, |tree| tree.at);
        let problem = Problem::new(at, format!("no container has the volume {}", volume.display()));
        problems.add(problem.help("name it in the `volumes` of each container that is to have it"));
    }
    (common, all)
}

fn named(tree: &Tree, dir: &Path, problems: &Problems) -> Option<Container> {
    let fields = Fields::open(tree, "a container", &CONTAINER, problems)?;
    let name = fields.need("name", "name: web").and_then(|tree| parts::name(tree, problems));
    let volumes = contents::volumes(&fields, problems);
    Some(Container { name: Some(name?), volumes, ..container(&fields, dir, problems) })
}

/// All but name and volumes.
fn container(fields: &Fields<'_>, dir: &Path, problems: &Problems) -> Container {
    let texts = |field| fields.list(field).iter().filter_map(|tree| text_of(tree, field, problems)).collect();
    let container = Container {
        name: None,
        command: texts("command"),
        args: texts("args"),
        image: contents::image(fields, dir, problems),
        env: contents::env(fields, problems),
        user: fields.text("user"),
        workdir: contents::workdir(fields, problems),
        volumes: Vec::new(),
    };
    if let (true, Some(tree)) = (container.is_counting(), fields.get("args")) {
        let problem = Problem::new(tree.at, "the built-in counting service takes no `args`");
        problems.add(problem.help("add a `command` or an `image` to which they belong"));
    }
    container
}

/// Names are names once, and one port has one service.
fn unlike_others(tree: &Tree, container: &Container, others: &[Container], problems: &Problems) {
    if others.iter().any(|other| other.name == container.name) {
        let name = container.name.as_deref().unwrap_or_default();
        let problem = Problem::new(tree.at, format!("there are two containers named {name:?}"));
        problems.add(problem.help("rename one of them"));
    }
    if container.is_counting() && others.iter().any(Container::is_counting) {
        let what = "two containers are the built-in counting service, and both would listen on the workload's port";
        problems.add(Problem::new(tree.at, what).help("give one of them a `command` or an `image`"));
    }
}
