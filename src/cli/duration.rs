//! Durations as Go writes them: `5s`, `1m30s`, `100ms`, `1.5h`.

use std::time::Duration;

/// A duration given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

const UNITS: [(&str, f64); 7] =
    [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];

/// Reads a duration. Negative ones make no sense anywhere here.
pub(crate) fn parse(text: &str) -> Result<GoDuration, String> {
    let wrong = || "expected a duration with its unit, such as 5s, 100ms or 1m30s".to_owned();
    if text == "0" {
        return Ok(GoDuration(Duration::ZERO));
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = &rest[digits..];
        let (name, factor) = UNITS.iter().find(|(name, _)| unit.starts_with(name)).ok_or_else(wrong)?;
        seconds += number * factor;
        rest = &unit[name.len()..];
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map(GoDuration).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (text, milliseconds) in
            [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0", 0)]
        {
            assert_eq!(parse(text), Ok(GoDuration(Duration::from_millis(milliseconds))), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "5", "s", "-5s", "5 s", "1x", "5s3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
