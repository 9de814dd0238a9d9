//! Takes in frames: into files and into the sink. What a frame says is believed only as far as it can be checked.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::duplicates::Kept;
use crate::error::{StreamError, corrupt, io_error};
use crate::file::checked_path;
use crate::frame::{
    ANSWER, CHUNK, Cursor, DATA, DUPLICATES, END, FILE, FORGET, Head, IS_ZERO, MESSAGE, MISSING, PAGES, REMEMBER, SYNC,
    ZERO,
};
use crate::hello::{Features, SessionId};
use crate::progress::Progress;
use crate::requests::Back;
use crate::sink::{PAGE, PageSink};
use crate::squeeze::Expander;

const SIZE: usize = PAGE as usize;

/// What is to be done after a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    GoOn,
    /// The sender waits for the confirmation.
    Confirm,
    Ended,
}

/// A session, over however many connections.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) features: Features,
    pub(super) slots: u32,
    /// How many frames were taken in.
    pub(super) received: u64,
    pub(super) bytes: u64,
    dir: PathBuf,
    files: u32,
    /// The file that is being written: its name, and what is missing of it.
    open: Option<(File, String, u64)>,
    kept: Kept,
    expander: Expander,
}

impl Session {
    pub(super) fn new(id: SessionId, features: Features, slots: u32, dir: PathBuf) -> Result<Self, StreamError> {
        let (kept, expander) = (Kept::new(slots), Expander::new()?);
        Ok(Self { id, features, slots, received: 0, bytes: 0, dir, files: 0, open: None, kept, expander })
    }

    pub(super) fn take(
        &mut self,
        head: Head,
        payload: &[u8],
        sink: &mut dyn PageSink,
        back: &Back,
        progress: &Arc<Progress>,
    ) -> Result<After, StreamError> {
        if head.number != self.received {
            return Err(corrupt(format!("frame {} came in place of frame {}", head.number, self.received)));
        }
        if self.open.is_some() && !matches!(head.kind, DATA | ANSWER) {
            return Err(corrupt("a file ended early"));
        }
        let mut at = Cursor::new(payload);
        let mut after = After::GoOn;
        match head.kind {
            FILE => self.file(head, at, sink, progress)?,
            DATA => self.data(head, at, sink, progress)?,
            PAGES => self.pages(head, at, sink, progress)?,
            ZERO | FORGET => {
                let (pid, addr, len) = (at.i32()?, at.u64()?, at.u64()?);
                at.end()?;
                whole_pages(addr, len)?;
                if head.kind == ZERO {
                    Progress::add(&progress.zero, len as usize);
                    sink.zero(pid, addr, len)?;
                } else {
                    sink.forget(pid, addr, len)?;
                }
            }
            MESSAGE => {
                let length = at.u32()? as usize;
                if length > CHUNK {
                    return Err(corrupt(format!("a message of {length} bytes")));
                }
                let message = self.expander.expand(head.flags, length, at.rest())?;
                Progress::add(&progress.contents, length);
                self.bytes += length as u64;
                sink.message(message)?;
            }
            SYNC => after = After::Confirm,
            ANSWER => self.answer(head, at, sink, back, progress)?,
            END => {
                let (files, bytes) = (at.u32()?, at.u64()?);
                at.end()?;
                if (files, bytes) != (self.files, self.bytes) {
                    let came = format!("{} files and {} bytes came", self.files, self.bytes);
                    return Err(corrupt(format!("{came}, {files} and {bytes} were sent")));
                }
                after = After::Ended;
            }
            other => return Err(corrupt(format!("a frame of unknown kind {other}"))),
        }
        self.received += 1;
        Ok(after)
    }

    fn file(
        &mut self,
        head: Head,
        mut at: Cursor<'_>,
        sink: &mut dyn PageSink,
        progress: &Progress,
    ) -> Result<(), StreamError> {
        let (total, length) = (at.u64()?, usize::from(at.u16()?));
        let name = std::str::from_utf8(at.bytes(length)?).map_err(|_| corrupt("a file name is not UTF-8"))?;
        checked_path(name)?;
        let file = File::create_new(self.dir.join(name)).map_err(io_error(format!("create {name}")))?;
        self.open = Some((file, name.to_owned(), total));
        self.data(head, at, sink, progress)
    }

    fn data(
        &mut self,
        head: Head,
        mut at: Cursor<'_>,
        sink: &mut dyn PageSink,
        progress: &Progress,
    ) -> Result<(), StreamError> {
        let Some((mut file, name, left)) = self.open.take() else {
            return Err(corrupt("contents came without a file"));
        };
        let length = at.u32()? as usize;
        let content = self.expander.expand(head.flags, length, at.rest())?;
        let Some(left) = left.checked_sub(length as u64) else {
            return Err(corrupt(format!("{name} is longer than was said")));
        };
        if length == 0 && left > 0 {
            return Err(corrupt(format!("{name} does not go on")));
        }
        file.write_all(content).map_err(io_error(format!("write {name} (is the target's memory or disk full?)")))?;
        Progress::add(&progress.contents, length);
        self.bytes += length as u64;
        if left > 0 {
            self.open = Some((file, name, left));
        } else {
            self.files += 1;
            sink.file(&name);
        }
        Ok(())
    }

    fn pages(
        &mut self,
        head: Head,
        mut at: Cursor<'_>,
        sink: &mut dyn PageSink,
        progress: &Progress,
    ) -> Result<(), StreamError> {
        let (pid, addr, count) = (at.i32()?, at.u64()?, usize::from(at.u16()?));
        let length = count * SIZE;
        if length > CHUNK {
            return Err(corrupt(format!("{count} pages in one frame")));
        }
        whole_pages(addr, length as u64)?;
        let bitmap = if head.flags & DUPLICATES != 0 { at.bytes(count.div_ceil(8))? } else { &[] };
        let known = |n: usize| bitmap.get(n / 8).is_some_and(|bits| bits & (1 << (n % 8)) != 0);
        let duplicates = (0..count).filter(|n| known(*n)).count();
        let mut slots = Cursor::new(at.bytes(duplicates * 4)?);
        let literal = at.u32()? as usize;
        if literal != length - duplicates * SIZE {
            return Err(corrupt(format!("{literal} bytes and {duplicates} duplicates are not {count} pages")));
        }
        let literals = self.expander.expand(head.flags, literal, at.rest())?;
        Progress::add(&progress.contents, length);
        Progress::add(&progress.duplicate, duplicates * SIZE);
        self.bytes += length as u64;
        if head.flags & (REMEMBER | DUPLICATES) == 0 {
            return sink.pages(pid, addr, literals);
        }
        // Runs of literals go over in one piece; each page is kept, or looked up, in the order in which the sender did.
        let (mut run, mut start) = (0, 0);
        for n in 0..count {
            if known(n) {
                if run > start {
                    sink.pages(pid, addr + ((n - (run - start) / SIZE) * SIZE) as u64, &literals[start..run])?;
                }
                start = run;
                sink.pages(pid, addr + (n * SIZE) as u64, self.kept.get(slots.u32()?)?)?;
            } else {
                self.kept.put(&literals[run..run + SIZE]);
                run += SIZE;
            }
        }
        if run > start {
            sink.pages(pid, addr + (length - (run - start)) as u64, &literals[start..run])?;
        }
        Ok(())
    }

    fn answer(
        &mut self,
        head: Head,
        mut at: Cursor<'_>,
        sink: &mut dyn PageSink,
        back: &Back,
        progress: &Progress,
    ) -> Result<(), StreamError> {
        let (id, pid, addr, len) = (at.u64()?, at.i32()?, at.u64()?, at.u32()?);
        let want = back.answered(id).ok_or_else(|| corrupt("an answer came to what was not asked"))?;
        if (want.pid, want.addr, want.len) != (pid, addr, len) {
            return Err(corrupt("an answer came to something else than was asked"));
        }
        Progress::add(&progress.answered, 1);
        if head.flags & MISSING != 0 {
            return sink.answer_missing(pid, addr, len.into());
        }
        if head.flags & IS_ZERO != 0 {
            return sink.answer_zero(pid, addr, len.into());
        }
        if at.u32()? != len {
            return Err(corrupt("an answer is of another length than was asked"));
        }
        let pages = self.expander.expand(head.flags, len as usize, at.rest())?;
        Progress::add(&progress.contents, pages.len());
        sink.answer(pid, addr, pages)
    }
}

fn whole_pages(addr: u64, len: u64) -> Result<(), StreamError> {
    if addr.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && addr.checked_add(len).is_some() {
        return Ok(());
    }
    Err(corrupt(format!("{len} bytes at {addr:#x} are no pages")))
}
