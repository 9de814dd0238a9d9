//! What differs between architectures: how a system call is made in another thread, and how one that was interrupted
//! is taken up again. An architecture has:
//!
//! - `SUPPORTED`: nothing, or why not;
//! - `find_syscall(code)`: offset of an instruction that enters the kernel, `SYSCALL_BYTES` long;
//! - `is_native(registers)`: not a 32-bit thread on a 64-bit kernel;
//! - `with_call(registers, at, number, arguments)`: the registers that make the thread call, and not restart another;
//! - `result(registers)`;
//! - `interrupted_call(registers)`: the call that has returned EINTR, and its first argument;
//! - `EINTR_OF_THEIR_OWN`: calls that return EINTR after any interruption, where others are restarted by the kernel;
//! - `EINTR_WITH_A_TIMEOUT`: the same, of sockets with SO_RCVTIMEO or SO_SNDTIMEO;
//! - `restart_unless_handled(registers)`: the registers that let the kernel take it up again, unless a signal handler runs.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
mod other;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use other::*;
