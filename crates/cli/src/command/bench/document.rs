//! A document with a place for the tables.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{BAD_INPUT, Failure, Result};

/// What the tables stand between.
const BEGIN: &str = "<!-- bench: begin -->\n";
const END: &str = "<!-- bench: end -->\n";

/// A document whose place for the tables was found.
#[derive(Debug)]
pub(super) struct Document {
    path: PathBuf,
}

impl Document {
    /// Looks whether it can take the tables.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let document = Self { path: path.to_owned() };
        document.put_into(|text| text.to_owned())?;
        Ok(document)
    }

    /// Puts the tables in the place of those that are there.
    pub(super) fn put(&self, tables: &str) -> Result<()> {
        self.put_into(|_| format!("\n{tables}\n"))
    }

    fn put_into(&self, tables: impl FnOnce(&str) -> String) -> Result<()> {
        let shown = self.path.display();
        let text = fs::read_to_string(&self.path)
            .map_err(|e| Failure::new(BAD_INPUT, format!("{shown} cannot be read: {e}")))?;
        let Some(text) = replaced(&text, tables) else {
            let lines = format!("a line \"{}\" and, after it, a line \"{}\"", BEGIN.trim_end(), END.trim_end());
            return Err(Failure::new(BAD_INPUT, format!("{shown} has no place for the tables: write {lines} into it")));
        };
        fs::write(&self.path, text).map_err(|e| Failure::new(BAD_INPUT, format!("{shown} cannot be written: {e}")))
    }
}

fn replaced(text: &str, tables: impl FnOnce(&str) -> String) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (old, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", tables(old)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("# Title\n{BEGIN}old\n{END}rest\n");
        assert_eq!(replaced(&text, |_| "new\n".into()), Some(format!("# Title\n{BEGIN}new\n{END}rest\n")));
        assert_eq!(replaced(&text, str::to_owned), Some(text));
        assert_eq!(replaced(&format!("{END}{BEGIN}"), |_| String::new()), None);
    }
}
