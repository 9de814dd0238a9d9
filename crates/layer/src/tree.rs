//! What there is in a place at one instant.

use std::collections::BTreeMap;
use std::time::Duration;

/// A file that was changed so shortly before it was looked at may have been changed once more within the same tick of the
/// clock that file systems write down.
pub const RACY: Duration = Duration::from_millis(50);

/// A path below the place: components joined by `/`, empty for the place itself. Parents sort before their children.
pub(crate) type Name = Vec<u8>;

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Instant {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

impl Instant {
    fn nanos(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// Whether it is so shortly before `other`, or after it, that it might change without being seen.
    pub(crate) fn is_racy_at(self, other: Self) -> bool {
        other.nanos() - self.nanos() < RACY.as_nanos() as i128
    }
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `hides`: an overlay's opaque directory.
    Dir {
        hides: bool,
    },
    /// Of so many bytes.
    File {
        size: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// A device, FIFO or socket: the type bits of its mode are in [`Meta::mode`].
    Special {
        device: u64,
    },
    /// An overlay's whiteout.
    Gone,
}

/// What belongs to an inode and is carried as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Meta {
    /// With the type bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Instant,
}

/// A file at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) meta: Meta,
    /// Its inode, which tells hard links and a file put in another's place.
    pub(crate) inode: u64,
    pub(crate) links: u64,
    pub(crate) changed: Instant,
}

impl Entry {
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir { .. })
    }

    /// Whether it has other names.
    pub(crate) fn is_shared(&self) -> bool {
        self.links > 1 && !self.is_dir() && self.kind != Kind::Gone
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    /// When the scan began.
    pub(crate) taken: Instant,
    pub(crate) entries: BTreeMap<Name, Entry>,
}

/// The directory that a name is in; none for the place itself.
pub(crate) fn parent(name: &[u8]) -> Option<&[u8]> {
    if name.is_empty() {
        return None;
    }
    Some(name.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &name[..at]))
}

/// Whether `name` is below `dir`.
pub(crate) fn is_below(name: &[u8], dir: &[u8]) -> bool {
    match name.strip_prefix(dir) {
        _ if dir.is_empty() => !name.is_empty(),
        Some(rest) => rest.first() == Some(&b'/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_know_their_places() {
        assert_eq!(parent(b""), None);
        assert_eq!(parent(b"a"), Some(&b""[..]));
        assert_eq!(parent(b"a/b/c"), Some(&b"a/b"[..]));
        assert!(is_below(b"a/b", b"a") && is_below(b"a", b"") && is_below(b"a/b/c", b"a"));
        assert!(!is_below(b"a-b", b"a") && !is_below(b"a", b"a") && !is_below(b"", b""));
    }

    #[test]
    fn what_changed_just_now_may_change_unseen() {
        let at = |seconds, nanos| Instant { seconds, nanos };
        assert!(at(10, 0).is_racy_at(at(10, 49_000_000)));
        assert!(!at(10, 0).is_racy_at(at(10, 50_000_000)));
        assert!(at(11, 0).is_racy_at(at(10, 0)));
    }
}
