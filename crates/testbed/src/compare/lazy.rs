//! CRIU's own post-copy, as runc offers it: the source's pages over CRIU's page server, fetched by `criu lazy-pages`.

use std::io::{PipeReader, Read, pipe};
use std::os::fd::AsFd;
use std::time::Instant;

use godwit_criu::{Limit, NodeChild};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::plain::{Ends, PATIENCE, Result, broken, failed, why};
use crate::error::TestbedError;

/// In the source's namespace, where nobody else listens.
const PORT: &str = "27";

/// The source's pages are served. Dropped, both sides of the serving end.
#[derive(Debug)]
pub(super) struct Serving {
    /// Ends when all pages are gone over.
    checkpoint: NodeChild,
    /// The same, on the target.
    daemon: Option<NodeChild>,
}

/// `runc checkpoint --lazy-pages` up to where the state is dumped and pages are served.
pub(super) fn checkpoint(ends: &Ends<'_>) -> Result<Serving> {
    let address = format!("{}:{PORT}", ends.source_net.backhaul());
    let (told, tells) = pipe().map_err(no_pipe)?;
    let args = ["checkpoint", "--tcp-established", "--lazy-pages", "--page-server", &address];
    let mut command = ends.runc(&ends.source.env(), &args);
    let number = command.fd(&tells).map_err(failed("runc checkpoint"))?.to_string();
    drop(tells);
    let command = command.args(["--status-fd", &number]).arg(ends.workload.as_str());
    let checkpoint = command.spawn().map_err(failed("runc checkpoint"))?;
    let what = "runc checkpoint --lazy-pages";
    ready(told, what)
        .map_err(|silent| silent.unwrap_or_else(|| broken(why(ends.source, &ends.work, "dump.log", what))))?;
    Ok(Serving { checkpoint, daemon: None })
}

impl Serving {
    /// Starts `criu lazy-pages` where the images are by now.
    pub(super) fn fetch(&mut self, ends: &Ends<'_>) -> Result<()> {
        let address = ends.source_net.backhaul().to_string();
        let (told, tells) = pipe().map_err(no_pipe)?;
        let args = ["lazy-pages", "--page-server", "--address", &address, "--port", PORT, "-o", "lazy.log"];
        let mut command = ends.target.env().command("criu").args(args);
        let number = command.fd(&tells).map_err(failed("criu lazy-pages"))?.to_string();
        drop(tells);
        let command = command.args(["--status-fd", &number]).arg("-D").arg(&ends.images).arg("-W").arg(&ends.work);
        self.daemon = Some(command.spawn().map_err(failed("criu lazy-pages"))?);
        let what = "criu lazy-pages";
        ready(told, what)
            .map_err(|silent| silent.unwrap_or_else(|| broken(why(ends.target, &ends.work, "lazy.log", what))))
    }

    /// Waits until the target has all pages and the source's copy is gone; when the former was.
    pub(super) fn drained(mut self, ends: &Ends<'_>) -> Result<Instant> {
        let limit = Limit::within(PATIENCE);
        if let Some(daemon) = &mut self.daemon {
            let status = daemon.wait(&limit).map_err(failed("criu lazy-pages"))?;
            if !status.success() {
                return Err(broken(why(ends.target, &ends.work, "lazy.log", "criu lazy-pages")));
            }
        }
        let drained = Instant::now();
        self.checkpoint.wait(&limit).map_err(failed("runc checkpoint --lazy-pages"))?;
        Ok(drained)
    }
}

fn no_pipe(error: std::io::Error) -> TestbedError {
    broken(format!("make a pipe: {error}"))
}

/// Waits for the byte that says ready. An error of its own when it is not told in time, none when whoever should tell is gone.
fn ready(mut told: PipeReader, what: &str) -> std::result::Result<(), Option<TestbedError>> {
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    let waited = poll(&mut [PollFd::new(told.as_fd(), PollFlags::POLLIN)], timeout);
    if !matches!(waited, Ok(1..)) {
        return Err(Some(broken(format!("{what} is not ready within {} s", PATIENCE.as_secs()))));
    }
    match told.read(&mut [0]) {
        Ok(1) => Ok(()),
        _ => Err(None),
    }
}
