//! What a mapping is to a dump: tracked here, dumped by CRIU in its own way, or no memory of the process at all.

use std::collections::BTreeMap;

use crate::procfs::Vma;
use crate::sys;

const TMPFS_MAGIC: i64 = 0x0102_1994;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Memory that is not tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UntrackedKind {
    /// Shared anonymous memory, memfd, System V shared memory or a file on a tmpfs. CRIU dumps the first three whole,
    /// once for all who share; the last is part of the file system.
    SharedMemory,
    /// A file on a disk, mapped shared: its content is in the file system, not in the dump.
    SharedFile,
    /// Huge pages of hugetlbfs, private or shared.
    HugeTlb,
    /// The ring of an asynchronous I/O context, which the kernel writes to without page faults.
    AioRing,
    /// Private memory whose registration the kernel refuses, as of MAP_DROPPABLE. Its populated pages are counted as
    /// written in every round.
    Refused,
}

/// What is done with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Private anonymous memory: heap, stacks, what mmap(2) gave.
    Anonymous,
    /// A file, private and writable.
    File,
    /// A file, private and not writable: text, constants; but also what was made read-only after relocation, so its
    /// private pages count. Not registered while it has none: that would stop the kernel from mapping the pages around
    /// a faulting one with it.
    QuietFile,
    /// Dumped otherwise.
    Untracked(UntrackedKind),
    /// The kernel's own: vDSO, vvar, vsyscall, uprobes.
    Special,
}

impl Kind {
    /// Memory of the process alone, which rounds report.
    pub(crate) fn is_private(self) -> bool {
        matches!(self, Self::Anonymous | Self::File | Self::QuietFile)
    }
}

/// Tells mappings apart; remembers what the devices are that it has seen.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    filesystems: BTreeMap<(u32, u32), Option<i64>>,
}

impl Kinds {
    pub(crate) fn of(&mut self, pid: i32, vma: &Vma) -> Kind {
        let named = |name: &str| vma.name.starts_with(name);
        let special = named("[") && !named("[heap]") && !named("[stack") && !named("[anon");
        if special {
            return Kind::Special;
        }
        if named("/[aio]") {
            return Kind::Untracked(UntrackedKind::AioRing);
        }
        if vma.file.is_none() {
            return if vma.shared { Kind::Untracked(UntrackedKind::SharedMemory) } else { Kind::Anonymous };
        }
        match (self.filesystem(pid, vma), vma.shared) {
            (Some(HUGETLBFS_MAGIC), _) => Kind::Untracked(UntrackedKind::HugeTlb),
            (Some(TMPFS_MAGIC), true) => Kind::Untracked(UntrackedKind::SharedMemory),
            (_, true) => Kind::Untracked(UntrackedKind::SharedFile),
            (_, false) if vma.writable => Kind::File,
            (_, false) => Kind::QuietFile,
        }
    }

    fn filesystem(&mut self, pid: i32, vma: &Vma) -> Option<i64> {
        let (major, minor, _) = vma.file?;
        if major != 0 {
            return None; // a block device has neither of the two
        }
        // By the mapping itself: the path may be another mount namespace's, or deleted.
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", vma.range.start, vma.range.end);
        *self.filesystems.entry((major, minor)).or_insert_with(|| {
            sys::filesystem(&path).ok().or_else(|| {
                let kernels_own = ["/dev/zero (deleted)", "/memfd:", "/SYSV"];
                match vma.name.as_str() {
                    name if name.starts_with("/anon_hugepage") => Some(HUGETLBFS_MAGIC),
                    name if kernels_own.iter().any(|own| name.starts_with(own)) => Some(TMPFS_MAGIC),
                    _ => None,
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::PageRange;

    fn vma(name: &str, shared: bool, writable: bool, file: Option<(u32, u32, u64)>) -> Vma {
        let range = PageRange::new(0x1000, 0x2000);
        Vma { range, readable: true, writable, executable: false, shared, file, name: name.into() }
    }

    #[test]
    fn mappings_are_told_apart() {
        let mut kinds = Kinds::default();
        // A process that does not exist: names decide.
        let mut of = |name: &str, shared, writable, file| kinds.of(i32::MAX, &vma(name, shared, writable, file));
        assert_eq!(of("", false, true, None), Kind::Anonymous);
        assert_eq!(of("[heap]", false, true, None), Kind::Anonymous);
        assert_eq!(of("[stack]", false, true, None), Kind::Anonymous);
        assert_eq!(of("[anon: a name]", false, true, None), Kind::Anonymous);
        assert_eq!(of("[vdso]", false, false, None), Kind::Special);
        assert_eq!(of("[vvar_vclock]", false, false, None), Kind::Special);
        assert_eq!(of("/lib/x", false, true, Some((8, 1, 5))), Kind::File);
        assert_eq!(of("/lib/x", false, false, Some((8, 1, 5))), Kind::QuietFile);
        assert_eq!(of("/data", true, true, Some((8, 1, 6))), Kind::Untracked(UntrackedKind::SharedFile));
        let shared = Kind::Untracked(UntrackedKind::SharedMemory);
        assert_eq!(of("/memfd:x (deleted)", true, true, Some((0, 1, 5))), shared);
        assert_eq!(of("/memfd:x (deleted)", false, true, Some((0, 1, 5))), Kind::File);
        let huge = Kind::Untracked(UntrackedKind::HugeTlb);
        assert_eq!(of("/anon_hugepage (deleted)", false, true, Some((0, 16, 5))), huge);
        let ring = Kind::Untracked(UntrackedKind::AioRing);
        assert_eq!(of("/[aio] (deleted)", true, true, Some((0, 17, 5))), ring);
    }
}
