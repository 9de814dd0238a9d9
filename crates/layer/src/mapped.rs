//! Files whose contents may change without a trace in their times.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files that processes have mapped shared and writable, by their paths in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapped(BTreeSet<PathBuf>);

impl Mapped {
    /// Adds those of a process; a process that has ended has none.
    pub fn add(&mut self, pid: i32) -> io::Result<()> {
        match fs::read_to_string(format!("/proc/{pid}/maps")) {
            Ok(maps) => self.0.extend(shared(&maps)),
            Err(error) if matches!(error.raw_os_error(), Some(2 | 3)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Their paths below a directory of the container.
    pub(crate) fn below<'a>(&'a self, inside: &'a Path) -> impl Iterator<Item = &'a Path> {
        self.0.iter().filter_map(move |path| path.strip_prefix(inside).ok())
    }

    /// Takes in those of another.
    pub(crate) fn join(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }
}

/// `7f00-7f01 rw-s 00000000 00:1a 17   /data/x`; what is not writable now may be made so and back (mprotect).
fn shared(maps: &str) -> impl Iterator<Item = PathBuf> + '_ {
    maps.lines().filter_map(|line| {
        let mut fields = line.splitn(6, ' ');
        let is_shared = fields.nth(1)?.ends_with('s');
        let path = fields.nth(3)?.trim_start();
        // The kernel writes a newline in a name as \012; a file that was deleted has no name to be sent by.
        let is_file = path.starts_with('/') && !path.ends_with(" (deleted)");
        (is_shared && is_file).then(|| PathBuf::from(path.replace("\\012", "\n")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_mappings_of_files_are_found() {
        let maps = "7f00-7f01 rw-s 00000000 00:1a 17                  /data/a file\n\
                    7f01-7f02 rw-p 00000000 00:1a 18                  /usr/lib/x.so\n\
                    7f02-7f03 rw-s 00000000 00:01 19                  /dev/zero (deleted)\n\
                    7f03-7f04 rw-s 00000000 00:01 20                  anon_inode:[x]\n\
                    7f04-7f05 r--s 00000000 00:1a 21                  /data/b\n\
                    7f05-7f06 rw-p 00000000 00:00 0 \n";
        assert_eq!(shared(maps).collect::<Vec<_>>(), [Path::new("/data/a file"), Path::new("/data/b")]);
    }
}
