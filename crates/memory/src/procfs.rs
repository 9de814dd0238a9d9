//! What /proc says of a process: its mappings, its threads, who traces it.

use std::fs;
use std::io;

use crate::error::{Context, Error, Result};
use crate::range::PageRange;

/// Addresses from here on are the kernel's, whatever shows there.
const KERNELS_HALF: u64 = 1 << 63;

/// A mapping: a line of /proc/PID/maps (proc_pid_maps(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vma {
    pub range: PageRange,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    pub shared: bool,
    /// Major and minor number of the file's device, and its inode number; none of anonymous memory.
    pub file: Option<(u32, u32, u64)>,
    /// Path, or a name in brackets, or nothing.
    pub name: String,
}

/// The mappings of a process, by address, without the kernel's own (vsyscall). None of a zombie or a kernel thread.
pub(crate) fn maps(pid: i32) -> Result<Vec<Vma>> {
    let text = read(pid, "maps")?;
    let bad = |line: &str| Error::Io {
        what: format!("understand the line {line:?} of /proc/{pid}/maps"),
        source: io::ErrorKind::InvalidData.into(),
    };
    let all = text.lines().map(|line| parse(line).ok_or_else(|| bad(line)));
    all.filter(|vma| !vma.as_ref().is_ok_and(|vma| vma.range.start >= KERNELS_HALF)).collect()
}

fn parse(line: &str) -> Option<Vma> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?.as_bytes();
    let (_offset, device, inode) = (fields.next()?, fields.next()?, fields.next()?);
    let name = fields.next().unwrap_or_default().trim_start();
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    let (major, minor) = device.split_once(':')?;
    let inode: u64 = inode.parse().ok()?;
    let file = (inode != 0).then_some((hex(major)? as u32, hex(minor)? as u32, inode));
    Some(Vma {
        range: PageRange::new(hex(start)?, hex(end)?),
        readable: permissions.first() == Some(&b'r'),
        writable: permissions.get(1) == Some(&b'w'),
        executable: permissions.get(2) == Some(&b'x'),
        shared: permissions.get(3) == Some(&b's'),
        file,
        name: name.to_owned(),
    })
}

/// The threads of a process and what each does (`R`, `S`, `D`, `Z`, …), the main thread first.
pub(crate) fn threads(pid: i32) -> Result<Vec<(i32, char)>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| ended(pid, e, "task"))?;
    let mut threads = Vec::new();
    for tid in entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()) {
        // A thread that is gone again is none.
        if let Some(state) = state(pid, tid) {
            threads.push((tid, state));
        }
    }
    threads.sort_by_key(|(tid, _)| (*tid != pid, *tid));
    Ok(threads)
}

/// Its children, of whichever thread. None where the kernel does not tell (CONFIG_PROC_CHILDREN), or it has ended.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// The threads of a process that can be tracked, as [`threads`]. One whose main thread has ended and others run on shows no mappings, and
/// CRIU cannot dump it.
pub(crate) fn running_threads(pid: i32) -> Result<Vec<(i32, char)>> {
    let threads = threads(pid)?;
    match threads.first() {
        Some((_, 'Z' | 'X')) if threads.len() > 1 => {
            Err(Error::Untrackable { pid, why: "its main thread has ended and others run on".into() })
        }
        None | Some((_, 'Z' | 'X')) => Err(Error::Ended { pid }),
        Some(_) => Ok(threads),
    }
}

/// What a thread does; none when it is gone.
pub(crate) fn state(pid: i32, tid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// A number from /proc/PID/status, 0 when it is not there.
pub(crate) fn status(pid: i32, field: &str) -> Result<i32> {
    let text = read(pid, "status")?;
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.and_then(|value| value.trim().parse().ok()).unwrap_or(0))
}

/// The numbers of its open descriptors.
pub(crate) fn descriptors(pid: i32) -> Result<Vec<u64>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|e| ended(pid, e, "fd"))?;
    Ok(entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
}

/// What a descriptor of the process is: its path, or `socket:[…]` and the like.
pub(crate) fn descriptor(pid: i32, fd: u64) -> Option<String> {
    let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
    Some(target.to_string_lossy().into_owned())
}

/// Opens a file of the process.
pub(crate) fn open(pid: i32, file: &str) -> Result<fs::File> {
    fs::File::open(format!("/proc/{pid}/{file}")).map_err(|e| ended(pid, e, file))
}

fn read(pid: i32, file: &str) -> Result<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).map_err(|e| ended(pid, e, file))?;
    // Paths may be any bytes.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn ended(pid: i32, e: io::Error, file: &str) -> Error {
    match e.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => Error::Ended { pid },
        _ => Err::<(), _>(e).context(|| format!("read /proc/{pid}/{file}")).unwrap_err(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_understood() {
        let heap = parse("55d0f0c93000-55d0f0cb4000 rw-p 00000000 00:00 0                          [heap]").unwrap();
        assert_eq!(heap.range, PageRange::new(0x55d0f0c93000, 0x55d0f0cb4000));
        assert!(heap.writable && heap.readable && !heap.executable && !heap.shared && heap.file.is_none());
        assert_eq!(heap.name, "[heap]");
        let file = parse("7f0-7f1 r-xs 00002000 fe:01 4711                       /a path (deleted)").unwrap();
        assert!(!file.writable && file.shared && file.executable);
        assert_eq!((file.file, file.name.as_str()), (Some((0xfe, 1, 4711)), "/a path (deleted)"));
        assert_eq!(parse("7f0-7f1 ---p 00000000 00:00 0 ").unwrap().name, "");
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn our_own_process_can_be_read() {
        let me = std::process::id() as i32;
        assert!(maps(me).unwrap().iter().any(|vma| vma.name == "[stack]"));
        assert_eq!(threads(me).unwrap().first().map(|(tid, _)| *tid), Some(me));
        assert_eq!(status(me, "Tgid").unwrap(), me);
    }

    #[test]
    fn a_process_that_is_not_there_has_ended() {
        assert!(matches!(maps(i32::MAX), Err(Error::Ended { .. })));
    }
}
