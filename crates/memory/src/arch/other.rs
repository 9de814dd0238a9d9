//! Architectures that are still to be done. Of aarch64 is known: it has the write protection from Linux 6.10; the call
//! is `svc #0` (0xd4000001) with its number in x8; and its kernel rewinds an interrupted call *before* the stop that
//! PTRACE_INTERRUPT brings about and keeps what it needs to undo that in local variables, so x86-64's way of putting
//! the registers back at a second such stop would lose a restart.

use crate::ptrace::Registers;

/// Cannot be done yet.
pub(crate) const SUPPORTED: Result<(), &str> = Err("on this architecture no system call can be injected yet");

pub(crate) const EINTR_OF_THEIR_OWN: &[i64] = &[];
pub(crate) const EINTR_WITH_A_TIMEOUT: &[i64] = &[];

pub(crate) const SYSCALL_BYTES: usize = 4;

pub(crate) fn find_syscall(_code: &[u8]) -> Option<usize> {
    None
}

pub(crate) fn is_native(_registers: &Registers) -> bool {
    false
}

pub(crate) fn with_call(registers: &Registers, _at: u64, _number: i64, _arguments: [u64; 3]) -> Registers {
    *registers
}

pub(crate) fn result(_registers: &Registers) -> i64 {
    -i64::from(libc::ENOSYS)
}

pub(crate) fn interrupted_call(_registers: &Registers) -> Option<(i64, u64)> {
    None
}

pub(crate) fn restart_unless_handled(registers: &Registers) -> Registers {
    *registers
}
