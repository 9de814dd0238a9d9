//! The reference pages, from what the program says about itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Generated;

const HEAD: &str = "\
<!-- Generated from the program's own --help by `make generate`; `make test` compares. -->

# The command line

What every command says to `--help`. `godwit man DIR` makes man pages of the same text, `godwit completions SHELL` a
completion script.
";

/// Every generated file.
pub(crate) fn generate(godwit: &Path) -> Result<Vec<Generated>, String> {
    let mut files = vec![(PathBuf::from("docs/reference/cli.md"), cli(godwit)?)];
    let policies = said(godwit, &["policy", "list", "--json"])?;
    let policies: serde_json::Value =
        serde_json::from_str(&policies).map_err(|e| format!("policy list --json: {e}"))?;
    for name in policies.as_array().into_iter().flatten().filter_map(|policy| policy["name"].as_str()) {
        let schema = said(godwit, &["policy", "schema", name])?;
        files.push((PathBuf::from(format!("docs/reference/policies/{name}.json")), schema));
    }
    Ok(files)
}

fn cli(godwit: &Path) -> Result<String, String> {
    let mut text = HEAD.to_owned();
    let mut waiting = vec![Vec::new()];
    while let Some(command) = waiting.pop() {
        let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
        let title = ["godwit"].iter().chain(&args).copied().collect::<Vec<_>>().join(" ");
        args.push("--help");
        let help = said(godwit, &args)?;
        text.push_str(&format!("\n## {title}\n\n```text\n{}\n```\n", help.trim_end()));
        for sub in subcommands(&help).into_iter().rev() {
            waiting.push(command.iter().cloned().chain([sub.to_owned()]).collect());
        }
    }
    Ok(text)
}

/// The names in the list under `Commands:`. They stand two columns in; what continues a description stands further in.
fn subcommands(help: &str) -> Vec<&str> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

/// What the program prints to standard output. It sees no terminal, so that the width is the same everywhere.
fn said(godwit: &Path, args: &[&str]) -> Result<String, String> {
    let what = format!("{} {}", godwit.display(), args.join(" "));
    let output = Command::new(godwit)
        .args(args)
        .env_remove("COLUMNS")
        .env_remove("GODWIT_NODE_IMAGE")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{what} does not start: {e}; build it first: cargo build -p godwit"))?;
    if !output.status.success() {
        return Err(format!("{what} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{what} prints something that is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::subcommands;

    #[test]
    fn the_list_of_commands_is_found_in_a_help_text() {
        let help = "About.\n\nCommands:\n  up    Start it, and go on\n        on a second line\n  down  End it\n\nOptions:\n  -h\n";
        assert_eq!(subcommands(help), ["up", "down"]);
        assert!(subcommands("About.\n\nOptions:\n  -h\n").is_empty());
    }
}
