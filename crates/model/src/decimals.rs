//! How many decimals a figure has in JSON. A clock's nanoseconds are noise in a file that people read: milliseconds
//! are printed to the microsecond. In memory the figure stays as it was measured.

use serde::{Serialize, Serializer};

/// To `decimals` of them; as it is where a float has none to spare, and where it is no figure.
fn rounded(value: f64, decimals: i32) -> f64 {
    let factor = 10f64.powi(decimals);
    if value.abs() < 1e9 { (value * factor).round() / factor } else { value }
}

/// `serialize_with` for milliseconds.
pub(crate) fn ms<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    rounded(*value, 3).serialize(serializer)
}

/// `serialize_with` for milliseconds that may be missing.
pub(crate) fn maybe_ms<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| rounded(value, 3)).serialize(serializer)
}

/// `serialize_with` for seconds and for fractions.
pub(crate) fn six<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    rounded(*value, 6).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_left_out_and_figures_stay() {
        assert_eq!(
            [29.288672000000002, 0.35650299999999996, 0.0, 7.0, 0.0004, -1.2344].map(|ms| rounded(ms, 3)),
            [29.289, 0.357, 0.0, 7.0, 0.0, -1.234]
        );
        assert_eq!(rounded(f64::MAX, 3), f64::MAX);
        assert!(rounded(f64::NAN, 3).is_nan());
    }
}
