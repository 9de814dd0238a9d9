//! What the repository does to itself. Not shipped.
//!
//! ```text
//!   cargo run -p xtask -- generate GODWIT            write the generated files
//!   cargo run -p xtask -- generate GODWIT --check    fail where one differs from what would be written
//! ```
//! `GODWIT` is the program that the files are made from, e.g. `target/debug/godwit`; `make generate` and `make test` call
//! it right. The generated files:
//! - `docs/reference/cli.md`: what every command says to `--help`;
//! - `docs/reference/policies/NAME.json`: what `godwit policy schema NAME` says.
//!
//! Man pages and completions are made by `godwit man` and `godwit completions` where they are wanted, and not kept here.

mod reference;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A file of the repository, by its path from the root, and what belongs into it.
type Generated = (PathBuf, String);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["generate", godwit] => reference::generate(Path::new(godwit)).and_then(|files| write(&files)),
        ["generate", godwit, "--check"] => reference::generate(Path::new(godwit)).and_then(|files| check(&files)),
        _ => Err("usage: xtask generate GODWIT [--check]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn write(files: &[Generated]) -> Result<(), String> {
    for (path, text) in files {
        let file = root().join(path);
        if std::fs::read_to_string(&file).is_ok_and(|there| there == *text) {
            continue;
        }
        let folder = file.parent().expect("a generated file lies in a folder");
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&file, text))
            .map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
        println!("{} written", path.display());
    }
    Ok(())
}

fn check(files: &[Generated]) -> Result<(), String> {
    let mut old = Vec::new();
    for (path, text) in files {
        let there = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        if there != *text {
            let line = there.lines().zip(text.lines()).take_while(|(a, b)| a == b).count();
            let wanted = text.lines().nth(line).unwrap_or("the end of the file");
            old.push(format!("  {}:{}: should be: {wanted}", path.display(), line + 1));
        }
    }
    if old.is_empty() {
        return Ok(());
    }
    Err(format!("generated files are not up to date; run `make generate` and commit them:\n{}", old.join("\n")))
}
