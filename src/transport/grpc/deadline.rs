//! The time that a client gives its call: `grpc-timeout`, at most eight digits and a unit.

use http::HeaderMap;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;
use tonic::Status;

/// The number and its unit.
const MAX_LENGTH: usize = 9;

/// A `grpc-timeout` that is not one, in the words of grpc-go.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum TimeoutError {
    #[error("transport: timeout string is too short: {0:?}")]
    TooShort(String),
    #[error("transport: timeout string is too long: {0:?}")]
    TooLong(String),
    #[error("transport: timeout unit is not recognized: {0:?}")]
    Unit(String),
    #[error("strconv.ParseUint: parsing {0:?}: invalid syntax")]
    Number(String),
}

/// When the call must have ended; none if its client sets no limit.
///
/// # Errors
/// [`TimeoutError`].
pub(super) fn of_call(headers: &HeaderMap) -> Result<Option<Instant>, TimeoutError> {
    let Some(text) = headers.get("grpc-timeout").filter(|text| !text.is_empty()) else { return Ok(None) };
    let timeout = parse(&String::from_utf8_lossy(text.as_bytes()))?;
    // A time beyond the range of the clock is no limit.
    Ok(Instant::now().checked_add(timeout))
}

fn parse(text: &str) -> Result<Duration, TimeoutError> {
    match text.len() {
        0..2 => return Err(TimeoutError::TooShort(text.to_owned())),
        2..=MAX_LENGTH => {}
        _ => return Err(TimeoutError::TooLong(text.to_owned())),
    }
    let unrecognized = || TimeoutError::Unit(text.to_owned());
    let (number, unit) = text.split_at_checked(text.len() - 1).ok_or_else(unrecognized)?;
    let (unit, per_second): (fn(u64) -> Duration, u64) = match unit {
        "n" => (Duration::from_nanos, 1),
        "u" => (Duration::from_micros, 1),
        "m" => (Duration::from_millis, 1),
        "S" => (Duration::from_secs, 1),
        "M" => (Duration::from_secs, 60),
        "H" => (Duration::from_secs, 3600),
        _ => return Err(unrecognized()),
    };
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = number.parse::<u64>().ok().filter(|_| is_number);
    let parsed = parsed.ok_or_else(|| TimeoutError::Number(number.to_owned()))?;
    Ok(unit(parsed * per_second))
}

/// Waits for a deadline. A timer counts in milliseconds and takes a moment even for a time in the past; this
/// does not.
pub(super) async fn passes(deadline: Instant) {
    if Instant::now() < deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

/// The status of a call whose deadline has passed.
pub(super) fn exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        for (text, timeout) in [
            ("1n", Duration::from_nanos(1)),
            ("99999999H", Duration::from_hours(99_999_999)),
            ("5M", Duration::from_mins(5)),
            ("07S", Duration::from_secs(7)),
            ("250m", Duration::from_millis(250)),
            ("0u", Duration::ZERO),
        ] {
            assert_eq!(parse(text), Ok(timeout), "{text}");
        }
        for (text, expected) in [
            ("1", "transport: timeout string is too short: \"1\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("1x", "transport: timeout unit is not recognized: \"1x\""),
            ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("+1S", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
            ("1é", "transport: timeout unit is not recognized: \"1é\""),
        ] {
            let error = parse(text).expect_err("it is no timeout");
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }
}
