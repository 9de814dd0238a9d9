//! Calls of the binary, with a deadline and all that they said.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::until;

/// How long a call may take; a run at a speed that suits a test is half a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_godwit"))
}

/// Calls the binary and waits for its end.
pub fn godwit<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    Call::new(args).run()
}

/// Ends a testbed whatever its state, without a word: the last resort of guards.
pub fn end_testbed(name: &str) {
    let _ = Command::new(program())
        .args(["testbed", "down", "--name", name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// A call to be made.
#[derive(Debug)]
pub struct Call {
    command: Command,
    stdin: Option<String>,
}

impl Call {
    /// Of the binary under test.
    pub fn new<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::of(program(), args)
    }

    /// Of any program.
    pub fn of<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(program);
        command.args(args).env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Signals are for whom the test sends them to.
        command.process_group(0);
        Self { command, stdin: None }
    }

    /// What it reads.
    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.command.stdin(Stdio::piped());
        self.stdin = Some(text.into());
        self
    }

    /// Where it runs.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Makes it and waits for its end.
    pub fn run(self) -> Ran {
        self.start().end()
    }

    /// Makes it.
    pub fn start(mut self) -> Started {
        let said = format!("{:?}", self.command);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{said} cannot be started: {error}"));
        if let (Some(text), Some(mut stdin)) = (self.stdin, child.stdin.take()) {
            // A program that does not read all of it is none of our business.
            let _ = stdin.write_all(text.as_bytes());
        }
        let out = Pipe::read(child.stdout.take().expect("piped"));
        let err = Pipe::read(child.stderr.take().expect("piped"));
        Started { said, child, out, err }
    }
}

/// What is read from a pipe while it comes.
#[derive(Debug)]
struct Pipe {
    text: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Pipe {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let thread = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut chunk) {
                into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..n]);
            }
        });
        Self { text, thread: Some(thread) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.so_far()
    }
}

/// A call under way; killed when it is dropped.
#[derive(Debug)]
pub struct Started {
    said: String,
    child: Child,
    out: Pipe,
    err: Pipe,
}

impl Started {
    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it has not been waited for");
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Waits until it has said something on standard error.
    pub fn until_it_says(&mut self, text: &str) {
        until(&format!("{} says \"{text}\"", self.said), || {
            let said = self.err.so_far();
            let ended = self.has_ended();
            assert!(said.contains(text) || !ended, "it ended without saying \"{text}\":\n{said}");
            said.contains(text).then_some(())
        });
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ran {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let said = self.err.so_far();
                panic!("{} did not end within {} s; it said:\n{said}", self.said, PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        };
        Ran { said: self.said.clone(), status, out: self.out.all(), err: self.err.all() }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A call that has ended.
#[derive(Debug)]
pub struct Ran {
    said: String,
    status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n--- stdout\n{}--- stderr\n{}", self.said, self.status, self.out, self.err)
    }
}

impl Ran {
    /// It must have ended so.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// The exit status, or none after a signal.
    pub fn status(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn killed_by(&self) -> Option<i32> {
        self.status.signal()
    }

    /// It must have said this on standard error.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "it does not say \"{text}\": {self}");
        self
    }

    /// It must have this on standard output.
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.out.contains(text), "it does not print \"{text}\": {self}");
        self
    }

    /// It failed with this exit status and an error in the house's style: one message, said once, its causes indented.
    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        let ran = self.code(code);
        let first = ran.err.lines().find(|line| line.starts_with("godwit: ")).unwrap_or_default();
        assert!(!first.is_empty(), "no message of its own: {ran}");
        assert_eq!(ran.err.matches("godwit: ").count(), 1, "more than one message: {ran}");
        assert!(!first.ends_with('.'), "a message ends with a full stop: {ran}");
        assert!(!ran.err.contains("panicked"), "{ran}");
        let causes: Vec<&str> = ran.err.lines().filter_map(|line| line.strip_prefix("  because: ")).collect();
        for cause in causes {
            assert!(!first.contains(cause), "the cause is in the message already: {ran}");
        }
        ran
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }

    /// Standard output as JSON lines.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }
}

/// The files below a directory, with their content, sorted by path: what must not change.
pub fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                _ => found.push((entry.path(), std::fs::read(entry.path()).unwrap_or_default())),
            }
        }
    }
    found.sort();
    found
}
