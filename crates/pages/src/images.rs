//! CRIU's images, as far as they say where memory is: `pagemap-PID.img` and `mm-PID.img`.
//!
//! An image is two magic numbers and then records: a u32 length and a protobuf message, all little-endian.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::PAGE;
use crate::error::{Context, Error, Result};

/// criu/include/magic.h
const IMG_COMMON_MAGIC: u32 = 0x5456_4319;
const PAGEMAP_MAGIC: u32 = 0x5608_4025;
const MM_MAGIC: u32 = 0x5749_2820;

/// criu/include/pagemap.h: a lazy restore leaves these pages out, whether they are in the images or not.
const PE_LAZY: u32 = 1 << 1;
/// Pages that are in the images.
const PE_PRESENT: u32 = 1 << 2;

#[derive(Clone, PartialEq, Message)]
struct PagemapHead {
    #[prost(uint32, required, tag = "1")]
    pages_id: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PagemapEntry {
    #[prost(uint64, required, tag = "1")]
    vaddr: u64,
    #[prost(uint32, required, tag = "2")]
    compat_nr_pages: u32,
    #[prost(uint32, optional, tag = "4")]
    flags: Option<u32>,
    /// Since CRIU 4.1, where more than 2^32 pages are meant.
    #[prost(uint64, optional, tag = "5")]
    nr_pages: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct MmEntry {
    #[prost(message, repeated, tag = "14")]
    vmas: Vec<VmaEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct VmaEntry {
    #[prost(uint64, required, tag = "1")]
    start: u64,
    #[prost(uint64, required, tag = "2")]
    end: u64,
    /// As in mmap(2).
    #[prost(uint32, required, tag = "6")]
    flags: u32,
    /// What kind of mapping it is.
    #[prost(uint32, required, tag = "7")]
    status: u32,
}

/// criu/include/image.h: the kernel's own mappings (vsyscall, vdso, vvar).
const VMA_KERNEL: u32 = 1 << 2 | 1 << 3 | 1 << 12;

impl VmaEntry {
    /// Whether a lazy restore registers it with the userfaultfd (CRIU's `vma_entry_can_be_lazy`).
    fn can_be_lazy(&self) -> bool {
        let has = |flag: i32| self.flags & flag.cast_unsigned() != 0;
        has(libc::MAP_ANONYMOUS)
            && has(libc::MAP_PRIVATE)
            && !has(libc::MAP_LOCKED)
            && !has(libc::MAP_HUGETLB)
            && self.status & VMA_KERNEL == 0
    }
}

/// What the images say of the memory of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pagemap {
    /// Its pid in the images: the one in its innermost pid namespace.
    pub pid: i32,
    /// What has to be served, by address, no range across the boundary of two mappings.
    pub lazy: Vec<Range<u64>>,
    /// What is restored from the images.
    pub present: Vec<Range<u64>>,
}

impl Pagemap {
    /// Reads that of one process from a directory of images.
    pub fn read(dir: &Path, pid: i32) -> Result<Self> {
        let mut pagemap = Self { pid, lazy: Vec::new(), present: Vec::new() };
        let image = Image::read(dir.join(format!("pagemap-{pid}.img")), PAGEMAP_MAGIC)?;
        let mut records = image.records();
        if let Some(head) = records.next() {
            image.decode::<PagemapHead>(head?)?;
        }
        for record in records {
            let entry: PagemapEntry = image.decode(record?)?;
            let pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
            let end = pages.checked_mul(PAGE).and_then(|len| entry.vaddr.checked_add(len));
            let range = entry.vaddr..end.ok_or_else(|| image.bad("a range beyond the address space"))?;
            // Before CRIU 2.0 there were no flags, and all was present.
            match entry.flags.unwrap_or(PE_PRESENT) {
                flags if flags & PE_LAZY != 0 => pagemap.lazy.push(range),
                flags if flags & PE_PRESENT != 0 => pagemap.present.push(range),
                _ => return Err(image.bad("pages of an earlier checkpoint, which is not here")),
            }
        }
        if !pagemap.lazy.is_empty() {
            let mappings = mappings(dir, pid)?;
            let ranges: Vec<Range<u64>> = mappings.iter().map(|vma| vma.start..vma.end).collect();
            let all = pagemap.lazy.iter().map(|range| range.end - range.start).sum::<u64>();
            pagemap.lazy = cut(&pagemap.lazy, &ranges);
            // The kernel would let such pages read as zero, without a word.
            if pagemap.lazy.iter().map(|range| range.end - range.start).sum::<u64>() != all {
                return Err(image.bad("lazy pages in no mapping"));
            }
            let within =
                |vma: &VmaEntry| pagemap.lazy.iter().any(|range| vma.start < range.end && range.start < vma.end);
            if let Some(vma) = mappings.iter().find(|vma| !vma.can_be_lazy() && within(vma)) {
                return Err(
                    image.bad(&format!("lazy pages in a mapping that is not filled lazily, at {:#x}", vma.start))
                );
            }
        }
        Ok(pagemap)
    }

    /// Reads those of all processes in a directory of images, by pid.
    pub fn read_all(dir: &Path) -> Result<Vec<Self>> {
        let mut pids = Vec::new();
        for entry in fs::read_dir(dir).context(|| format!("list {}", dir.display()))? {
            let name = entry.context(|| format!("list {}", dir.display()))?.file_name();
            let pid = name.to_str().and_then(|n| n.strip_prefix("pagemap-")?.strip_suffix(".img")?.parse::<i32>().ok());
            pids.extend(pid);
        }
        pids.sort_unstable();
        pids.into_iter().map(|pid| Self::read(dir, pid)).collect()
    }
}

/// A process's mappings.
fn mappings(dir: &Path, pid: i32) -> Result<Vec<VmaEntry>> {
    let image = Image::read(dir.join(format!("mm-{pid}.img")), MM_MAGIC)?;
    let Some(record) = image.records().next() else { return Err(image.bad("no record")) };
    let mm: MmEntry = image.decode(record?)?;
    // Behind the mappings, which are by address, come the guard regions within them (MADV_GUARD_INSTALL).
    let mut last = 0;
    Ok(mm.vmas.into_iter().take_while(|vma| std::mem::replace(&mut last, vma.end) <= vma.start).collect())
}

/// Cuts ranges where mappings meet; both by address. What is in no mapping is left out.
fn cut(ranges: &[Range<u64>], mappings: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut pieces = Vec::new();
    let mut first = 0;
    for range in ranges {
        while mappings.get(first).is_some_and(|m| m.end <= range.start) {
            first += 1;
        }
        for mapping in mappings[first..].iter().take_while(|m| m.start < range.end) {
            pieces.push(range.start.max(mapping.start)..range.end.min(mapping.end));
        }
    }
    pieces
}

struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Image {
    fn read(path: PathBuf, magic: u32) -> Result<Self> {
        let bytes = fs::read(&path).context(|| format!("read {}", path.display()))?;
        let image = Self { path, bytes };
        if word(&image.bytes, 0) != Some(IMG_COMMON_MAGIC) || word(&image.bytes, 4) != Some(magic) {
            return Err(image.bad("not an image of its kind"));
        }
        Ok(image)
    }

    fn records(&self) -> impl Iterator<Item = Result<&[u8]>> {
        let mut rest = &self.bytes[8..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let record = word(rest, 0).and_then(|len| rest.get(4..4 + len as usize));
            rest = record.map_or(&[], |record| &rest[4 + record.len()..]);
            Some(record.ok_or_else(|| self.bad("it ends in the middle of a record")))
        })
    }

    fn decode<M: Message + Default>(&self, record: &[u8]) -> Result<M> {
        M::decode(record).map_err(|e| self.bad(&e.to_string()))
    }

    fn bad(&self, message: &str) -> Error {
        Error::BadImage { path: self.path.clone(), message: message.to_owned() }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(magic: u32, records: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = [IMG_COMMON_MAGIC.to_le_bytes(), magic.to_le_bytes()].concat();
        for record in records {
            bytes.extend((record.len() as u32).to_le_bytes());
            bytes.extend(record);
        }
        bytes
    }

    fn entry(vaddr: u64, pages: u64, flags: u32) -> Vec<u8> {
        PagemapEntry { vaddr, compat_nr_pages: 0, flags: Some(flags), nr_pages: Some(pages) }.encode_to_vec()
    }

    #[test]
    fn lazy_ranges_are_cut_where_mappings_meet() {
        let dir = tempfile::tempdir().unwrap();
        let head = PagemapHead { pages_id: 1 }.encode_to_vec();
        let records = [head.clone(), entry(0x1000, 4, PE_LAZY), entry(0x9000, 1, PE_PRESENT)];
        fs::write(dir.path().join("pagemap-7.img"), image(PAGEMAP_MAGIC, &records)).unwrap();
        let vma = |start, end| VmaEntry { start, end, flags: 0x22, status: 1 };
        let mm =
            MmEntry { vmas: vec![vma(0x0, 0x3000), vma(0x3000, 0x8000), vma(0x9000, 0xa000), vma(0x4000, 0x5000)] }
                .encode_to_vec();
        fs::write(dir.path().join("mm-7.img"), image(MM_MAGIC, &[mm])).unwrap();
        fs::write(dir.path().join("pagemap-shmem-7.img"), "").unwrap();
        let all = Pagemap::read_all(dir.path()).unwrap();
        let [pagemap] = &all[..] else { panic!("{all:?}") };
        assert_eq!(pagemap.pid, 7);
        assert_eq!(pagemap.lazy, [0x1000..0x3000, 0x3000..0x5000]);
        assert_eq!(pagemap.present, vec![0x9000..0xa000]);
        // What no userfaultfd will ever bring: in no mapping, and in one that is locked.
        let records = [head.clone(), entry(0x8000, 2, PE_LAZY)];
        fs::write(dir.path().join("pagemap-7.img"), image(PAGEMAP_MAGIC, &records)).unwrap();
        assert!(Pagemap::read(dir.path(), 7).unwrap_err().to_string().contains("no mapping"));
        let records = [head, entry(0x1000, 1, PE_LAZY)];
        fs::write(dir.path().join("pagemap-7.img"), image(PAGEMAP_MAGIC, &records)).unwrap();
        let locked = VmaEntry { flags: 0x2022, ..vma(0x0, 0x3000) };
        let mm = MmEntry { vmas: vec![locked] }.encode_to_vec();
        fs::write(dir.path().join("mm-7.img"), image(MM_MAGIC, &[mm])).unwrap();
        assert!(Pagemap::read(dir.path(), 7).unwrap_err().to_string().contains("not filled lazily"));
    }

    #[test]
    fn a_file_that_is_cut_off_or_of_another_kind_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pagemap-7.img");
        let whole = image(PAGEMAP_MAGIC, &[PagemapHead { pages_id: 1 }.encode_to_vec(), entry(0x1000, 4, PE_PRESENT)]);
        for len in [0, 7, 9, 13, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            let err = Pagemap::read(dir.path(), 7).unwrap_err();
            assert!(err.to_string().contains("pagemap-7.img"), "{len}: {err}");
        }
        fs::write(&path, image(MM_MAGIC, &[])).unwrap();
        assert!(Pagemap::read(dir.path(), 7).is_err());
    }
}
