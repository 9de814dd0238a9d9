//! How an image wants to be run, and who its users are.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The part of an OCI image's configuration that says how it is run. The names are the specification's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// The program with its first arguments.
    #[serde(deserialize_with = "or_empty")]
    pub entrypoint: Vec<String>,
    /// The rest of the arguments, or all of it.
    #[serde(deserialize_with = "or_empty")]
    pub cmd: Vec<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_empty")]
    pub env: Vec<String>,
    /// Whose rights it has; empty: root's.
    pub user: String,
    /// Where it is started; empty: `/`.
    pub working_dir: String,
}

/// `null` is what some tools write for nothing.
fn or_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

impl Config {
    /// What is run when nothing else is asked for.
    pub fn args(&self) -> Vec<String> {
        [&self.entrypoint[..], &self.cmd[..]].concat()
    }
}

/// Numbers of a user and a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct User {
    /// The user's.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

/// There is no such user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not in `/etc/passwd`.
    #[error("the image has no user \"{0}\" (in its /etc/passwd); name another, or write a number")]
    NoUser(String),
    /// Not in `/etc/group`.
    #[error("the image has no group \"{0}\" (in its /etc/group); name another, or write a number")]
    NoGroup(String),
}

impl User {
    /// `name`, `uid`, `name:group`, `uid:gid`, by what the root file system says; empty: root. A number that the image does
    /// not know has group 0, as container engines have it.
    pub fn find(rootfs: &Path, user: &str) -> Result<Self, UserError> {
        let (name, group) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (user, None),
        };
        let known = lookup(rootfs, "etc/passwd", name);
        let (uid, own_gid) = match (name.parse(), known) {
            _ if name.is_empty() => (0, 0),
            (_, Some(fields)) => (number(&fields, 2), number(&fields, 3)),
            (Ok(uid), None) => (uid, 0),
            (Err(_), None) => return Err(UserError::NoUser(name.into())),
        };
        let gid = match group {
            None => own_gid,
            Some(group) => match (lookup(rootfs, "etc/group", group), group.parse()) {
                (Some(fields), _) => number(&fields, 2),
                (None, Ok(gid)) => gid,
                (None, Err(_)) => return Err(UserError::NoGroup(group.into())),
            },
        };
        Ok(Self { uid, gid })
    }
}

fn number(fields: &[String], at: usize) -> u32 {
    fields.get(at).and_then(|field| field.parse().ok()).unwrap_or_default()
}

/// The line of a name or number.
fn lookup(rootfs: &Path, file: &str, wanted: &str) -> Option<Vec<String>> {
    // A link in a stranger's image could lead anywhere; these files never are any.
    let path = rootfs.join(file);
    if !fs::symlink_metadata(&path).ok()?.is_file() {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let lines: Vec<Vec<String>> = text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect();
    let has = |at: usize| move |fields: &&Vec<String>| fields.get(at).is_some_and(|field| field == wanted);
    lines.iter().find(has(0)).or_else(|| lines.iter().find(has(2))).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\ndb:x:101:103::/:/bin/sh\n").unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\nadm:x:4:db\n").unwrap();
        let find = |user| User::find(root.path(), user);
        assert_eq!(find(""), Ok(User { uid: 0, gid: 0 }));
        assert_eq!(find("db"), Ok(User { uid: 101, gid: 103 }));
        assert_eq!(find("101"), Ok(User { uid: 101, gid: 103 }));
        assert_eq!(find("101:adm"), Ok(User { uid: 101, gid: 4 }));
        assert_eq!(find("7:9"), Ok(User { uid: 7, gid: 9 }));
        assert_eq!(find("7"), Ok(User { uid: 7, gid: 0 }));
        assert_eq!(find("who"), Err(UserError::NoUser("who".into())));
        assert_eq!(find("db:what"), Err(UserError::NoGroup("what".into())));
    }

    #[test]
    fn nothing_is_written_in_many_ways() {
        let config: Config = serde_json::from_str(r#"{"Entrypoint": null, "Cmd": ["a"], "Labels": {}}"#).unwrap();
        assert_eq!(config, Config { cmd: vec!["a".into()], ..Config::default() });
        assert_eq!(config.args(), ["a"]);
    }
}
