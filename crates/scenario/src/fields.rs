//! Takes a map of the tree apart, field by field, and notes what is wrong with each.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use godwit_model::{Bandwidth, Bytes};

use crate::problem::{Place, Problem};
use crate::tree::{Tree, Value};
use crate::units;

/// Problems so far. Shared by all readers of one file.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(crate) fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// A map whose fields are read one by one.
pub(crate) struct Fields<'a> {
    tree: &'a Tree,
    /// What the map is, with an article: "a node".
    what: &'static str,
    problems: &'a Problems,
}

impl<'a> Fields<'a> {
    /// Checks that `tree` is a map of some of `known`, each at most once.
    pub(crate) fn open(
        tree: &'a Tree,
        what: &'static str,
        known: &[&str],
        problems: &'a Problems,
    ) -> Option<Fields<'a>> {
        let Value::Map(entries) = &tree.value else {
            let problem = Problem::new(tree.at, format!("{what} must be a map, not {}", tree.is_a()));
            problems.add(problem.help(format!("its fields are {}", known.join(", "))));
            return None;
        };
        for (index, (key, _)) in entries.iter().enumerate() {
            if let Some((first, _)) = entries[..index].iter().find(|(other, _)| other.name == key.name) {
                let problem = Problem::new(key.at, format!("`{}` is there twice", key.name));
                problems.add(problem.help(format!("the first one is in line {}; remove one of them", first.at.line)));
            } else if !known.contains(&key.name.as_str()) {
                let problem = Problem::new(key.at, format!("{what} has no field `{}`", key.name));
                let guess = nearest(&key.name, known.iter().copied()).map(|near| format!("did you mean `{near}`? "));
                problems.add(problem.help(format!("{}its fields are {}", guess.unwrap_or_default(), known.join(", "))));
            }
        }
        Some(Fields { tree, what, problems })
    }

    /// A field that may be left out.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Tree> {
        let (key, tree) = self.tree.get(field)?;
        if tree.value == Value::Null {
            let problem = Problem::new(key.at, format!("`{field}` has no value"));
            self.problems.add(problem.help("give it one, or remove the line"));
            return None;
        }
        Some(tree)
    }

    /// A field that must be there. `such_as`: an example of it.
    pub(crate) fn need(&self, field: &str, such_as: &str) -> Option<&'a Tree> {
        if self.tree.get(field).is_none() {
            let problem = Problem::new(Place { width: 1, ..self.tree.at }, format!("{} needs `{field}`", self.what));
            self.problems.add(problem.help(format!("add it, for example `{such_as}`")));
        }
        self.get(field)
    }

    /// A list, or nothing at all.
    pub(crate) fn list(&self, field: &str) -> &'a [Tree] {
        match self.get(field).map(|tree| (tree, &tree.value)) {
            Some((_, Value::List(items))) => items,
            Some((tree, _)) => {
                let what = format!("`{field}` must be a list, not {}", tree.is_a());
                self.problems.add(Problem::new(tree.at, what).help(format!("write `{field}: [ … ]`")));
                &[]
            }
            None => &[],
        }
    }

    pub(crate) fn text(&self, field: &str) -> Option<String> {
        let tree = self.get(field)?;
        text_of(tree, field, self.problems)
    }

    pub(crate) fn duration(&self, field: &str) -> Option<Duration> {
        self.quantity(field, "duration", "write a number and a unit, such as 6s, 2m, 1m30s or 150ms", units::duration)
    }

    /// A duration of at least `least`.
    pub(crate) fn duration_from(&self, field: &str, least: Duration) -> Option<Duration> {
        let duration = self.duration(field)?;
        if duration < least {
            let what = format!("`{field}` is too short: {}", units::say(duration));
            let help = format!("make it {} or more", units::say(least));
            self.problems.add(Problem::new(self.get(field)?.at, what).help(help));
            return None;
        }
        Some(duration)
    }

    pub(crate) fn signed_ms(&self, field: &str) -> Option<f64> {
        self.quantity(field, "round-trip time", "write a number and a unit, such as 3ms or -3ms", units::signed_ms)
    }

    pub(crate) fn bytes(&self, field: &str) -> Option<Bytes> {
        self.quantity(field, "size", "write a number and a unit, such as 16MiB, 1GiB or 250kB", |text| {
            if text.parse::<f64>().is_ok_and(|number| number != 0.0) { None } else { text.parse().ok() }
        })
    }

    pub(crate) fn rate(&self, field: &str) -> Option<Bytes> {
        self.quantity(field, "rate", "write a size a second, such as 4MiB/s", units::rate)
    }

    pub(crate) fn bandwidth(&self, field: &str) -> Option<Bandwidth> {
        self.quantity(field, "bandwidth", "write a size a second, more than zero, such as 100Mbit or 50MiB/s", |text| {
            text.parse().ok()
        })
    }

    pub(crate) fn fraction(&self, field: &str) -> Option<f64> {
        self.quantity(field, "fraction", "write 30% or 0.3, between 0% and 100%", units::fraction)
    }

    /// One of a few words.
    pub(crate) fn one_of<T: Copy>(&self, field: &str, words: &[(&str, T)]) -> Option<T> {
        let tree = self.get(field)?;
        let given = tree.scalar();
        let found = words.iter().find(|(word, _)| given.as_deref() == Some(*word));
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let guess = given.as_deref().and_then(|given| nearest(given, known.iter().copied()));
            let guess = guess.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            let what = match given {
                Some(_) => format!("there is no {field} {}", tree.is_a()),
                None => format!("`{field}` must be a word, not {}", tree.is_a()),
            };
            let problem = Problem::new(tree.at, what);
            self.problems.add(problem.help(format!("{guess}write {}", known.join(" or "))));
        }
        found.map(|(_, value)| *value)
    }

    /// A number within `range`.
    pub(crate) fn number(&self, field: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let help = format!("write a number from {} to {}", range.start(), range.end());
        self.quantity(field, "number in its range", &help, |text| text.parse().ok().filter(|n| range.contains(n)))
    }

    /// A whole number within `range`.
    pub(crate) fn whole<T>(&self, field: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let help = format!("write a whole number from {} to {}", range.start(), range.end());
        self.quantity(field, "number in its range", &help, |text| text.parse().ok().filter(|n| range.contains(n)))
    }

    fn quantity<T>(&self, field: &str, kind: &str, help: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let tree = self.get(field)?;
        let parsed = tree.scalar().and_then(|text| parse(&text));
        if parsed.is_none() {
            let problem = Problem::new(tree.at, format!("`{field}` is no {kind}: {}", tree.is_a()));
            self.problems.add(problem.help(help));
        }
        parsed
    }
}

/// A text; numbers are taken as they are read.
pub(crate) fn text_of(tree: &Tree, field: &str, problems: &Problems) -> Option<String> {
    let text = tree.scalar();
    if text.is_none() {
        problems.add(Problem::new(tree.at, format!("`{field}` must be a text, not {}", tree.is_a())));
    }
    text
}

/// The candidate that a person probably meant.
pub(crate) fn nearest<'c>(given: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let given: String = given.chars().take(64).collect::<String>().to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&given, &candidate.to_lowercase()), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near_or_none() {
        let words = ["steps", "every", "by"];
        assert_eq!(nearest("step", words.into_iter()), Some("steps"));
        assert_eq!(nearest("Evrey", words.into_iter()), Some("every"));
        assert_eq!(nearest("banana", words.into_iter()), None);
    }
}
