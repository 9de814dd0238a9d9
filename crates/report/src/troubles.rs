//! What can go wrong with a client besides breaks, losses and disorder. It never should, and where it did not, no page
//! speaks of it.

use godwit_model::ClientSummary;

use crate::words::plural;

/// A kind of trouble.
pub(crate) struct Trouble {
    /// How often it happened to a client.
    pub(crate) count: fn(&ClientSummary) -> u64,
    /// The head of its column.
    pub(crate) column: &'static str,
    /// "1 restart"
    one: &'static str,
    /// " of the service"
    rest: &'static str,
}

const ALL: [Trouble; 4] = [
    Trouble { count: |c| c.duplicated, column: "surplus answers", one: "surplus answer", rest: "" },
    Trouble { count: |c| c.restarts, column: "restarts", one: "restart", rest: " of the service" },
    Trouble { count: |c| c.rewinds, column: "went back", one: "return", rest: " to an older state" },
    Trouble { count: |c| c.memory_bad, column: "bad pages", one: "page", rest: " of memory lost or stale" },
];

/// The kinds that happened to any of the clients.
pub(crate) fn seen_by(clients: &[ClientSummary]) -> impl Iterator<Item = &'static Trouble> {
    const { &ALL }.iter().filter(|trouble| clients.iter().any(|client| (trouble.count)(client) > 0))
}

/// Each in a few words: "1 restart of the service".
pub(crate) fn in_words(clients: &[ClientSummary]) -> Vec<String> {
    let sum = |trouble: &Trouble| clients.iter().map(trouble.count).fold(0, u64::saturating_add);
    seen_by(clients).map(|trouble| plural(sum(trouble), trouble.one) + trouble.rest).collect()
}
