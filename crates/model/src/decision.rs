//! What a policy says.

use serde::{Deserialize, Serialize};

use crate::{NodeName, WorkloadName};

/// Stay or move, and why. JSON: `{"workload":"video","action":"move","to":"edge2","rule":"…","reason":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Of which workload.
    pub workload: WorkloadName,
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
    /// Which of the policy's rules spoke, in kebab-case: stable, for counting.
    pub rule: String,
    /// The same for a person, with the figures it was decided upon.
    pub reason: String,
}

/// What to do with a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Action {
    /// Leave it where it is.
    Stay,
    /// Move it.
    Move {
        /// To this node.
        to: NodeName,
    },
}

impl Decision {
    /// The node to move to, if it is to move.
    pub fn target(&self) -> Option<&NodeName> {
        match &self.action {
            Action::Stay => None,
            Action::Move { to } => Some(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_is_flat() {
        let decision = Decision {
            workload: WorkloadName::new("video").unwrap(),
            action: Action::Move { to: NodeName::new("edge2").unwrap() },
            rule: "rtt-bad".into(),
            reason: "far".into(),
        };
        let json = serde_json::to_string(&decision).unwrap();
        assert_eq!(json, r#"{"workload":"video","action":"move","to":"edge2","rule":"rtt-bad","reason":"far"}"#);
        assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), decision);
    }
}
