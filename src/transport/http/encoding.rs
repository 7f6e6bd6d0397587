//! The encoding of `/metrics`, chosen as Prometheus' library for Go chooses it.

use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, header};
use std::io::{self, Write};

/// Whether a client would rather have gzip than plain text. Plain text comes first if both have one weight,
/// and for a client that names neither.
pub(super) fn prefers_gzip(headers: &HeaderMap) -> bool {
    let accepted: Vec<_> =
        headers.get_all(header::ACCEPT_ENCODING).iter().flat_map(|line| weights(line.as_bytes())).collect();
    let weight = |name: &[u8]| {
        let named = accepted.iter().filter(|(encoding, _)| *encoding == b"*" || *encoding == name);
        named.map(|(_, weight)| *weight).reduce(f64::max)
    };
    weight(b"gzip").is_some_and(|gzip| gzip > 0.0 && weight(b"identity").is_none_or(|plain| gzip > plain))
}

/// The encodings of one line with their weights, up to the first that cannot be read.
fn weights(line: &[u8]) -> Vec<(&[u8], f64)> {
    let mut weights = Vec::new();
    for item in line.split(|byte| *byte == b',') {
        let item = item.trim_ascii();
        let end = item.iter().position(|byte| !is_of_token(*byte)).unwrap_or(item.len());
        let (encoding, rest) = item.split_at(end);
        let rest = rest.trim_ascii_start();
        let (weight, rest) = match rest.strip_prefix(b";") {
            None => (Some(1.0), rest),
            Some(parameter) => match parameter.trim_ascii_start().strip_prefix(b"q=") {
                Some(number) => quality(number),
                None => (None, rest),
            },
        };
        let Some(weight) = weight.filter(|_| !encoding.is_empty()) else { break };
        weights.push((encoding, weight));
        if !rest.trim_ascii().is_empty() {
            break;
        }
    }
    weights
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"(),:;<=>?@[]\\{}".contains(&byte)
}

/// A weight, which begins with 0 or 1, and the text behind it.
fn quality(text: &[u8]) -> (Option<f64>, &[u8]) {
    let Some((first @ (b'0' | b'1'), rest)) = text.split_first() else { return (None, text) };
    let whole = f64::from(first - b'0');
    let Some(rest) = rest.strip_prefix(b".") else { return (Some(whole), rest) };
    let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let fraction = rest[..end].iter().rfold(0.0, |sum, digit| (sum + f64::from(digit - b'0')) / 10.0);
    (Some(whole + fraction), &rest[end..])
}

/// A text in gzip.
///
/// # Errors
/// The compression failed.
pub(super) fn gzip(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text)?;
    encoder.finish()
}
