//! Colours. Those of nodes are of Okabe and Ito's palette (jfly.uni-koeln.de/color), which people with any common form
//! of colour blindness can tell apart; from the seventh node on they come again with broken lines.

/// A colour by day and by night, and the colour of text on it by day and by night.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Colour {
    pub(crate) light: &'static str,
    pub(crate) dark: &'static str,
    pub(crate) ink_light: &'static str,
    pub(crate) ink_dark: &'static str,
}

const fn colour(light: &'static str, dark: &'static str, ink_light: &'static str, ink_dark: &'static str) -> Colour {
    Colour { light, dark, ink_light, ink_dark }
}

/// Nodes, by their number.
pub(crate) const NODES: [Colour; 6] = [
    colour("#0072b2", "#4fa3d9", "#ffffff", "#0b1014"),
    colour("#d55e00", "#f08337", "#ffffff", "#0b1014"),
    colour("#009e73", "#2fc498", "#ffffff", "#0b1014"),
    colour("#b35f92", "#dd93bd", "#ffffff", "#0b1014"),
    colour("#c98200", "#e9b23b", "#ffffff", "#0b1014"),
    colour("#3a95c9", "#8fd0f5", "#ffffff", "#0b1014"),
];

/// Line patterns, by the round through [`NODES`].
const DASHES: [&str; 4] = ["none", "7 3", "2 3", "9 3 2 3"];

/// What is not a node, with its name as a class.
pub(crate) const ROLES: [(&str, Colour); 10] = [
    ("ink", colour("#1c2126", "#e4e8ec", "#ffffff", "#14181c")),
    ("dim", colour("#5b6570", "#9aa5b1", "#ffffff", "#14181c")),
    ("grid", colour("#e1e5e9", "#2e353c", "#1c2126", "#e4e8ec")),
    ("paper", colour("#ffffff", "#14181c", "#1c2126", "#e4e8ec")),
    ("bad", colour("#b3261e", "#ff8a80", "#ffffff", "#14181c")),
    ("p-freeze", colour("#8a939c", "#8a939c", "#ffffff", "#14181c")),
    ("p-dump", colour("#56b4e9", "#56b4e9", "#14181c", "#14181c")),
    ("p-transfer", colour("#e69f00", "#e69f00", "#14181c", "#14181c")),
    ("p-restore", colour("#009e73", "#2fc498", "#ffffff", "#14181c")),
    ("p-switch", colour("#cc79a7", "#cc79a7", "#14181c", "#14181c")),
];

/// The colour of a node.
pub(crate) fn node(index: usize) -> Colour {
    NODES[index % NODES.len()]
}

/// The class of a node's colour.
pub(crate) fn node_class(index: usize) -> String {
    format!("n{}", index % NODES.len())
}

/// The pattern of a node's line.
pub(crate) fn dashes(index: usize) -> &'static str {
    DASHES[(index / NODES.len()) % DASHES.len()]
}

/// The colour of a role.
pub(crate) fn role(name: &str) -> Colour {
    ROLES.iter().find(|(role, _)| *role == name).map_or(ROLES[0].1, |(_, colour)| *colour)
}

/// Style rules that give plots in a page their colours by day and by night: `f-CLASS` fills, `s-CLASS` strokes,
/// `i-CLASS` fills with the colour of text on it. They overrule the attributes that a plot has for when it is alone.
pub(crate) fn css() -> String {
    let nodes = NODES.iter().enumerate().map(|(index, colour)| (node_class(index), *colour));
    let all: Vec<(String, Colour)> = nodes.chain(ROLES.map(|(name, colour)| (name.to_owned(), colour))).collect();
    let vars = |pick: fn(&Colour) -> (&'static str, &'static str)| -> String {
        all.iter()
            .map(|(name, colour)| {
                let (fill, ink) = pick(colour);
                format!("--{name}:{fill};--i-{name}:{ink};")
            })
            .collect()
    };
    let rules: String = all
        .iter()
        .map(|(name, _)| {
            format!(".f-{name}{{fill:var(--{name})}}.s-{name}{{stroke:var(--{name})}}.i-{name}{{fill:var(--i-{name})}}.b-{name}{{background:var(--{name})}}\n")
        })
        .collect();
    let light = vars(|colour| (colour.light, colour.ink_light));
    let dark = vars(|colour| (colour.dark, colour.ink_dark));
    format!(
        ":root{{color-scheme:light dark;{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{rules}"
    )
}
