//! What went wrong, and the exit status that says so.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use godwit_testbed::TestbedError;

/// What a command returns: its exit status, or why it could not do its work.
pub type Result<T = ExitCode> = std::result::Result<T, Failure>;

/// It ran, and something did not go well.
pub const NOT_WELL: u8 = 1;
/// The command, a file or a snapshot is not right.
pub const BAD_INPUT: u8 = 2;
/// This host lacks something.
pub const LACKING: u8 = 3;
/// Interrupted.
pub const INTERRUPTED: u8 = 130;

/// An error on its way out.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub code: u8,
    error: anyhow::Error,
}

impl Failure {
    /// With a message of its own.
    pub fn new(code: u8, message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self { code, error: anyhow::Error::msg(message) }
    }

    /// The whole chain, once, to standard error.
    pub fn print(&self) {
        let mut text = format!("godwit: {}", self.error);
        for cause in self.error.chain().skip(1) {
            text.push_str(&format!("\n  because: {cause}"));
        }
        // Nobody is left to be told when this fails.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: NOT_WELL, error: error.into() }
    }
}

/// Says which exit status an error leads to.
pub trait Fail<T> {
    /// What was asked for is not right.
    fn bad_input(self) -> Result<T>;
    /// What was asked for is not right; `what` names it.
    fn bad_input_in(self, what: impl fmt::Display + Send + Sync + 'static) -> Result<T>;
    /// Could not do it; `what` says what.
    fn failed_to(self, what: impl fmt::Display + Send + Sync + 'static) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> Fail<T> for std::result::Result<T, E> {
    fn bad_input(self) -> Result<T> {
        self.map_err(|e| Failure { code: BAD_INPUT, error: e.into() })
    }

    fn bad_input_in(self, what: impl fmt::Display + Send + Sync + 'static) -> Result<T> {
        self.map_err(|e| Failure { code: BAD_INPUT, error: e.into().context(what) })
    }

    fn failed_to(self, what: impl fmt::Display + Send + Sync + 'static) -> Result<T> {
        self.map_err(|e| Failure { code: NOT_WELL, error: e.into().context(what) })
    }
}

/// Says which exit status it leads to that a testbed does not stand.
pub trait NoTestbed<T> {
    /// The host lacks something, the request is not right, or it did not go well.
    fn no_testbed(self) -> Result<T>;
}

impl<T> NoTestbed<T> for std::result::Result<T, TestbedError> {
    fn no_testbed(self) -> Result<T> {
        self.map_err(|error| {
            let code = match &error {
                error if error.is_lack() => LACKING,
                error if error.is_bad_request() => BAD_INPUT,
                _ => NOT_WELL,
            };
            Failure { code, error: error.into() }
        })
    }
}
