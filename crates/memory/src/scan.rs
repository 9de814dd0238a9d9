//! PAGEMAP_SCAN, in the two forms that tracking needs.
//!
//! Both look only at pages that are populated and private: what CRIU dumps of a private mapping (its should_dump_page:
//! present or swapped, not the page of zeros, and of a file only what was copied on write). Holes are left alone: to
//! protect them would allocate page tables for all of a sparse mapping, and a page that appears in one is unprotected
//! and so counts as written anyhow. That they are left out also keeps clear of two faults of kernels before their fixes
//! 07b4377bdbe7 and 40de8160ca7f, which misreport whether an *unpopulated* page was written.

use std::cell::Cell;
use std::fs::File;
use std::io;

use crate::error::{Context, Result};
use crate::range::{self, PageRange};
use crate::sys::{self, PageRegion, ScanRequest};

/// Regions fetched by one call.
const REGIONS: usize = 8192;

/// Scans, with a buffer that is used again and again.
pub(crate) struct Scanner {
    regions: Vec<PageRegion>,
    /// PAGE_IS_GUARD, until the kernel turns out not to know it.
    guard: Cell<u64>,
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self { regions: vec![PageRegion::default(); REGIONS], guard: Cell::new(sys::PAGE_IS_GUARD) }
    }

    /// The pages of one mapping written since they were last protected, and protects them in the same step. None when
    /// it is not registered (all of it or a part): then some of it may have been protected, and what was written is
    /// not known.
    pub(crate) fn written(&mut self, pagemap: &File, of: PageRange, file: bool) -> Result<Option<Vec<PageRange>>> {
        let flags = sys::PM_SCAN_WP_MATCHING | sys::PM_SCAN_CHECK_WPASYNC;
        match self.scan(pagemap, of, file, flags, sys::PAGE_IS_WRITTEN) {
            Ok(pages) => Ok(Some(pages)),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Ok(None),
            Err(e) => Err(e).context(|| "scan for written pages".into()),
        }
    }

    /// All populated pages of `of`, left as they are. `file`: leave out those of a file.
    pub(crate) fn populated(&mut self, pagemap: &File, of: PageRange, file: bool) -> Result<Vec<PageRange>> {
        self.scan(pagemap, of, file, 0, 0).context(|| "scan for pages".into())
    }

    fn scan(
        &mut self,
        pagemap: &File,
        of: PageRange,
        file: bool,
        flags: u64,
        all_of: u64,
    ) -> io::Result<Vec<PageRange>> {
        // Costs a look-up for each page, and anonymous memory has none.
        let file = if file { sys::PAGE_IS_FILE } else { 0 };
        let mut pages = Vec::new();
        let mut start = of.start;
        while start < of.end {
            let request = ScanRequest {
                flags,
                none_of: sys::PAGE_IS_PFNZERO | file | self.guard.get(),
                all_of,
                any_of: sys::PAGE_IS_PRESENT | sys::PAGE_IS_SWAPPED,
            };
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
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) && self.guard.get() != 0 => self.guard.set(0),
                Err(e) => return Err(e),
            }
        }
        Ok(pages)
    }
}
