//! ptrace(2), as far as a visit to a thread needs it. The caller's own thread is the tracer: all calls of a visit are
//! made by one thread.

#![allow(unsafe_code)]

use std::io;

/// The general registers, as the kernel hands them out (NT_PRSTATUS).
pub(crate) type Registers = libc::user_regs_struct;

const NT_PRSTATUS: usize = 1;
const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
const PTRACE_EVENT_STOP: i32 = 128;
const WALL: libc::c_int = 0x4000_0000;

/// Why a thread stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was interrupted, or its process is stopped (SIGSTOP).
    Event,
    /// At the entry or the exit of a system call.
    Syscall,
    /// A signal is about to be delivered.
    Signal(i32),
}

/// struct ptrace_rseq_configuration
#[repr(C)]
#[derive(Default)]
struct RseqConfiguration {
    pointer: u64,
    size: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

/// struct ptrace_sud_config
#[repr(C)]
#[derive(Default)]
struct DispatchConfiguration {
    mode: u64,
    selector: u64,
    offset: u64,
    len: u64,
}

fn ptrace(request: libc::c_uint, tid: i32, addr: usize, data: usize) -> io::Result<()> {
    // SAFETY: every caller passes integers, or addresses of its own values together with their true sizes.
    let ret = unsafe { libc::ptrace(request, tid, addr, data) };
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes us the tracer of a thread, without stopping it. `suspend_seccomp`: its filters do not apply while we are.
pub(crate) fn seize(tid: i32, suspend_seccomp: bool) -> io::Result<()> {
    let mut options = libc::PTRACE_O_TRACESYSGOOD;
    if suspend_seccomp {
        options |= libc::PTRACE_O_SUSPEND_SECCOMP;
    }
    ptrace(libc::PTRACE_SEIZE, tid, 0, options as usize)
}

/// Asks it to stop; [`wait`] says when it has.
pub(crate) fn interrupt(tid: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0)
}

/// Lets a stopped thread go, for good.
pub(crate) fn detach(tid: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_DETACH, tid, 0, 0)
}

/// Lets it run on, with `signal` delivered unless 0.
pub(crate) fn resume(tid: i32, signal: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_CONT, tid, 0, signal as usize)
}

/// Lets it run on up to the next entry to, or exit from, a system call.
pub(crate) fn resume_to_syscall(tid: i32, signal: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_SYSCALL, tid, 0, signal as usize)
}

/// Its registers.
pub(crate) fn registers(tid: i32) -> io::Result<Registers> {
    // SAFETY: all-zero is a value of this struct of integers.
    let mut registers: Registers = unsafe { std::mem::zeroed() };
    let mut vector =
        libc::iovec { iov_base: (&raw mut registers).cast::<libc::c_void>(), iov_len: size_of::<Registers>() };
    ptrace(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS, &raw mut vector as usize)?;
    if vector.iov_len == size_of::<Registers>() {
        Ok(registers)
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "it is a 32-bit process"))
    }
}

/// Sets all of them.
pub(crate) fn set_registers(tid: i32, registers: &Registers) -> io::Result<()> {
    let mut copy = *registers;
    let mut vector = libc::iovec { iov_base: (&raw mut copy).cast::<libc::c_void>(), iov_len: size_of::<Registers>() };
    ptrace(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS, &raw mut vector as usize)
}

/// Its blocked signals; in a call that sets a mask of its own (ppoll, sigsuspend), those that are to be blocked after.
pub(crate) fn signal_mask(tid: i32) -> io::Result<u64> {
    let mut mask = 0u64;
    ptrace(libc::PTRACE_GETSIGMASK, tid, size_of::<u64>(), &raw mut mask as usize)?;
    Ok(mask)
}

/// Sets its blocked signals.
pub(crate) fn set_signal_mask(tid: i32, mask: u64) -> io::Result<()> {
    let mut copy = mask;
    ptrace(libc::PTRACE_SETSIGMASK, tid, size_of::<u64>(), &raw mut copy as usize)
}

/// Address of its struct rseq, where it has registered one and the kernel tells (Linux 5.13).
pub(crate) fn rseq_pointer(tid: i32) -> Option<u64> {
    let mut config = RseqConfiguration::default();
    let size = size_of::<RseqConfiguration>();
    // SAFETY: the struct is ours and its size is passed with it.
    let ret = unsafe { libc::ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, size, &raw mut config as usize) };
    (ret > 0 && config.pointer != 0).then_some(config.pointer)
}

/// Whether its system calls may be turned into SIGSYS (PR_SET_SYSCALL_USER_DISPATCH); no where the kernel cannot tell.
pub(crate) fn dispatches_syscalls(tid: i32) -> bool {
    let mut config = DispatchConfiguration::default();
    let size = size_of::<DispatchConfiguration>();
    ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, &raw mut config as usize).is_ok() && config.mode != 0
}

/// Writes a word of its memory.
pub(crate) fn poke(tid: i32, address: u64, word: u64) -> io::Result<()> {
    ptrace(libc::PTRACE_POKEDATA, tid, address as usize, word as usize)
}

/// Whether it has stopped since the last look. Never takes the exit status of a child away from who waits for it.
pub(crate) fn wait(tid: i32) -> io::Result<Option<Stop>> {
    // SAFETY: all-zero is a value of this plain struct.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WSTOPPED | libc::WNOHANG | WALL;
    // SAFETY: info is ours and outlives the call.
    if unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &raw mut info, options) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid fills these fields, or leaves the zeros.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match status {
        _ if pid == 0 => None,
        status if status >> 8 == PTRACE_EVENT_STOP => Some(Stop::Event),
        status if status == libc::SIGTRAP | 0x80 => Some(Stop::Syscall),
        status => Some(Stop::Signal(status & 0x7f)),
    })
}
