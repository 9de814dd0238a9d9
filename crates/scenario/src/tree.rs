//! The YAML text as a tree whose every node knows its place, so that all problems can be collected before any is told.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Location, Spanned};

use crate::problem::{Place, Problem};

/// The longest text that is read.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    pub(crate) at: Place,
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
}

/// A key of a map and where it stands. Keys may be there twice: that is found later, with a better message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) at: Place,
    pub(crate) name: String,
}

impl Tree {
    /// Reads a text of one YAML document.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_BYTES {
            let what = format!("the file has {} bytes, more than the {MAX_BYTES} that a scenario may have", text.len());
            return Err(Problem::new(Place::default(), what));
        }
        let options = serde_saphyr::options! {
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            with_snippet: false,
            budget: serde_saphyr::budget! {
                max_depth: 32,
                max_nodes: 100_000,
                max_aliases: 1_000,
                max_anchors: 1_000,
            },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let at = error.location().map(place).unwrap_or_default();
            let help = "the text must be YAML: look at brackets, quotes and indentation, here and in the lines before";
            Problem::new(at, says(error.without_snippet())).help(help)
        })
    }

    /// A scalar as it was written, as far as that is known: for messages and for quantities.
    pub(crate) fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Text(value) => Some(value.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What it is, for "must be …, not …".
    pub(crate) fn is_a(&self) -> String {
        match &self.value {
            Value::Null => "empty".into(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
            Value::Text(text) => format!("{text:?}"),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => self.scalar().unwrap_or_default(),
        }
    }

    /// The entry of a map.
    pub(crate) fn get(&self, key: &str) -> Option<(&Key, &Self)> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.name == key).map(|(k, v)| (k, v)),
            _ => None,
        }
    }
}

/// The parser's message without the place at its end, which is told in front.
fn says(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.rfind(" at line ").map_or(first, |end| &first[..end]).trim_end_matches(',').to_owned()
}

fn place(at: Location) -> Place {
    let span = at.span();
    Place {
        line: usize::try_from(at.line()).unwrap_or(0),
        column: usize::try_from(at.column()).unwrap_or(0),
        width: usize::try_from(span.len()).unwrap_or(0),
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: place(spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if entries.len() >= 10_000 {
                return Err(A::Error::custom("a map with more than 10000 entries"));
            }
            entries.push((Key { at: place(key.referenced), name: key.value }, map.next_value()?));
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_know_their_places() {
        let tree = Tree::parse("a: 1\nb: { c: [x, 6s] }\nb: 2\n").unwrap();
        let (key, b) = tree.get("b").unwrap();
        assert_eq!((key.at.line, key.at.column, key.at.width), (2, 1, 1));
        let (_, c) = b.get("c").unwrap();
        let Value::List(items) = &c.value else { panic!("{c:?}") };
        assert_eq!((items[1].at.line, items[1].at.column, items[1].at.width), (2, 13, 2));
        assert_eq!(items[1].value, Value::Text("6s".into()));
        let Value::Map(entries) = &tree.value else { panic!() };
        assert_eq!(entries.len(), 3, "a key that is there twice is kept twice");
    }

    #[test]
    fn an_alias_is_reported_where_it_is_used() {
        let tree = Tree::parse("a: &x 6s\nb: *x\n").unwrap();
        assert_eq!(tree.get("b").unwrap().1.at.line, 2);
    }

    #[test]
    fn a_billion_laughs_are_refused() {
        let mut text = String::from("a: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..10 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            text += &format!("b{i}: &a{i} [{refs}]\n");
        }
        assert!(Tree::parse(&text).is_err());
        assert!(Tree::parse(&"[".repeat(100_000)).is_err());
        assert!(Tree::parse(&"#".repeat(MAX_BYTES + 1)).is_err());
    }
}
