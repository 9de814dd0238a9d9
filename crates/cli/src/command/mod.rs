//! One command a file.

pub mod bench;
pub mod checkpoint;
pub mod demo;
pub mod doctor;
pub mod inside;
pub mod inspect;
pub mod journal;
pub mod migrate;
pub mod policy;
pub mod reference;
pub mod restore;
pub mod run;
pub mod scenario;
pub mod status;
pub mod testbed;

use std::io::Read;
use std::path::Path;

use godwit_scenario::Scenario;

use crate::failure::{Fail, Result};

/// A file, or standard input for `-`; with the name that messages call it by.
fn read_input(path: &Path) -> Result<(String, String)> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).bad_input_in("standard input cannot be read")?;
        return Ok(("<stdin>".into(), text));
    }
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).bad_input_in(format!("{name} cannot be read"))?;
    Ok((name, text))
}

fn read_scenario(path: &Path) -> Result<Scenario> {
    let (name, text) = read_input(path)?;
    let scenario = Scenario::parse(&text, &name).bad_input()?;
    // The policy checks its own parameters; its complaint is shown at their place in the file.
    if let Err(error) = godwit_policy::build(&scenario.policy.name, &scenario.policy.params) {
        let error = anyhow::Error::from(error);
        let what = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
        return Err(Scenario::error_at(&text, &name, &["policy"], &what, None)).bad_input();
    }
    Ok(scenario)
}

/// Parameters as the policies take them.
fn parameters(set: &[(String, f64)]) -> serde_json::Value {
    set.iter().map(|(name, value)| (name.clone(), serde_json::json!(value))).collect::<serde_json::Map<_, _>>().into()
}
