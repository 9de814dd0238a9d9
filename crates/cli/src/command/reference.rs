//! `godwit completions` and `godwit man`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::Cli;
use crate::failure::{Fail, Result};

pub fn completions(shell: Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(&Cli::command()), "godwit", &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}

/// Without what is hidden, which bash would be told of all the same.
fn shown(whole: &Command) -> Command {
    let commands = whole.get_subcommands().filter(|sub| !sub.is_hide_set());
    let version = whole.get_version().unwrap_or_default().to_owned();
    Command::new("godwit")
        .version(version)
        .propagate_version(true)
        .disable_help_subcommand(true)
        .args(whole.get_arguments())
        .subcommands(commands)
}

pub fn man(dir: &Path) -> Result {
    fs::create_dir_all(dir).failed_to(format!("{} cannot be made", dir.display()))?;
    let mut root = Cli::command();
    root.build();
    let pages = page(&root, "godwit", dir)?;
    println!("{pages} pages in {}; read one with: man {}/godwit.1", dir.display(), dir.display());
    Ok(ExitCode::SUCCESS)
}

fn page(command: &Command, name: &str, dir: &Path) -> Result<usize> {
    let path = dir.join(format!("{name}.1"));
    let mut text = Vec::new();
    let titled = command.clone().name(name.to_owned());
    Man::new(titled).render(&mut text).failed_to(format!("{} cannot be made", path.display()))?;
    fs::write(&path, text).failed_to(format!("{} cannot be written", path.display()))?;
    let mut pages = 1;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        pages += page(sub, &format!("{name}-{}", sub.get_name()), dir)?;
    }
    Ok(pages)
}
