//! The plots.

mod bars;
mod baseline;
mod frame;
mod gaps;
mod load;
mod placement;
mod ribbon;
mod rtt;

pub(crate) use gaps::gaps;
pub(crate) use load::load;
pub(crate) use placement::placement;
pub(crate) use rtt::rtt;

use crate::svg::{Anchor, Drawing, Ink, text};

/// A drawing that says why there is none.
fn nothing(label: &str, why: &str) -> Drawing {
    Drawing { height: 34.0, label: label.to_owned(), body: text((0.0, 22.0), Anchor::Start, Ink::role("dim"), why) }
}
