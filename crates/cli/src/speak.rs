//! Standard output and standard error. A reader that has enough (`| head`) is no failure and ends nothing half-way, above
//! all no testbed; a full disk is a failure, told once.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Instead of the standard library's, which panic when nobody reads.
macro_rules! println {
    () => { $crate::speak::out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::speak::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// See [`println`].
macro_rules! print {
    ($($text:tt)*) => { $crate::speak::out(format_args!($($text)*)) };
}

/// See [`println`].
macro_rules! eprintln {
    () => { $crate::speak::err(format_args!("\n")) };
    ($($text:tt)*) => { $crate::speak::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// See [`println`].
macro_rules! eprint {
    ($($text:tt)*) => { $crate::speak::err(format_args!($($text)*)) };
}

static FAILED: AtomicBool = AtomicBool::new(false);

/// To standard output.
pub fn out(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    out.write_fmt(text).unwrap_or_else(failed);
}

/// What could not be written to standard output.
pub fn failed(error: io::Error) {
    if error.kind() != ErrorKind::BrokenPipe && !FAILED.swap(true, Ordering::Relaxed) {
        err(format_args!("godwit: cannot write to standard output\n  because: {error}\n"));
    }
}

/// To standard error. Nobody is left to be told when this fails.
pub fn err(text: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Writes out what is kept back; whether all of standard output could be written (or nobody wants it).
pub fn all_was_written() -> bool {
    io::stdout().lock().flush().unwrap_or_else(failed);
    !FAILED.load(Ordering::Relaxed)
}
