//! Policies by name, with their parameters.

use serde_json::{Value, json};

use crate::error::most_similar;
use crate::{Nearest, Never, Policy, PolicyError, Threshold, ThresholdConfig};

/// A policy that can be built by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyInfo {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
}

/// A parameter; all are numbers.
struct Parameter {
    name: &'static str,
    description: &'static str,
    unit: &'static str,
    above: f64,
}

struct Entry {
    info: PolicyInfo,
    parameters: &'static [Parameter],
    /// The parameters' defaults, as JSON.
    defaults: fn() -> Value,
    /// Gets parameters whose names and types have been checked.
    build: fn(Value) -> Result<Box<dyn Policy>, PolicyError>,
}

const ENTRIES: [Entry; 3] = [
    Entry {
        info: PolicyInfo {
            name: "threshold",
            description: "moves a container out of a bad rtt or load band to the nearest node in a better one, a vm by load alone",
        },
        parameters: &[
            Parameter { name: "rtt_good_below_ms", description: "rtt is good below this", unit: "ms", above: 0.0 },
            Parameter {
                name: "rtt_average_below_ms",
                description: "rtt is average below this, bad from it on",
                unit: "ms",
                above: 0.0,
            },
            Parameter {
                name: "load_healthy_below",
                description: "load is healthy below this",
                unit: "load index",
                above: 1.0,
            },
            Parameter {
                name: "load_average_below",
                description: "load is average below this, bad from it on",
                unit: "load index",
                above: 1.0,
            },
        ],
        defaults: || serde_json::to_value(ThresholdConfig::default()).unwrap_or_default(),
        build: build_threshold,
    },
    Entry {
        info: PolicyInfo { name: "nearest", description: "always moves to the node with the lowest rtt" },
        parameters: &[],
        defaults: || json!({}),
        build: |_| Ok(Box::new(Nearest)),
    },
    Entry {
        info: PolicyInfo { name: "never", description: "never moves anything" },
        parameters: &[],
        defaults: || json!({}),
        build: |_| Ok(Box::new(Never)),
    },
];

fn build_threshold(parameters: Value) -> Result<Box<dyn Policy>, PolicyError> {
    let policy = || "threshold".to_owned();
    let given = parameters.to_string();
    let config: ThresholdConfig =
        serde_json::from_value(parameters).map_err(|_| PolicyError::NotAMapping { policy: policy(), given })?;
    let threshold = Threshold::new(config).map_err(|source| PolicyError::Config { policy: policy(), source })?;
    Ok(Box::new(threshold))
}

/// The policies there are.
pub fn list() -> Vec<PolicyInfo> {
    ENTRIES.iter().map(|entry| entry.info).collect()
}

/// The parameters of a policy as a JSON Schema (2020-12), with defaults; `unit` says what a number counts.
pub fn schema(name: &str) -> Result<Value, PolicyError> {
    let entry = find(name)?;
    let defaults = (entry.defaults)();
    let properties: serde_json::Map<String, Value> = entry
        .parameters
        .iter()
        .map(|p| {
            let property = json!({
                "type": "number",
                "description": p.description,
                "unit": p.unit,
                "exclusiveMinimum": p.above,
                "default": defaults[p.name],
            });
            (p.name.to_owned(), property)
        })
        .collect();
    Ok(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": entry.info.name,
        "description": entry.info.description,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    }))
}

/// Builds a policy. Parameters that are not given have their defaults; `null` and `{}` give none.
pub fn build(name: &str, parameters: &Value) -> Result<Box<dyn Policy>, PolicyError> {
    let entry = find(name)?;
    let empty = serde_json::Map::new();
    let given = match parameters {
        Value::Null => &empty,
        Value::Object(map) => map,
        other => return Err(PolicyError::NotAMapping { policy: name.into(), given: other.to_string() }),
    };
    for (key, value) in given {
        let Some(parameter) = entry.parameters.iter().find(|p| p.name == key) else {
            let known = || entry.parameters.iter().map(|p| p.name);
            return Err(PolicyError::UnknownParameter {
                policy: name.into(),
                name: key.clone(),
                did_you_mean: most_similar(key, known()),
                known: known().map(Into::into).collect(),
            });
        };
        if !value.is_number() {
            return Err(PolicyError::NotANumber {
                policy: name.into(),
                name: key.clone(),
                unit: parameter.unit.into(),
                given: value.to_string(),
            });
        }
    }
    (entry.build)(Value::Object(given.clone()))
}

fn find(name: &str) -> Result<&'static Entry, PolicyError> {
    const { &ENTRIES }.iter().find(|entry| entry.info.name == name).ok_or_else(|| {
        let known = || ENTRIES.iter().map(|entry| entry.info.name);
        PolicyError::UnknownPolicy {
            name: name.into(),
            did_you_mean: most_similar(name, known()),
            known: known().map(Into::into).collect(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, parameters: Value) -> String {
        build(name, &parameters).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn every_policy_builds_with_its_own_schemas_defaults() {
        for info in list() {
            let schema = schema(info.name).unwrap();
            let properties = schema["properties"].as_object().unwrap();
            let defaults: Value = properties.iter().map(|(name, p)| (name.clone(), p["default"].clone())).collect();
            assert!(properties.values().all(|p| p["default"].is_number()), "{}", info.name);
            assert_eq!(build(info.name, &defaults).unwrap().name(), info.name);
            let policy = build(info.name, &Value::Null).unwrap();
            assert_eq!(policy.name(), info.name);
            let in_force: Value = policy.parameters().into_iter().map(|(name, value)| (name, json!(value))).collect();
            assert_eq!(in_force, defaults, "{}", info.name);
        }
    }

    #[test]
    fn parameters_that_were_given_are_in_force() {
        let policy = build("threshold", &json!({"rtt_average_below_ms": 40})).unwrap();
        let parameters = policy.parameters();
        assert_eq!((parameters["rtt_average_below_ms"], parameters["rtt_good_below_ms"]), (40.0, 15.0));
    }

    #[test]
    fn the_schema_names_every_parameter_of_threshold() {
        let config = serde_json::to_value(ThresholdConfig::default()).unwrap();
        let schema = schema("threshold").unwrap();
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&schema["properties"]), names(&config));
    }

    #[test]
    fn a_wrong_request_is_told_what_would_be_right() {
        assert_eq!(
            refusal("treshold", Value::Null),
            "there is no policy \"treshold\" (did you mean \"threshold\"?); the policies are threshold, nearest, never"
        );
        assert_eq!(
            refusal("magic", Value::Null),
            "there is no policy \"magic\"; the policies are threshold, nearest, never"
        );
        assert_eq!(
            refusal("threshold", json!({"rtt_good_ms": 3})),
            "policy \"threshold\" has no parameter \"rtt_good_ms\" (did you mean \"rtt_good_below_ms\"?); its \
             parameters are rtt_good_below_ms, rtt_average_below_ms, load_healthy_below, load_average_below"
        );
        assert_eq!(refusal("never", json!({"rtt": 3})), "policy \"never\" has no parameter \"rtt\"; it has none");
        assert_eq!(
            refusal("threshold", json!({"rtt_good_below_ms": "15ms"})),
            "parameter \"rtt_good_below_ms\" of policy \"threshold\" is a number (ms), not \"15ms\""
        );
        assert_eq!(
            refusal("threshold", json!([15])),
            "the parameters of policy \"threshold\" are a mapping from names to numbers, not [15]"
        );
    }

    #[test]
    fn bands_that_do_not_fit_together_are_refused() {
        let error = build("threshold", &json!({"rtt_average_below_ms": 10})).map(|_| ()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("must be above rtt_good_below_ms"), "{source}");
    }
}
