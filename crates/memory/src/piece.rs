//! The first copy of all memory, piece by piece, each protected only just before it is read.
//!
//! A page that is written before its turn costs the service no fault, and is not copied twice: over the whole copy that is half
//! of them.

use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::kind::{Kind, Kinds};
use crate::process::Process;
use crate::range::{self, PageRange};
use crate::scan::Scanner;

/// A part of one mapping, small enough to be copied at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The process.
    pub pid: i32,
    /// Its populated bytes when it was listed.
    pub bytes: u64,
    range: PageRange,
    /// Its pages may be a file's.
    file: bool,
}

impl Handle {
    /// All that is populated, in pieces of at most `most` bytes; nothing is protected.
    pub(crate) fn pieces(&self, scanner: &mut Scanner, kinds: &mut Kinds, most: u64) -> Result<Vec<Piece>> {
        let mut all = Vec::new();
        let pagemap = self.pagemap()?;
        for vma in self.maps()? {
            let kind = kinds.of(self.pid, &vma);
            if !kind.is_private() {
                continue;
            }
            let file = kind != Kind::Anonymous;
            let pages = scanner.populated(&pagemap, vma.range, file)?;
            let of = |(range, bytes)| Piece { pid: self.pid, bytes, range, file };
            all.extend(cut(&pages, most).into_iter().map(of));
        }
        self.check_alive().map(|()| all)
    }

    /// The pages of a piece that are populated now.
    pub(crate) fn pages_of(&self, scanner: &mut Scanner, piece: &Piece) -> Result<Vec<PageRange>> {
        scanner.populated(&self.pagemap()?, piece.range, piece.file)
    }
}

impl Process {
    /// Protects a piece; its populated pages. What is written to them from here on is found by the next round.
    pub(crate) fn take(&self, scanner: &mut Scanner, piece: &Piece) -> Result<Vec<PageRange>> {
        match scanner.written(&self.handle.pagemap()?, piece.range, piece.file)? {
            Some(pages) => Ok(pages),
            // Not registered (any more), or half of it: the next round takes all of the rest for written.
            None => self.handle.pages_of(scanner, piece),
        }
    }
}

/// Whether there is nobody to be copied any more.
pub(crate) fn is_over(error: &Error) -> bool {
    match error {
        Error::Ended { .. } => true,
        Error::Io { source, .. } => source.raw_os_error() == Some(libc::ESRCH),
        _ => false,
    }
}

/// Spans that have at most `most` bytes of `pages` in them, and how many.
fn cut(pages: &[PageRange], most: u64) -> Vec<(PageRange, u64)> {
    let mut spans: Vec<(PageRange, u64)> = Vec::new();
    for range in pages {
        let mut rest = *range;
        while !rest.is_empty() {
            let room = spans.last().map_or(0, |(_, bytes)| most.saturating_sub(*bytes));
            let part = PageRange::new(rest.start, rest.start + rest.bytes().min(if room > 0 { room } else { most }));
            match spans.last_mut() {
                Some((span, bytes)) if room > 0 => {
                    span.end = part.end;
                    *bytes += part.bytes();
                }
                _ => spans.push((part, part.bytes())),
            }
            rest = PageRange::new(part.end, rest.end);
        }
    }
    debug_assert_eq!(spans.iter().map(|(_, bytes)| bytes).sum::<u64>(), range::total_bytes(pages));
    spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_all_pages_once_in_their_order(gaps in prop::collection::vec((1u64..9, 1u64..40), 0..30), most in 1u64..20) {
            let mut at = 0;
            let pages: Vec<PageRange> = gaps.iter().map(|(gap, len)| {
                let start = at + gap;
                at = start + len;
                PageRange::new(start, at)
            }).collect();
            let spans = cut(&pages, most);
            let holds = |span: &PageRange, page: u64| span.start <= page && page < span.end;
            for page in pages.iter().flat_map(|r| r.start..r.end) {
                prop_assert_eq!(spans.iter().filter(|(span, _)| holds(span, page)).count(), 1);
            }
            for (span, bytes) in &spans {
                let within = pages.iter().flat_map(|r| r.start..r.end).filter(|page| holds(span, *page)).count() as u64;
                prop_assert_eq!(*bytes, within);
                prop_assert!(*bytes <= most && *bytes > 0);
            }
            prop_assert!(spans.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start));
        }
    }
}
