//! CRIU's `pagemap-PID.img`: which pages of a process there are, and whether they are in the images or come later.
//!
//! Two magic numbers, and then records of a u32 length and a protobuf message, little-endian; the first record names
//! the file with the pages.

use std::fs;
use std::ops::Range;
use std::path::Path;

use prost::Message;

use crate::error::{Context, Error, Result};

pub(crate) const PAGE: u64 = 4096;

/// criu/include/pagemap.h: a lazy restore leaves these pages out, whether they are in the images or not.
const PE_LAZY: u32 = 1 << 1;
/// The pages are in the images.
const PE_PRESENT: u32 = 1 << 2;

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint64, required, tag = "1")]
    vaddr: u64,
    #[prost(uint32, required, tag = "2")]
    compat_nr_pages: u32,
    #[prost(uint32, optional, tag = "4")]
    flags: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    nr_pages: Option<u64>,
}

impl Entry {
    fn range(&self) -> Option<Range<u64>> {
        let pages = self.nr_pages.unwrap_or(u64::from(self.compat_nr_pages));
        Some(self.vaddr..pages.checked_mul(PAGE)?.checked_add(self.vaddr)?)
    }
}

/// Enters ranges as pages that come later. What the image knows already stays as it is: pages that are in the images are
/// restored from there. Entries are by address, as CRIU wants.
pub(crate) fn add_lazy(path: &Path, ranges: &[Range<u64>]) -> Result<()> {
    let old = fs::read(path).context(|| format!("read {}", path.display()))?;
    let bad = || Error::BadFile { path: path.into(), message: "not a pagemap".into() };
    let new = with_lazy(&old, ranges).ok_or_else(bad)?;
    // Beside it first: CRIU has the file, and what it writes at its very end (nothing) must not be lost.
    let beside = path.with_extension("godwit");
    fs::write(&beside, new).context(|| format!("write {}", beside.display()))?;
    fs::rename(&beside, path).context(|| format!("replace {}", path.display()))
}

fn with_lazy(image: &[u8], ranges: &[Range<u64>]) -> Option<Vec<u8>> {
    let (magic, mut rest) = image.split_at_checked(8)?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        records.push(rest.get(4..4 + len)?.to_vec());
        rest = &rest[4 + len..];
    }
    let mut by_address = Vec::new();
    let mut known = Vec::new();
    for mut bytes in records.split_off(records.len().min(1)) {
        let mut entry = Entry::decode(&bytes[..]).ok()?;
        if entry.flags == Some(PE_PRESENT | PE_LAZY) {
            entry.flags = Some(PE_PRESENT);
            bytes = entry.encode_to_vec();
        }
        known.push(entry.range()?);
        by_address.push((entry.vaddr, bytes));
    }
    for range in ranges.iter().flat_map(|range| without(range.clone(), &known)) {
        let pages = (range.end - range.start) / PAGE;
        // CRIU since 4.1 counts in the second field; its older ones (and tools) in the first.
        let compat = u32::try_from(pages).unwrap_or(0);
        let entry = Entry { vaddr: range.start, compat_nr_pages: compat, flags: Some(PE_LAZY), nr_pages: Some(pages) };
        by_address.push((entry.vaddr, entry.encode_to_vec()));
    }
    by_address.sort_by_key(|(vaddr, _)| *vaddr);
    let mut new = magic.to_vec();
    for record in records.into_iter().chain(by_address.into_iter().map(|(_, entry)| entry)) {
        new.extend((record.len() as u32).to_le_bytes());
        new.extend(record);
    }
    Some(new)
}

/// What of a range is in none of the others.
fn without(range: Range<u64>, others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = vec![range];
    for other in others {
        let around = |one: Range<u64>| [one.start..one.end.min(other.start), one.start.max(other.end)..one.end];
        left = left.into_iter().flat_map(around).filter(|one| !one.is_empty()).collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
    }

    fn entry(vaddr: u64, pages: u64, flags: u32) -> Vec<u8> {
        let entry = Entry { vaddr, compat_nr_pages: pages as u32, flags: Some(flags), nr_pages: Some(pages) };
        record(&entry.encode_to_vec())
    }

    #[test]
    fn lazy_pages_come_between_the_others_by_address() {
        let head = [&[0u8; 8][..], &record(&[8, 1])].concat();
        let old = [head.clone(), entry(0x1000, 2, 4), entry(0x9000, 1, 6)].concat();
        let new = with_lazy(&old, &[0x4000..0x6000, 0xb000..0xc000]).unwrap();
        let expected = [entry(0x1000, 2, 4), entry(0x4000, 2, 2), entry(0x9000, 1, 4), entry(0xb000, 1, 2)];
        assert_eq!(new, [head, expected.concat()].concat());
    }

    #[test]
    fn what_the_images_have_already_is_not_lazy_as_well() {
        let head = [&[0u8; 8][..], &record(&[8, 1])].concat();
        let old = [head.clone(), entry(0x3000, 2, 4), entry(0x7000, 1, 4)].concat();
        let new = with_lazy(&old, &[0x1000..0x9000, 0x3000..0x4000]).unwrap();
        let lazy = [entry(0x1000, 2, 2), entry(0x3000, 2, 4), entry(0x5000, 2, 2)];
        let expected = [&lazy[..], &[entry(0x7000, 1, 4), entry(0x8000, 1, 2)]].concat();
        assert_eq!(new, [head, expected.concat()].concat());
    }

    #[test]
    fn what_is_no_pagemap_is_refused() {
        assert!(with_lazy(&[0; 5], &[]).is_none());
        assert!(with_lazy(&[&[0; 8][..], &[9, 0, 0, 0, 1]].concat(), &[]).is_none());
    }
}
