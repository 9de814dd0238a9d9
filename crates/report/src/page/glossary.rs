//! The words that the page uses.

use maud::{Markup, html};

const WORDS: [(&str, &str); 8] = [
    (
        "node",
        "A machine at the edge of the network, near to some users and far from others, on which services can run.",
    ),
    ("rtt", "Round-trip time: how long a packet takes from the node to the user and back. What “near” means here."),
    (
        "load",
        "How busy a node is: 1/(1 − cpu) × 1/(1 − memory), with the used fractions of both. An idle node has 1; with half of \
         both in use it is 4.",
    ),
    (
        "migration",
        "A running service is stopped, its whole state (memory, open connections) is written out, sent to another node and \
         taken up there; it goes on with the next instruction. Packets that arrive meanwhile are kept for it.",
    ),
    ("freeze", "The time in a migration in which the service does not run anywhere."),
    (
        "gap",
        "The longest silence that a client saw around a migration. The figure that counts: a user feels nothing else.",
    ),
    (
        "rolled back",
        "A migration that could not be completed and was undone: the service went on where it was. A lost one is a service \
         that runs nowhere, which must never be.",
    ),
    ("bound", "The rtt above which a user counts as badly served."),
];

pub(super) fn glossary() -> Markup {
    html! {
        section {
            h2 { "Words" }
            dl { @for (word, meaning) in WORDS { div { dt { (word) } dd { (meaning) } } } }
        }
    }
}
