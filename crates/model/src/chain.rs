//! An error with its causes.

use std::error::Error;

/// The whole chain in one line: for a log, a record or a peer.
///
/// ```
/// let error = std::io::Error::other("no room");
/// assert_eq!(godwit_model::chain(&error), "no room");
/// ```
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
