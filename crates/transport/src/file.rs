//! Names of files, and the files of a directory.

use std::fs;
use std::path::Path;

use crate::error::{StreamError, corrupt, io_error};

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
