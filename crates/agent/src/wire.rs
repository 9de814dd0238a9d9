//! The messages between controller and agent: gRPC service `godwit.agent.v1.Agent`, written by hand as prost messages.
//!
//! ```text
//!   Hello  (HelloRequest)  -> HelloReply           first on every connection: which protocol both speak
//!   Step   (StepRequest)   -> StepReply            one step of a migration, by its kind
//!   Copy   (StepRequest)   -> stream CopyEvent     pre-copy: a round each, an empty one while a round takes long
//!   Status (StatusRequest) -> StatusReply          the migrations that are open on this node
//! ```
//! A new field keeps old peers working (proto3 ignores what it does not know). What changes the meaning of a step is a new
//! [`PROTOCOL`].

use godwit_criu::RestorePlan;
use godwit_migration::{PartError, Told};
use godwit_model::{Bytes, CopyRound, Strategy};
use serde::{Deserialize, Serialize};

/// The newest protocol that this side speaks.
pub(crate) const PROTOCOL: u32 = 1;
/// And the oldest.
pub(crate) const OLDEST: u32 = 1;

pub(crate) const HELLO: &str = "/godwit.agent.v1.Agent/Hello";
pub(crate) const STEP: &str = "/godwit.agent.v1.Agent/Step";
pub(crate) const COPY: &str = "/godwit.agent.v1.Agent/Copy";
pub(crate) const STATUS: &str = "/godwit.agent.v1.Agent/Status";

/// Says what the caller speaks, and whom it believes to call.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HelloRequest {
    #[prost(uint32, tag = "1")]
    pub oldest: u32,
    #[prost(uint32, tag = "2")]
    pub newest: u32,
    #[prost(string, tag = "3")]
    pub node: String,
    #[prost(string, repeated, tag = "4")]
    pub features: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HelloReply {
    /// What both speak.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(string, tag = "2")]
    pub node: String,
    #[prost(int32, tag = "3")]
    pub pid: i32,
    #[prost(string, tag = "4")]
    pub version: String,
    #[prost(string, repeated, tag = "5")]
    pub features: Vec<String>,
}

/// Which migration: all that an agent which has just started needs to know of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Migration {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub workload: String,
    #[prost(string, tag = "3")]
    pub strategy: String,
}

impl Migration {
    pub(crate) fn strategy(&self) -> Result<Strategy, PartError> {
        self.strategy.parse().map_err(|_| {
            PartError::new(format!(
                "this agent knows no strategy \"{}\": is it older than its controller?",
                self.strategy
            ))
        })
    }
}

/// The steps of the two sides, as in `godwit_migration::{Source, Target}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Step {
    Unknown = 0,
    SourcePreflight = 1,
    SourceStage = 2,
    /// Joins the source to the target's stream; outside the freeze.
    SourceConnect = 3,
    SourceFreeze = 4,
    /// Dumps, answers, and begins to send at once.
    SourceDump = 5,
    SourceSend = 6,
    SourceDiscard = 7,
    SourceDrain = 8,
    SourceThaw = 9,
    TargetPreflight = 20,
    TargetStage = 21,
    TargetReceived = 22,
    TargetRestore = 23,
    TargetResume = 24,
    TargetSettle = 25,
    TargetAbort = 26,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StepRequest {
    #[prost(message, optional, tag = "1")]
    pub migration: Option<Migration>,
    #[prost(enumeration = "Step", tag = "2")]
    pub step: i32,
    /// For the target's stage: the source's restore plan, as JSON.
    #[prost(string, tag = "3")]
    pub plan: String,
    /// For the target's preflight: the memory that the workload holds.
    #[prost(uint64, tag = "4")]
    pub needs: u64,
    /// For the connection.
    #[prost(message, optional, tag = "5")]
    pub meeting: Option<Meeting>,
    /// For the target's stage: the source's node, whose certificate the target has to see.
    #[prost(string, tag = "6")]
    pub source: String,
    /// For both stages: memory beside the images of a stop-copy. The source hears whether the target can keep it, the target
    /// whether it comes.
    #[prost(bool, tag = "7")]
    pub beside: bool,
    /// For the connection: the most that the source sends, bytes a second; 0: as much as goes through.
    #[prost(uint64, tag = "8")]
    pub bandwidth: u64,
}

/// What the target has to know of a workload's containers, as JSON: the one's, which agents of older releases know, or all.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Plans {
    Several { containers: Vec<RestorePlan> },
    One(RestorePlan),
}

impl Plans {
    pub(crate) fn of(mut plans: Vec<RestorePlan>) -> Self {
        if plans.len() == 1 { Self::One(plans.remove(0)) } else { Self::Several { containers: plans } }
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a plan has only string keys")
    }

    pub(crate) fn read(text: &str) -> Result<Vec<RestorePlan>, PartError> {
        let plans = serde_json::from_str(text)
            .map_err(|e| PartError::caused_by("the source's restore plan is not understood", e))?;
        Ok(match plans {
            Self::Several { containers } => containers,
            Self::One(plan) => vec![plan],
        })
    }
}

/// Where a target awaits its source, and the word by which it knows it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Meeting {
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(bytes = "vec", tag = "2")]
    pub word: Vec<u8>,
    /// The target's node: whose certificate the source has to see.
    #[prost(string, tag = "3")]
    pub node: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StepReply {
    /// Why it failed, for certain; the whole chain in one line.
    #[prost(string, optional, tag = "1")]
    pub failure: Option<String>,
    #[prost(string, tag = "2")]
    pub plan: String,
    #[prost(message, optional, tag = "3")]
    pub meeting: Option<Meeting>,
    #[prost(message, optional, tag = "4")]
    pub round: Option<Round>,
    /// Sent; in the answer to a dump, what is to be sent.
    #[prost(uint64, tag = "5")]
    pub bytes: u64,
    /// Of a failure: the copy that the step was about has ended by itself.
    #[prost(bool, tag = "6")]
    pub gone: bool,
    /// Of the target's preflight: it could keep memory that comes beside the images. Of the source's stage: it will come.
    #[prost(bool, tag = "7")]
    pub beside: bool,
    /// Sent, as it went over the wire; 0: not known.
    #[prost(uint64, tag = "8")]
    pub wire: u64,
}

/// A round of pre-copy.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Round {
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    #[prost(double, tag = "2")]
    pub ms: f64,
}

impl From<CopyRound> for Round {
    fn from(round: CopyRound) -> Self {
        Self { bytes: round.bytes.0, ms: round.ms }
    }
}

impl From<Round> for CopyRound {
    fn from(round: Round) -> Self {
        Self { bytes: Bytes(round.bytes), ms: round.ms }
    }
}

/// All empty: the round takes long, and the agent lives.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CopyEvent {
    #[prost(message, optional, tag = "1")]
    pub round: Option<Round>,
    #[prost(string, optional, tag = "2")]
    pub failure: Option<String>,
    #[prost(bool, tag = "3")]
    pub done: bool,
    #[prost(message, optional, tag = "4")]
    pub sent: Option<Sent>,
}

/// So much of a step is sent.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Sent {
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    #[prost(uint64, tag = "2")]
    pub expected: u64,
}

impl From<Told> for CopyEvent {
    fn from(told: Told) -> Self {
        match told {
            Told::Round(round) => Self { round: Some(round.into()), ..Self::default() },
            Told::Sent { bytes, expected } => {
                Self { sent: Some(Sent { bytes: bytes.0, expected: expected.0 }), ..Self::default() }
            }
        }
    }
}

impl CopyEvent {
    /// What is to be told, if anything.
    pub(crate) fn told(&self) -> Option<Told> {
        let round = self.round.map(|round| Told::Round(round.into()));
        let sent = |sent: Sent| Told::Sent { bytes: Bytes(sent.bytes), expected: Bytes(sent.expected) };
        round.or_else(|| self.sent.map(sent))
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StatusReply {
    #[prost(message, repeated, tag = "1")]
    pub open: Vec<Open>,
}

/// A migration that is not over on a node.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Open {
    #[prost(message, optional, tag = "1")]
    pub migration: Option<Migration>,
    #[prost(string, tag = "2")]
    pub side: String,
    #[prost(string, tag = "3")]
    pub state: String,
    /// For how long nobody has asked for a step of it.
    #[prost(double, tag = "4")]
    pub idle_s: f64,
}
