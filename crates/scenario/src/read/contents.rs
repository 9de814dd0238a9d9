//! What a container is made of: image, environment, volumes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::fields::{Fields, Problems, text_of};
use crate::problem::Problem;
use crate::tree::{Tree, Value};

/// What the container's runtime mounts by itself.
const TAKEN: [&str; 4] = ["/proc", "/sys", "/dev", "/tmp"];

pub(super) fn image(fields: &Fields<'_>, dir: &Path, problems: &Problems) -> Option<PathBuf> {
    let tree = fields.get("image")?;
    let text = text_of(tree, "image", problems)?;
    if text.is_empty() {
        let problem = Problem::new(tree.at, "`image` is no path: it is empty");
        problems.add(problem.help("name a directory, a tar, an OCI layout or an OCI archive"));
        return None;
    }
    Some(dir.join(text))
}

pub(super) fn env(fields: &Fields<'_>, problems: &Problems) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(tree) = fields.get("env") else { return env };
    let Value::Map(entries) = &tree.value else {
        let problem = Problem::new(tree.at, format!("`env` must be a map, not {}", tree.is_a()));
        problems.add(problem.help("write `env: { NAME: value }`"));
        return env;
    };
    for (key, value) in entries {
        let problem = |what: String| problems.add(Problem::new(key.at, what).help("write `NAME: value`"));
        let name = &key.name;
        if name.is_empty() || name.contains(['=', '\0']) {
            problem(format!("{name:?} is no name of an environment variable"));
        } else if let Some(text) = value.scalar().filter(|text| !text.contains('\0')) {
            if env.insert(name.clone(), text).is_some() {
                problem(format!("the environment variable `{name}` is there twice"));
            }
        } else {
            problem(format!("the environment variable `{name}` must be a text, not {}", value.is_a()));
        }
    }
    env
}

pub(super) fn workdir(fields: &Fields<'_>, problems: &Problems) -> Option<PathBuf> {
    fields.get("workdir").and_then(|tree| plain(tree, "workdir", problems))
}

pub(super) fn volumes(fields: &Fields<'_>, problems: &Problems) -> Vec<PathBuf> {
    let mut volumes: Vec<PathBuf> = Vec::new();
    for tree in fields.list("volumes") {
        let Some(path) = plain(tree, "volumes", problems) else { continue };
        let taken = TAKEN.iter().find(|taken| path.starts_with(taken));
        let other = volumes.iter().find(|other| path.starts_with(other) || other.starts_with(&path));
        let (what, help) = if path == Path::new("/") {
            ("the whole root file system is no volume".to_owned(), "it moves anyway: name a directory in it")
        } else if let Some(taken) = taken {
            (format!("{} is no volume: a container has a {taken} of its own", path.display()), "choose another place")
        } else if let Some(other) = other {
            (format!("the volume {} meets the volume {}", path.display(), other.display()), "one of them will do")
        } else {
            volumes.push(path);
            continue;
        };
        problems.add(Problem::new(tree.at, what).help(help));
    }
    volumes
}

/// An absolute path without detours.
fn plain(tree: &Tree, field: &str, problems: &Problems) -> Option<PathBuf> {
    let path = PathBuf::from(text_of(tree, field, problems)?);
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !is_plain || path.as_os_str().as_encoded_bytes().contains(&0) {
        let what = format!("`{field}` is no path in the container: {}", tree.is_a());
        problems.add(Problem::new(tree.at, what).help("write an absolute path without `..`, such as /srv/data"));
        return None;
    }
    // Without doubled or trailing slashes.
    Some(path.components().collect())
}
