//! Where a process can be made to enter the kernel: an instruction that it has anyway, in its vDSO mostly. None is
//! written into its text, which would leave a private copy of that page behind.

use crate::arch;
use crate::error::{Error, Result};
use crate::procfs;
use crate::range::PageRange;
use crate::sys::{self, Iovecs};

/// Code of a mapping that is searched.
const SEARCHED: u64 = 256 << 10;

/// The address of such an instruction; none when there is none, as in a 32-bit process, or when its memory was replaced
/// while we looked (execve(2)).
pub(crate) fn find(pid: i32) -> Result<Option<u64>> {
    let mut code = procfs::maps(pid)?;
    if code.is_empty() {
        return Err(Error::Ended { pid });
    }
    code.retain(|vma| vma.executable && vma.readable);
    code.sort_by_key(|vma| vma.name != "[vdso]");
    let mut buffer = Vec::new();
    for vma in code {
        let start = vma.range.start;
        let part = PageRange::new(start, vma.range.end.min(start + SEARCHED));
        buffer.resize(part.bytes() as usize, 0);
        let Ok(n) = sys::process_vm_read(pid, &[part], &mut buffer, &mut Iovecs::default()) else { continue };
        if let Some(offset) = arch::find_syscall(&buffer[..n]) {
            return Ok(Some(start + offset as u64));
        }
    }
    Ok(None)
}

/// Whether there is one at this address.
pub(crate) fn is_at(pid: i32, address: u64) -> bool {
    let mut code = [0; arch::SYSCALL_BYTES];
    let range = PageRange::new(address, address + code.len() as u64);
    let read = sys::process_vm_read(pid, &[range], &mut code, &mut Iovecs::default());
    read.is_ok_and(|n| n == code.len()) && arch::find_syscall(&code) == Some(0)
}
