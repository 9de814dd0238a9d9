//! Godwit's vocabulary and units. No I/O, no clock, no randomness.
//!
//! Everything that more than one crate talks about is named here, once:
//!
//! ```text
//!   names, units ──► Snapshot ──► Decision ──► MigrationRecord ──► Summary
//!   (who, how much)  (the world    (stay|move,   (phases, freeze,     (what a run
//!                     at one        and why)      gap, outcome)        leaves behind)
//!                     instant)
//! ```
//!
//! What it guarantees:
//! - a unit never travels as a bare number: [`Rtt`] is milliseconds, [`Bytes`] is bytes, [`Load`] is the
//!   dimensionless `1/(1-cpu) * 1/(1-mem)`, [`Time`] is the time since the start of a run;
//! - the JSON forms are stable: [`Snapshot`] and [`Decision`] are the input and output of
//!   `godwit policy decide`, [`Summary`] is `summary.json` and carries its schema version. Milliseconds that were
//!   measured have at most three decimals there.

mod baseline;
mod chain;
mod decimals;
mod decision;
mod migration;
mod names;
mod record;
mod snapshot;
mod speech;
mod units;

pub use baseline::{Baseline, BaselineMove, Compared, median};
pub use chain::chain;
pub use decision::{Action, Decision};
pub use migration::{CopyRound, MigrationId, MigrationRecord, Outcome, Phase, PhaseTime, Strategy, StrategyChoice};
pub use names::{NameError, NodeName, UserName, WorkloadName};
pub use record::{ClientSummary, RunRecord, Sample, Summary, UserSummary, WorkloadSummary};
pub use snapshot::{NodeState, Snapshot, UserState, WorkloadKind, WorkloadState};
pub use speech::{Family, Protocol};
pub use units::{Bandwidth, Bytes, Load, ParseUnitError, Rtt, Time};
