//! What can be wrong with a request for a policy.

use crate::ConfigError;

/// Why no policy was built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// There is no policy of that name.
    #[error("there is no policy \"{name}\"{}; the policies are {}", hint(.did_you_mean), .known.join(", "))]
    UnknownPolicy {
        /// As it was given.
        name: String,
        /// The most similar name, if one is similar.
        did_you_mean: Option<String>,
        /// All there are.
        known: Vec<String>,
    },
    /// The policy has no parameter of that name.
    #[error(
        "policy \"{policy}\" has no parameter \"{name}\"{}; {}",
        hint(.did_you_mean),
        if .known.is_empty() { "it has none".to_owned() } else { format!("its parameters are {}", .known.join(", ")) }
    )]
    UnknownParameter {
        /// Which policy.
        policy: String,
        /// As it was given.
        name: String,
        /// The most similar name, if one is similar.
        did_you_mean: Option<String>,
        /// All there are.
        known: Vec<String>,
    },
    /// A parameter is no number.
    #[error("parameter \"{name}\" of policy \"{policy}\" is a number ({unit}), not {given}")]
    NotANumber {
        /// Which policy.
        policy: String,
        /// Which parameter.
        name: String,
        /// What it counts.
        unit: String,
        /// What was given, as JSON.
        given: String,
    },
    /// The parameters are no mapping from names to values.
    #[error("the parameters of policy \"{policy}\" are a mapping from names to numbers, not {given}")]
    NotAMapping {
        /// Which policy.
        policy: String,
        /// What was given, as JSON.
        given: String,
    },
    /// The parameters do not fit together.
    #[error("the parameters of policy \"{policy}\" make no sense")]
    Config {
        /// Which policy.
        policy: String,
        /// What is wrong with them.
        #[source]
        source: ConfigError,
    },
}

fn hint(did_you_mean: &Option<String>) -> String {
    did_you_mean.as_ref().map_or_else(String::new, |name| format!(" (did you mean \"{name}\"?)"))
}

/// The candidate that a person who typed `given` probably meant.
pub(crate) fn most_similar<'a>(given: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    let given = given.to_lowercase().replace('_', "-");
    candidates
        .map(|candidate| (strsim::jaro_winkler(&given, &candidate.replace('_', "-")), candidate))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}
