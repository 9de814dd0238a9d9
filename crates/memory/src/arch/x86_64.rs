//! x86-64. At the stop that PTRACE_INTERRUPT brings about, `rax` is what the interrupted call returned and `orig_rax`
//! its number, or -1 outside of calls. The kernel takes a call up again from that very stop, by these registers
//! (arch_do_signal_or_restart): so to put them back there, unchanged, is all that a restart needs.

use crate::ptrace::Registers;

/// Can be done here.
pub(crate) const SUPPORTED: Result<(), &str> = Ok(());

const USER_CODE_64: u64 = 0x33;
const NOT_IN_A_CALL: u64 = u64::MAX;
/// In-kernel: restart, but report EINTR when a handler has run. Never seen by a program.
const ERESTARTNOHAND: i64 = 514;

/// Not in the libc crate.
const SYS_IO_PGETEVENTS: i64 = 333;

/// See signal(7), "Interruption of system calls and library functions by stop signals".
pub(crate) const EINTR_OF_THEIR_OWN: &[i64] = &[
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_io_getevents,
    SYS_IO_PGETEVENTS,
    libc::SYS_io_uring_enter,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
];

pub(crate) const EINTR_WITH_A_TIMEOUT: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Length of the instruction.
pub(crate) const SYSCALL_BYTES: usize = 2;

pub(crate) fn find_syscall(code: &[u8]) -> Option<usize> {
    code.windows(2).position(|two| two == [0x0f, 0x05])
}

pub(crate) fn is_native(registers: &Registers) -> bool {
    registers.cs == USER_CODE_64
}

pub(crate) fn with_call(registers: &Registers, at: u64, number: i64, arguments: [u64; 3]) -> Registers {
    let [rdi, rsi, rdx] = arguments;
    Registers { rip: at, rax: number as u64, orig_rax: NOT_IN_A_CALL, rdi, rsi, rdx, ..*registers }
}

pub(crate) fn result(registers: &Registers) -> i64 {
    registers.rax as i64
}

pub(crate) fn interrupted_call(registers: &Registers) -> Option<(i64, u64)> {
    let interrupted = registers.orig_rax as i64 >= 0 && result(registers) == -i64::from(libc::EINTR);
    interrupted.then_some((registers.orig_rax as i64, registers.rdi))
}

pub(crate) fn restart_unless_handled(registers: &Registers) -> Registers {
    Registers { rax: (-ERESTARTNOHAND) as u64, ..*registers }
}
