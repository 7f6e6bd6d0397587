//! A request's headers to a call's metadata.
//!
//! `Grpc-Metadata-X` becomes `x`, `Authorization` stays, headers that HTTP itself knows get the prefix
//! `grpcgateway-`, by which the server recognizes a call of the gateway, and the rest is dropped.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;
use tonic::Status;

const TIMEOUT: &str = "grpc-timeout";
const METADATA_PREFIX: &str = "grpc-metadata-";

/// Headers that IANA lists as permanent, as far as etcd's gateway knows them.
const PERMANENT: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];

/// Names of gRPC and HTTP/2 themselves, which a client cannot set.
const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// The metadata of the call for a request with these headers.
///
/// # Errors
///
/// `InvalidArgument` for a timeout or a binary header that cannot be decoded.
pub(super) fn of_call(headers: &HeaderMap) -> Result<HeaderMap, Status> {
    let mut metadata = HeaderMap::new();
    metadata.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(text) = headers.get(TIMEOUT).filter(|text| !text.is_empty())
        && let Some(timeout) = timeout(text)?
    {
        metadata.insert(TIMEOUT, timeout);
    }
    for (name, value) in headers {
        let name = name.as_str();
        if name == header::AUTHORIZATION {
            metadata.append(header::AUTHORIZATION, value.clone());
        }
        let key = match name.strip_prefix(METADATA_PREFIX) {
            Some(key) if is_reserved(key) => continue,
            Some(key) => key.to_owned(),
            None if PERMANENT.contains(&name) => format!("grpcgateway-{name}"),
            None => continue,
        };
        let Ok(key) = HeaderName::try_from(key) else { continue };
        if name.ends_with("-bin") {
            check_binary(name, value)?;
        } else if !value.as_bytes().iter().all(|byte| (0x20..=0x7e).contains(byte)) {
            continue;
        }
        metadata.append(key, value.clone());
    }
    Ok(metadata)
}

fn is_reserved(key: &str) -> bool {
    key.starts_with("grpc-") || RESERVED.contains(&key)
}

fn check_binary(name: &str, value: &HeaderValue) -> Result<(), Status> {
    let bytes = value.as_bytes();
    let decoded =
        if bytes.len().is_multiple_of(4) { STANDARD.decode(bytes) } else { STANDARD_NO_PAD.decode(bytes) };
    decoded
        .map(drop)
        .map_err(|error| Status::invalid_argument(format!("invalid binary header {name}: {error}")))
}

/// The timeout in the form that calls have; none for zero. A number may have more digits here, or a minus.
fn timeout(value: &HeaderValue) -> Result<Option<HeaderValue>, Status> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let parsed = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number: i64 = number.parse().ok()?;
        let nanoseconds: i64 = match unit {
            "H" => 3_600_000_000_000,
            "M" => 60_000_000_000,
            "S" => 1_000_000_000,
            "m" => 1_000_000,
            "u" => 1_000,
            "n" => 1,
            _ => return None,
        };
        Some(number.saturating_mul(nanoseconds))
    };
    let nanoseconds =
        parsed().ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?;
    let timeout = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    Ok((nanoseconds != 0).then(|| encode(timeout)))
}

/// At most eight digits, so the unit grows with the number.
fn encode(timeout: Duration) -> HeaderValue {
    let nanoseconds = timeout.as_nanos();
    let units = [("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000), ("H", 3_600_000_000_000)];
    let (unit, nanoseconds_each) = units
        .into_iter()
        .find(|(_, each)| nanoseconds / each < 100_000_000)
        .expect("64 bits of nanoseconds are fewer hours than that");
    let text = format!("{}{unit}", nanoseconds / nanoseconds_each);
    HeaderValue::try_from(text).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::try_from(*name).expect("a legal name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a legal value"));
        }
        headers
    }

    #[test]
    fn headers_become_metadata() {
        let metadata = of_call(&headers(&[
            ("authorization", "secret"),
            ("accept", "*/*"),
            ("x-other", "dropped"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-content-type", "text/html"),
            ("grpc-metadata-grpc-encoding", "gzip"),
            ("grpc-metadata-name", "é"),
            ("grpc-timeout", "100m"),
        ]));
        let expected = headers(&[
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "100000u"),
            ("authorization", "secret"),
            ("grpcgateway-authorization", "secret"),
            ("grpcgateway-accept", "*/*"),
            ("hasleader", "true"),
        ]);
        assert_eq!(metadata.expect("legal"), expected);
    }

    #[test]
    fn timeouts_have_units() {
        let of = |text: &str| timeout(&HeaderValue::try_from(text).expect("legal"));
        for (text, timeout) in [
            ("1n", Some("1n")),
            ("2H", Some("7200000m")),
            ("9223372036854775807H", Some("2562047H")),
            ("123456789S", Some("34293H")),
            ("-5S", Some("0n")),
            ("0S", None),
        ] {
            let encoded = of(text).expect("legal");
            assert_eq!(encoded.as_ref().map(|value| value.to_str().expect("ASCII")), timeout, "{text}");
        }
        for text in ["abc", "5", "S", "5s", "1.5S"] {
            let status = of(text).expect_err("illegal");
            assert_eq!(status.message(), format!("invalid grpc-timeout: {text}"));
        }
    }

    #[test]
    fn binary_metadata_is_base_64() {
        assert!(of_call(&headers(&[("grpc-metadata-x-bin", "Zm8=")])).is_ok());
        assert!(of_call(&headers(&[("grpc-metadata-x-bin", "Zm8")])).is_ok());
        assert!(of_call(&headers(&[("grpc-metadata-x-bin", "%")])).is_err());
    }
}
