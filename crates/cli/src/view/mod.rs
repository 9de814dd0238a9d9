//! What a person sees while a run goes on: a live panel below the lines in a terminal, the lines alone elsewhere.

mod lines;
mod moving;
mod panel;

use godwit_model::Time;
use godwit_testbed::{Live, Observer, RunEvent};

pub use moving::MoveView;
pub use panel::{Panel, sent};

use lines::{Lines, line};

/// One of the two.
pub enum View {
    /// In a terminal.
    Panel(Box<Panel>),
    /// In a file or a pipe.
    Lines(Lines),
}

/// The panel where it can be drawn, else the lines.
pub fn choose(is_terminal: bool) -> View {
    // A dumb terminal, or one that does not say where its cursor is, gets lines.
    match is_terminal.then(Panel::open) {
        Some(Ok(panel)) => View::Panel(Box::new(panel)),
        _ => View::Lines(Lines::default()),
    }
}

impl View {
    /// Something is being done.
    pub fn note(&mut self, note: &str) {
        match self {
            Self::Panel(panel) => panel.say(note),
            Self::Lines(lines) => lines.say(note),
        }
    }

    /// Gives the terminal back. Nothing is drawn after it.
    pub fn leave(&mut self) {
        if let Self::Panel(panel) = self {
            panel.close();
        }
    }
}

impl Observer for View {
    fn event(&mut self, at: Time, event: &RunEvent) {
        if let Some(text) = line(at, event) {
            self.note(&text);
        }
    }

    fn live(&mut self, live: &Live) {
        match self {
            Self::Panel(panel) => panel.draw(live),
            Self::Lines(lines) => lines.live(live),
        }
    }
}
