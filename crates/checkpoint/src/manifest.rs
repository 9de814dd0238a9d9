//! What a checkpoint says about itself.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::criu_images::{Process, Socket};

/// The newest version of the format, that of workloads of several containers; older ones are read too.
pub const FORMAT: u32 = 2;
/// The version that a checkpoint of one container has.
pub const FORMAT_OF_ONE: u32 = 1;

/// The first entry of a checkpoint. Fields may be added without another [`FORMAT`]; who does not know one passes it over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format's version.
    pub format: u32,
    /// What wrote it: `godwit 0.1.0`.
    pub creator: String,
    /// Names this checkpoint; no two have the same.
    pub id: String,
    /// When the service stood still, UTC, RFC 3339.
    pub created: String,
    /// The workload.
    pub workload: String,
    /// The image that the container was made from; of several containers empty, as are the other fields of one container.
    pub image: String,
    /// It is one of the workload's own; otherwise the node's.
    #[serde(default)]
    pub own_image: bool,
    /// Where the container has its volumes, of several containers all of them; what is in the first is in `images/volume-0.tar`.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Address and port that it served at.
    pub service: String,
    /// The node that it ran on.
    pub node: String,
    /// Where it ran.
    pub host: Host,
    /// SHA-256 of `config.json`.
    pub spec_sha256: String,
    /// Memory of all its processes, in bytes.
    pub memory_bytes: u64,
    /// The memory that it may need, in bytes: what its node has to have left.
    pub declared_memory_bytes: u64,
    /// The service was ended with this checkpoint; otherwise it ran on.
    pub stopped: bool,
    /// For how long it stood still, ms.
    pub frozen_ms: f64,
    /// Its processes, parents first.
    pub processes: Vec<Process>,
    /// Its sockets.
    pub sockets: Vec<Socket>,
    /// What the restore needs to know beforehand: `godwit-criu`'s `RestorePlan`.
    pub plan: serde_json::Value,
    /// Of a workload of several containers: what each has for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<OfContainer>,
}

/// One of several containers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OfContainer {
    /// Its name in the workload, a plain file name.
    pub name: String,
    /// The image that it was made from.
    pub image: String,
    /// It is one of the workload's own; otherwise the node's.
    #[serde(default)]
    pub own_image: bool,
    /// Which of the workload's volumes it has.
    #[serde(default)]
    pub volumes: Vec<usize>,
    /// SHA-256 of its `config.json`.
    pub spec_sha256: String,
    /// What its restore needs to know beforehand.
    pub plan: serde_json::Value,
}

/// Facts about a host that decide whether a restore can work elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Of its processor: `x86_64`.
    pub arch: String,
    /// The kernel's release.
    pub kernel: String,
    /// CRIU's version.
    pub criu: String,
    /// Version of its control groups: 1 or 2.
    pub cgroup: u32,
}

/// A moment as RFC 3339 in UTC, to the second.
pub fn utc(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years counted from March, so that a leap day is the last of its year (Howard Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms").
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
