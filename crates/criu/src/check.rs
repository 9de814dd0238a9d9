//! What the CRIU of a node is and can do.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::limit::Limit;
use crate::node::NodeEnv;
use crate::rpc::{self, Req, ReqType};
use crate::swrk::Swrk;
use crate::sys;

/// The oldest CRIU that works on current kernels.
pub const OLDEST: Version = Version { major: 4, minor: 1, patch: 0 };

/// The first CRIU that dumps inet sockets on Linux >= 6.16.
const READS_ONLY_UNIX_PASSCRED: Version = Version { major: 4, minor: 2, patch: 0 };

/// A version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// 4 in 4.1.1.
    pub major: u32,
    /// The 1 in the middle of 4.1.1.
    pub minor: u32,
    /// The last 1 of 4.1.1.
    pub patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 { write!(f, ".{}", self.patch) } else { Ok(()) }
    }
}

/// What CRIU, with the kernel below it, can do.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// Its version.
    pub version: Version,
    /// Tracks changed memory (soft-dirty): CRIU's own pre-copy works.
    pub memory_tracking: bool,
    /// Restores before the memory is there (userfaultfd).
    pub lazy_pages: bool,
    /// Recognises reused pids between pre-dumps.
    pub pidfd_store: bool,
    /// Why `criu check` is not content: empty where it says "Looks good.".
    pub complaints: Vec<String>,
}

/// Asks the CRIU of `env` for its version and features and lets it check the kernel.
///
/// It also fills CRIU's cache of what the kernel can (`/run/criu.kdat`), which takes 50-70 ms: call it when a node
/// comes up, in a network namespace where loopback works, and no dump pays for it. [`Error::CriuTooOld`] below
/// [`OLDEST`].
pub fn check(env: &NodeEnv, limit: &Limit) -> Result<Capabilities> {
    let (mut swrk, _) = Swrk::start(env, "check", &[])?;
    let version = ask_version(&mut swrk, limit)?;
    let wanted = rpc::Features { mem_track: Some(true), lazy_pages: Some(true), pidfd_store: Some(true) };
    let req = Req { r#type: ReqType::FeatureCheck.into(), features: Some(wanted), ..Req::default() };
    let features = swrk.ask(&req, limit)?.features.unwrap_or_default();
    swrk.wait(limit)?;
    let output = env.command("criu").arg("check").output(limit)?;
    let complaints = if output.status.success() {
        Vec::new()
    } else {
        let said = format!("{}{}", output.stdout, output.stderr);
        let decisive = crate::log::decisive(&said);
        if decisive.is_empty() { vec![output.status.to_string()] } else { decisive }
    };
    let mut complaints = complaints;
    if version < READS_ONLY_UNIX_PASSCRED && !kernel_has_inet_passcred() {
        complaints.push(format!("criu {version} cannot dump TCP sockets on this kernel, 4.2 can"));
    }
    Ok(Capabilities {
        version,
        memory_tracking: features.mem_track.unwrap_or(false),
        lazy_pages: features.lazy_pages.unwrap_or(false),
        pidfd_store: features.pidfd_store.unwrap_or(false),
        complaints,
    })
}

/// Since Linux 6.16 SO_PASSCRED is an error for sockets other than unix ones, which an older CRIU takes for its own.
fn kernel_has_inet_passcred() -> bool {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0));
    socket.is_ok_and(|s| sys::get_sockopt(&s, libc::SOL_SOCKET, libc::SO_PASSCRED).is_ok())
}

/// The worker's version; an error if it is too old. The worker stays ready for another request.
pub(crate) fn ask_version(swrk: &mut Swrk, limit: &Limit) -> Result<Version> {
    let req = Req { r#type: ReqType::Version.into(), keep_open: Some(true), ..Req::default() };
    let answer = swrk.ask(&req, limit)?.version.unwrap_or_default();
    let number = |n: i32| u32::try_from(n).unwrap_or(0);
    let version = Version {
        major: number(answer.major),
        minor: number(answer.minor),
        patch: number(answer.sublevel.unwrap_or(0)),
    };
    if version < OLDEST {
        return Err(Error::CriuTooOld { found: version.to_string(), needed: OLDEST.to_string() });
    }
    Ok(version)
}

/// Whether a CRIU may be trusted to restore what one of version `dumped` has written: images become what later ones understand, and
/// no earlier one promises to.
pub(crate) fn must_understand(found: Version, dumped: Option<Version>) -> Result<()> {
    let minor = |version: Version| (version.major, version.minor);
    match dumped {
        Some(dumped) if minor(found) < minor(dumped) => {
            Err(Error::CriuOlderThanImages { found: found.to_string(), dumped: dumped.to_string() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_restored_by_the_same_release_or_a_later_one() {
        let of = |major, minor, patch| Version { major, minor, patch };
        let may = |found, dumped| must_understand(found, Some(dumped)).is_ok();
        assert!(may(of(4, 1, 0), of(4, 1, 1)), "patches change no images");
        assert!(may(of(4, 2, 0), of(4, 1, 1)));
        assert!(may(of(5, 0, 0), of(4, 2, 0)));
        assert!(!may(of(4, 1, 1), of(4, 2, 0)));
        assert!(!may(of(4, 9, 0), of(5, 0, 0)));
        assert!(must_understand(of(4, 1, 0), None).is_ok(), "a source that does not say");
    }

    #[test]
    fn versions_are_ordered_and_written_as_criu_does() {
        let old = Version { major: 3, minor: 17, patch: 1 };
        assert!(old < OLDEST);
        assert_eq!(old.to_string(), "3.17.1");
        assert_eq!(OLDEST.to_string(), "4.1");
    }
}
