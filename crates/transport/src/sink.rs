//! Who keeps the memory that arrives.

use crate::error::{StreamError, corrupt};

/// The size of a page on the wire.
pub const PAGE: u64 = 4096;

/// Takes in what is sent of a process's memory, and messages.
pub trait PageSink {
    /// Whole pages.
    fn pages(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError>;
    /// So many bytes are zero.
    fn zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError>;
    /// Nothing is mapped there any more.
    fn forget(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError>;
    /// What [`Sender::message`](crate::Sender::message) was given.
    fn message(&mut self, _: &[u8]) -> Result<(), StreamError> {
        Err(corrupt("a message came where none was expected"))
    }
    /// A file has arrived whole.
    fn file(&mut self, _name: &str) {}
    /// What was asked for by [`Pager::want`](crate::Pager::want): whole pages.
    fn answer(&mut self, pid: i32, addr: u64, pages: &[u8]) -> Result<(), StreamError> {
        self.pages(pid, addr, pages)
    }
    /// What was asked for is zero.
    fn answer_zero(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        self.zero(pid, addr, len)
    }
    /// What was asked for does not exist.
    fn answer_missing(&mut self, pid: i32, addr: u64, len: u64) -> Result<(), StreamError> {
        Err(corrupt(format!("the sender has no {len} bytes at {addr:#x} of process {pid}")))
    }
}

/// Expects files only.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPages;

impl PageSink for NoPages {
    fn pages(&mut self, _: i32, _: u64, _: &[u8]) -> Result<(), StreamError> {
        Err(corrupt("pages came where only files were expected"))
    }
    fn zero(&mut self, _: i32, _: u64, _: u64) -> Result<(), StreamError> {
        self.pages(0, 0, &[])
    }
    fn forget(&mut self, _: i32, _: u64, _: u64) -> Result<(), StreamError> {
        self.pages(0, 0, &[])
    }
}
