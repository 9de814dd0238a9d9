//! PAGEMAP_SCAN, in the two forms that tracking needs.
//!
//! Both look only at pages that are populated and private: what CRIU dumps of a private mapping (its should_dump_page:
//! present or swapped, not the page of zeros, and of a file only what was copied on write). Holes are left alone: to
//! protect them would allocate page tables for all of a sparse mapping, and a page that appears in one is unprotected
//! and so counts as written anyhow. That they are left out also keeps clear of two faults of kernels before their fixes
//! 07b4377bdbe7 and 40de8160ca7f, which misreport whether an *unpopulated* page was written.

use std::fs::File;
use std::io;

use crate::entries::{Entries, Sample, Which};
use crate::error::{Context, Result};
use crate::range::{self, PageRange};
use crate::sys::{self, PageRegion, ScanRequest};

/// Regions fetched by one call.
const REGIONS: usize = 8192;

/// Scans, with a buffer that is used again and again.
pub(crate) struct Scanner {
    regions: Vec<PageRegion>,
    /// Where the kernel has no PAGEMAP_SCAN, or is asked for what that does not tell.
    entries: Option<Entries>,
    /// PAGE_IS_GUARD, until the kernel turns out not to know it.
    guard: u64,
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self { regions: vec![PageRegion::default(); REGIONS], entries: None, guard: sys::PAGE_IS_GUARD }
    }

    /// The pages of one mapping written since they were last protected, and protects them in the same step. None when
    /// it is not registered (all of it or a part): then some of it may have been protected, and what was written is
    /// not known.
    pub(crate) fn written(&mut self, pagemap: &File, of: PageRange, file: bool) -> Result<Option<Vec<PageRange>>> {
        let request = ScanRequest {
            flags: sys::PM_SCAN_WP_MATCHING | sys::PM_SCAN_CHECK_WPASYNC,
            all_of: sys::PAGE_IS_WRITTEN,
            ..populated(file)
        };
        match self.scan(pagemap, of, request) {
            Ok(pages) => Ok(Some(pages)),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(None),
            Err(e) => Err(e).context(|| "scan for written pages".into()),
        }
    }

    /// All populated pages of `of`, left as they are. `file`: leave out those of a file.
    pub(crate) fn populated(&mut self, pagemap: &File, of: PageRange, file: bool) -> Result<Vec<PageRange>> {
        match self.scan(pagemap, of, populated(file)) {
            Err(e) if e.raw_os_error() == Some(libc::ENOTTY) => {
                self.entries(pagemap, of, file, Which::Populated, &mut Sample::of(0))
            }
            other => other.context(|| "scan for pages".into()),
        }
    }

    /// Pages by their entries in pagemap; all that are populated are offered to the sample. `file`: leave out those of a file.
    pub(crate) fn entries(
        &mut self,
        pagemap: &File,
        of: PageRange,
        file: bool,
        which: Which,
        sample: &mut Sample,
    ) -> Result<Vec<PageRange>> {
        let entries = self.entries.get_or_insert_with(Entries::new);
        entries.pages(pagemap, of, file, which, sample).context(|| "read the entries of its pages".into())
    }

    /// The pages that are protected and swapped. In a mapping of a file that may be a lie: a page of it that was given
    /// back leaves a mark, so that a later write is found, and this mark looks like a page in swap, here and to CRIU.
    pub(crate) fn swapped(&mut self, pagemap: &File, of: PageRange) -> Result<Vec<PageRange>> {
        let request = ScanRequest { flags: 0, none_of: sys::PAGE_IS_WRITTEN, all_of: 0, any_of: sys::PAGE_IS_SWAPPED };
        self.scan(pagemap, of, request).context(|| "scan for swapped pages".into())
    }

    fn scan(&mut self, pagemap: &File, of: PageRange, request: ScanRequest) -> io::Result<Vec<PageRange>> {
        let mut pages = Vec::new();
        let mut start = of.start;
        while start < of.end {
            let request = ScanRequest { none_of: request.none_of | self.guard, ..request };
            let part = PageRange::new(start, of.end);
            match sys::pagemap_scan(pagemap, part, request, &mut self.regions) {
                Ok((found, walk_end)) => {
                    for region in &self.regions[..found] {
                        range::push(&mut pages, PageRange::new(region.start, region.end));
                    }
                    if walk_end <= start {
                        return Err(io::Error::other("the scan does not advance"));
                    }
                    start = walk_end;
                }
                // An unknown category is found out before anything is walked.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) && self.guard != 0 => self.guard = 0,
                Err(e) => return Err(e),
            }
        }
        Ok(pages)
    }
}

fn populated(file: bool) -> ScanRequest {
    // This one costs a look-up for each page, and of anonymous memory no page has it.
    let file = if file { sys::PAGE_IS_FILE } else { 0 };
    let none_of = sys::PAGE_IS_PFNZERO | file;
    ScanRequest { flags: 0, none_of, all_of: 0, any_of: sys::PAGE_IS_PRESENT | sys::PAGE_IS_SWAPPED }
}
