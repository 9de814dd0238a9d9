//! The policy's name and its parameters, which are the policy's business.

use serde_json::{Map, Number, Value as Json};

use crate::fields::{Problems, text_of};
use crate::problem::Problem;
use crate::scenario::PolicySpec;
use crate::tree::{Tree, Value};

/// `policy: threshold`, `policy: { name: threshold, … }`, or nothing.
pub(super) fn policy(tree: Option<&Tree>, problems: &Problems) -> Option<PolicySpec> {
    let mut params = Map::new();
    let name = match tree.map(|tree| (tree, &tree.value)) {
        None => "threshold".to_owned(),
        Some((tree, Value::Map(entries))) => {
            for (key, value) in entries {
                if key.name != "name" && params.insert(key.name.clone(), json(value, problems)?).is_some() {
                    problems.add(Problem::new(key.at, format!("`{}` is there twice", key.name)).help("remove one"));
                }
            }
            let Some((_, name)) = tree.get("name") else {
                let problem = Problem::new(tree.at, "`policy` needs `name`");
                problems.add(problem.help("add it, for example `name: threshold`"));
                return None;
            };
            text_of(name, "name", problems)?
        }
        Some((tree, _)) => text_of(tree, "policy", problems)?,
    };
    Some(PolicySpec { name, params: Json::Object(params) })
}

fn json(tree: &Tree, problems: &Problems) -> Option<Json> {
    Some(match &tree.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Text(text) => Json::String(text.clone()),
        Value::Int(value) => {
            let number = Number::from_i128(*value);
            if number.is_none() {
                problems.add(Problem::new(tree.at, format!("the number {value} is too large")));
            }
            Json::Number(number?)
        }
        Value::Float(value) => {
            let number = Number::from_f64(*value);
            if number.is_none() {
                problems.add(Problem::new(tree.at, format!("{value} is not finite")));
            }
            Json::Number(number?)
        }
        Value::List(items) => Json::Array(items.iter().map(|item| json(item, problems)).collect::<Option<_>>()?),
        Value::Map(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                if map.insert(key.name.clone(), json(value, problems)?).is_some() {
                    problems.add(Problem::new(key.at, format!("`{}` is there twice", key.name)).help("remove one"));
                }
            }
            Json::Object(map)
        }
    })
}
