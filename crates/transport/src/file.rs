//! Names of files, and the files of a directory.

use std::fs;
use std::path::Path;

use crate::error::{StreamError, corrupt, io_error};

/// A name that stays in its directory, or one in a directory in there: `NAME` or `DIRECTORY/NAME`.
pub(crate) fn checked_path(path: &str) -> Result<(), StreamError> {
    match path.split_once('/') {
        Some((dir, name)) => checked_name(dir).and_then(|()| checked_name(name)),
        None => checked_name(path),
    }
}

/// A name that stays in its directory.
pub(crate) fn checked_name(name: &str) -> Result<(), StreamError> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(corrupt(format!("{name:?} is no plain file name")));
    }
    Ok(())
}

/// The names of the plain files of `dir` that are `wanted`, sorted.
pub(crate) fn names(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, StreamError> {
    let listing = || io_error(format!("list {}", dir.display()));
    let mut names = Vec::new();
    for item in fs::read_dir(dir).map_err(listing())? {
        let item = item.map_err(listing())?;
        let name = item.file_name().into_string();
        let name = name.map_err(|name| corrupt(format!("the file name {name:?} is not UTF-8")))?;
        if !wanted(&name) {
            continue;
        }
        if !item.file_type().map_err(listing())?.is_file() {
            return Err(corrupt(format!("{name} is no plain file")));
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_where_it_belongs() {
        for good in ["core-1.img", "web/core-1.img"] {
            checked_path(good).unwrap();
        }
        for bad in ["", "/", "a/", "/a", "../a", "a/..", "a/b/c", "a/../../b", "./a", "a\0b"] {
            assert!(checked_path(bad).is_err(), "{bad:?}");
        }
    }
}
