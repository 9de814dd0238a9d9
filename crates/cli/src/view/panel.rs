//! The live panel at the foot of a terminal; lines scroll above it.

use std::io::{self, Stderr, Write};

use godwit_testbed::{Live, LiveNode, LiveWorkload};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::{cursor, execute};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Table, Widget, Wrap};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

/// Rows of the panel: frame, bar, head, up to so many nodes, what is decided, the client.
const NODES: u16 = 6;
const HEIGHT: u16 = NODES + 9;
/// The bars' full widths, in cells, stand for these.
const BAR: usize = 16;
const FULL_RTT_MS: f64 = 64.0;
const FULL_LOAD: f64 = 12.0;

/// See the module. Needs no raw mode, so that ^C is an ordinary signal.
pub struct Panel {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    open: bool,
}

impl Panel {
    /// Makes room at the foot of the terminal.
    pub fn open() -> io::Result<Self> {
        let options = TerminalOptions { viewport: Viewport::Inline(HEIGHT) };
        let terminal = Terminal::with_options(CrosstermBackend::new(io::stderr()), options)?;
        Ok(Self { terminal, open: true })
    }

    /// A line above the panel.
    pub fn say(&mut self, text: &str) {
        let width = usize::from(self.terminal.size().map_or(80, |size| size.width)).max(20);
        let height = u16::try_from(text.chars().count().div_ceil(width)).unwrap_or(u16::MAX).clamp(1, 8);
        let said = self.terminal.insert_before(height, |buffer| {
            Paragraph::new(text).wrap(Wrap { trim: false }).render(buffer.area, buffer);
        });
        if said.is_err() {
            eprintln!("{text}");
        }
    }

    /// Draws the state.
    pub fn draw(&mut self, live: &Live) {
        if self.open {
            // A terminal that cannot be drawn upon is no reason to end the run.
            let _ = self.terminal.draw(|frame| panel(frame, live));
        }
    }

    /// Clears the panel away and gives the cursor back.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.open, false) {
            let _ = self.terminal.clear();
            let _ = execute!(io::stderr(), cursor::Show);
            let _ = io::stderr().flush();
        }
    }
}

impl Drop for Panel {
    fn drop(&mut self) {
        self.close();
    }
}

fn panel(frame: &mut Frame<'_>, live: &Live) {
    let title = format!(" {} · policy {} · testbed {} ", live.scenario, live.policy, live.testbed);
    let block = Block::bordered().title(title);
    let inside = block.inner(frame.area());
    frame.render_widget(block, frame.area());
    let [bar, table, decided, client] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(NODES + 1),
        Constraint::Length(3),
        Constraint::Min(1),
    ])
    .areas(inside);
    progress(frame, bar, live);
    nodes(frame, table, live);
    frame.render_widget(Paragraph::new(decisions(live)).wrap(Wrap { trim: true }), decided);
    frame.render_widget(Paragraph::new(clients(live)), client);
}

fn progress(frame: &mut Frame<'_>, area: Rect, live: &Live) {
    let Some(duration) = live.duration_s.filter(|d| *d > 0.0) else {
        frame.render_widget(Paragraph::new(format!("{:.0} s", live.at.secs())), area);
        return;
    };
    let at = live.at.secs().min(duration);
    let gauge = Gauge::default()
        .gauge_style(Style::new().fg(Color::Blue))
        .ratio((at / duration).clamp(0.0, 1.0))
        .label(format!("{at:.0} of {duration:.0} s, {} times as fast", live.speed));
    frame.render_widget(gauge, area);
}

fn nodes(frame: &mut Frame<'_>, area: Rect, live: &Live) {
    let rows = live.nodes.iter().take(usize::from(NODES)).map(|node| {
        let serves: Vec<&str> =
            live.workloads.iter().filter(|w| w.node == node.name).map(|w| w.name.as_str()).collect();
        let comes = live.workloads.iter().filter_map(|w| w.migrating.as_ref()).find(|(to, _)| to == &node.name);
        let style = if serves.is_empty() { Style::new() } else { Style::new().add_modifier(Modifier::BOLD) };
        let role = match (serves.is_empty(), comes) {
            (false, _) => format!("● {}", serves.join(", ")),
            (true, Some((_, phase))) => format!("◌ {phase}"),
            (true, None) => String::new(),
        };
        Row::new([Cell::from(node.name.as_str()), rtt(node), load(node), Cell::from(role)]).style(style)
    });
    let widths = [Constraint::Length(12), Constraint::Length(27), Constraint::Length(25), Constraint::Min(10)];
    let head = Row::new(["node", "rtt", "load", "serves"]).style(Style::new().fg(Color::DarkGray));
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

/// The farthest user's.
fn rtt(node: &LiveNode) -> Cell<'static> {
    match node.rtt_ms.values().map(|rtt| rtt.ms()).max_by(f64::total_cmp) {
        None => Cell::from("no answer"),
        Some(ms) => bar(format!("{ms:5.1} ms "), ms / FULL_RTT_MS, band(ms, 15.0, 26.0)),
    }
}

fn load(node: &LiveNode) -> Cell<'static> {
    match node.load {
        None => Cell::from("-"),
        Some(load) => bar(format!("{:5.2} ", load.index()), load.index() / FULL_LOAD, band(load.index(), 3.0, 8.0)),
    }
}

fn bar(label: String, fraction: f64, color: Color) -> Cell<'static> {
    let cells = (fraction.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    let line = Line::from(vec![Span::raw(label), Span::styled("█".repeat(cells), Style::new().fg(color))]);
    Cell::from(line)
}

/// The default bands' colours; the policy decides by its own.
fn band(value: f64, good: f64, average: f64) -> Color {
    match value {
        v if v < good => Color::Green,
        v if v < average => Color::Yellow,
        _ => Color::Red,
    }
}

fn decisions(live: &Live) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for workload in &live.workloads {
        let text = match (&workload.migrating, &workload.decision) {
            (Some((to, phase)), _) => format!("{} moves to {to}: {phase}{}", workload.name, sent(workload)),
            (None, Some((decision, verdict))) => format!("{}: {verdict}: {}", workload.name, decision.reason),
            (None, None) => continue,
        };
        lines.push(Line::from(text));
    }
    lines
}

/// How much of a migration is sent, where that is known.
pub fn sent(workload: &LiveWorkload) -> String {
    let Some(sent) = workload.sent.filter(|sent| sent.expected.0 > 0) else { return String::new() };
    let rounds = if sent.rounds > 0 { format!(", {} round(s)", sent.rounds) } else { String::new() };
    format!("{rounds}, {} of {} sent", sent.bytes, sent.expected)
}

fn clients(live: &Live) -> Vec<Line<'static>> {
    let describe = |c: &godwit_testbed::LiveClient| {
        Line::from(format!(
            "{} → {}: silent for {:.0} ms, worst gap {:.0} ms, {} answers, {} broken",
            c.user, c.workload, c.silence_ms, c.worst_gap_ms, c.received, c.broken
        ))
    };
    live.clients.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use godwit_model::{Bytes, Load, NodeName, Rtt, Time, UserName, WorkloadName};
    use godwit_testbed::{LiveClient, LiveSent};
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn the_panel_tells_who_serves_and_what_the_client_sees() {
        let node = |name: &str, ms, index| LiveNode {
            name: NodeName::new(name).unwrap(),
            agent: true,
            load: Load::from_index(index),
            rtt_ms: BTreeMap::from([(UserName::new("car").unwrap(), Rtt::from_ms(ms).unwrap())]),
        };
        let live = Live {
            testbed: "demo".into(),
            scenario: "car".into(),
            policy: "threshold".into(),
            at: Time::from_secs(60.0),
            duration_s: Some(240.0),
            speed: 2.0,
            nodes: vec![node("edge1", 30.0, 1.2), node("edge2", 3.0, 9.0)],
            workloads: vec![LiveWorkload {
                name: WorkloadName::new("video").unwrap(),
                node: NodeName::new("edge2").unwrap(),
                service: "10.0.0.1:5555".into(),
                service_v6: None,
                running: true,
                migrating: None,
                sent: None,
                decision: None,
            }],
            clients: vec![LiveClient {
                user: UserName::new("car").unwrap(),
                workload: WorkloadName::new("video").unwrap(),
                silence_ms: 4.0,
                worst_gap_ms: 120.0,
                received: 1000,
                broken: 0,
                harm: 0,
            }],
        };
        let mut terminal = Terminal::new(TestBackend::new(90, HEIGHT)).unwrap();
        terminal.draw(|frame| panel(frame, &live)).unwrap();
        let shown = terminal.backend().to_string();
        let moving = LiveWorkload {
            migrating: Some((NodeName::new("edge1").unwrap(), godwit_model::Phase::PreCopy)),
            sent: Some(LiveSent { rounds: 2, bytes: Bytes(3 << 20), expected: Bytes(4 << 20) }),
            ..live.workloads[0].clone()
        };
        assert_eq!(sent(&moving), ", 2 round(s), 3MiB of 4MiB sent");
        for expected in ["60 of 240 s", "● video", "30.0 ms", "worst gap 120 ms, 1000 answers, 0 broken"] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
    }
}
