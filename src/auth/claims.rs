//! The claims of a JSON web token, as etcd's library reads them: every number is a float, and a time counts
//! in whole seconds.

use serde_json::{Map, Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds between the year 1, with which Go's times begin, and 1970.
const YEAR_1_TO_1970: i64 = 62_135_596_800;
/// 2^63, the first float that is too large for an `i64`.
const TOO_LARGE: f64 = 9_223_372_036_854_775_808.0;

/// The claims of a valid token that etcd uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claims {
    /// Name of the user.
    pub(super) username: String,
    /// The auth revision at which the token was issued.
    pub(super) revision: u64,
}

impl Claims {
    /// Reads a payload whose signature is valid; `None` if it is not valid at `now`.
    pub(super) fn read(payload: &[u8], now: SystemTime) -> Option<Claims> {
        // Of a claim that comes twice the last one counts. An invalid character becomes a replacement
        // character.
        let claims: Map<String, Value> = serde_json::from_str(&String::from_utf8_lossy(payload)).ok()?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let now = now.wrapping_add(YEAR_1_TO_1970);
        // A token is valid up to `exp` and not at it.
        if time(&claims, "exp").ok()?.is_some_and(|end| now >= end) {
            return None;
        }
        if time(&claims, "nbf").ok()?.is_some_and(|begin| now < begin) {
            return None;
        }
        let username = claims.get("username")?.as_str()?.to_owned();
        Some(Claims { username, revision: unsigned(number(claims.get("revision")?)?) })
    }
}

/// A number of any form; `None` for anything else.
fn number(value: &Value) -> Option<f64> {
    value.is_number().then(|| value.as_f64()).flatten()
}

/// A claim that must be a number is something else.
#[derive(Debug)]
struct NoNumber;

/// A time in seconds since the year 1; none without the claim, and for zero. A time that is out of range
/// wraps round, so that it lies in the past.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, NoNumber> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = number(value).ok_or(NoNumber)?;
    Ok((seconds != 0.0).then(|| signed(seconds.floor()).wrapping_add(YEAR_1_TO_1970)))
}

/// Go's `int64(f)` on the machines that etcd supports best: the least number for a float that is out of
/// range.
fn signed(float: f64) -> i64 {
    if (-TOO_LARGE..TOO_LARGE).contains(&float) { float as i64 } else { i64::MIN }
}

/// Go's `uint64(f)` there: a negative float wraps round. One that is too large is no revision in any case.
fn unsigned(float: f64) -> u64 {
    if float < TOO_LARGE { signed(float) as u64 } else { float as u64 }
}
