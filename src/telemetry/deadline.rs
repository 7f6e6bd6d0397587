//! The time that a client gives its call: `grpc-timeout`, at most eight digits and a unit.

use http::HeaderMap;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// Number and unit.
const MAX_LENGTH: usize = 9;

/// When the call must have ended; none if its client waits for as long as it takes. Errors are in Go's words.
pub(super) fn of_call(headers: &HeaderMap) -> Result<Option<Instant>, String> {
    let Some(text) = headers.get("grpc-timeout").filter(|text| !text.is_empty()) else { return Ok(None) };
    let timeout = parse(&String::from_utf8_lossy(text.as_bytes()))?;
    // A time beyond what the clock can tell is no limit.
    Ok(Instant::now().checked_add(timeout))
}

fn parse(text: &str) -> Result<Duration, String> {
    let too = |what| format!("transport: timeout string is too {what}: {text:?}");
    match text.len() {
        0..2 => return Err(too("short")),
        2..=MAX_LENGTH => {}
        _ => return Err(too("long")),
    }
    let unrecognized = || format!("transport: timeout unit is not recognized: {text:?}");
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
    let number: u64 = number
        .parse()
        .ok()
        .filter(|_| is_number)
        .ok_or_else(|| format!("strconv.ParseUint: parsing {number:?}: invalid syntax"))?;
    Ok(unit(number * per_second))
}

/// Waits for it. Timers tell milliseconds, so that one of the past takes a moment; this does not.
pub(super) async fn passes(deadline: Instant) {
    if Instant::now() < deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

/// What a call ends with when its time is over.
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
        for (text, error) in [
            ("1", "transport: timeout string is too short: \"1\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("1x", "transport: timeout unit is not recognized: \"1x\""),
            ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("+1S", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
            ("1é", "transport: timeout unit is not recognized: \"1é\""),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()), "{text}");
        }
    }
}
