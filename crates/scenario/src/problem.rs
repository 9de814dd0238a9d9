//! What is wrong with a scenario file, where, and what to do.

use std::fmt;

/// A place in the text. Line 0: no particular one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// Characters to underline.
    pub(crate) width: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    at: Place,
    what: String,
    help: Option<String>,
    /// The offending line, shortened around the place, and the column in it.
    shown: Option<(String, usize)>,
}

impl Problem {
    pub(crate) fn new(at: Place, what: impl Into<String>) -> Self {
        Self { at, what: what.into(), help: None, shown: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The line, from 1; `None` for what concerns the whole file.
    pub fn line(&self) -> Option<usize> {
        (self.at.line > 0).then_some(self.at.line)
    }

    /// The column in characters, from 1; `None` for what concerns the whole file.
    pub fn column(&self) -> Option<usize> {
        (self.at.line > 0).then_some(self.at.column)
    }

    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do about it.
    pub fn what_to_do(&self) -> Option<&str> {
        self.help.as_deref()
    }

    fn show(&mut self, text: &str) {
        let Some(line) = self.at.line.checked_sub(1).and_then(|n| text.lines().nth(n)) else { return };
        self.shown = Some(window(line, self.at.column));
    }
}

/// As much of a line as fits a terminal, around a column (from 1), and that column in it.
fn window(line: &str, column: usize) -> (String, usize) {
    const WIDTH: usize = 96;
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let length = line.chars().count();
    if length <= WIDTH {
        return (line.chars().map(visible).collect::<String>().trim_end().to_owned(), column);
    }
    let from = column.saturating_sub(WIDTH / 2).min(length - WIDTH);
    let cut: String = line.chars().skip(from).take(WIDTH).map(visible).collect();
    let (before, after) = (if from > 0 { "…" } else { "" }, if from + WIDTH < length { "…" } else { "" });
    (format!("{before}{}{after}", cut.trim_end()), column - from + before.chars().count())
}

/// Everything that is wrong with a scenario file. Its text names each problem with `file:line:column`, shows the line,
/// and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Report(self))]
pub struct ScenarioError {
    file: String,
    problems: Vec<Problem>,
}

impl ScenarioError {
    /// Problems in the order of their places, each with the line it is about.
    pub(crate) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.at);
        problems.dedup();
        for problem in &mut problems {
            problem.show(text);
        }
        Self { file: file.to_owned(), problems }
    }

    /// The file's name as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Everything that is wrong, in the order of the file; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// More than so many problems are counted, not told.
const TOLD: usize = 20;

struct Report<'a>(&'a ScenarioError);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ScenarioError { file, problems } = self.0;
        for (index, problem) in problems.iter().take(TOLD).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            problem.fmt_in(file, f)?;
        }
        if let Some(more) = problems.len().checked_sub(TOLD).filter(|more| *more > 0) {
            write!(f, "\n… and {more} more")?;
        }
        Ok(())
    }
}

impl Problem {
    fn fmt_in(&self, file: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at.line {
            0 => write!(f, "{file}: {}", self.what)?,
            line => write!(f, "{file}:{line}:{}: {}", self.at.column, self.what)?,
        }
        let gutter = self.at.line.to_string().len().max(3);
        if let Some((line, column)) = &self.shown {
            let room = line.chars().count().saturating_sub(column.saturating_sub(1));
            let marks = "^".repeat(self.at.width.clamp(1, room.max(1)));
            write!(f, "\n{:>gutter$} | {line}", self.at.line)?;
            write!(f, "\n{:gutter$} | {:pad$}{marks}", "", "", pad = column.saturating_sub(1))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{:gutter$} = {help}", "")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_shown_around_its_place() {
        let line = format!("{}bad{}", "a".repeat(200), "b".repeat(200));
        let (shown, column) = window(&line, 201);
        assert!(shown.chars().count() <= 98 && shown.starts_with('…') && shown.ends_with('…'));
        assert_eq!(shown.chars().skip(column - 1).take(3).collect::<String>(), "bad");
    }

    #[test]
    fn a_terminal_cannot_be_driven_from_a_file() {
        assert_eq!(window("a\u{1b}[31mb\tc", 1).0, "a [31mb c");
    }
}
