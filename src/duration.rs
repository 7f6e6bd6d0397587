//! Durations as Go writes them: `5s`, `1m30s`, `100ms`, `1.5h`.

use std::time::Duration;
use thiserror::Error;

/// Go counts nanoseconds in 63 bits.
const LONGEST_SECONDS: f64 = 9_223_372_036.0;

const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("h", 3600.0),
    ("m", 60.0),
    ("s", 1.0),
];

/// A text is not a duration. The text of the error is that of Go's `flag` package.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("parse error")]
pub(crate) struct DurationError;

/// Reads a duration. A negative one counts as zero: etcd treats it as zero where it accepts one.
///
/// # Errors
/// [`DurationError`] also for a duration that is longer than Go can hold.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(DurationError)?;
        let number: f64 = rest[..digits].parse().map_err(|_| DurationError)?;
        let unit = &rest[digits..];
        let (name, factor) = UNITS.iter().find(|(name, _)| unit.starts_with(name)).ok_or(DurationError)?;
        seconds += number * factor;
        rest = &unit[name.len()..];
    }
    if seconds > LONGEST_SECONDS {
        return Err(DurationError);
    }
    if negative {
        Ok(Duration::ZERO)
    } else {
        Duration::try_from_secs_f64(seconds).map_err(|_| DurationError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (text, milliseconds) in
            [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0", 0), ("-5s", 0)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "5", "s", "-", "5 s", "5x", "9999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
