//! Values of fields that are no messages, in all the forms that Go's `protojson` takes.

use super::scan::first_value;
use super::token::{Content, Token};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{Kind, Value};
use std::borrow::Cow;

/// Digits that an integer of 64 bits has at most.
const MAX_DIGITS: usize = 20;

/// The value of a token; none if it does not fit a field of this kind.
pub(super) fn scalar(kind: &Kind, token: &Token) -> Option<Value> {
    Some(match kind {
        Kind::Bool => match token.content {
            Content::Bool(value) => Value::Bool(value),
            _ => return None,
        },
        Kind::String => match &token.content {
            Content::String(value) => Value::String(value.clone().into_owned()),
            _ => return None,
        },
        Kind::Bytes => match &token.content {
            Content::String(value) => Value::Bytes(bytes(value)?.into()),
            _ => return None,
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(token)?.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(token)?.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(token)?.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(token)?.parse().ok()?),
        Kind::Enum(_) => match token.content {
            Content::Number => Value::EnumNumber(integer(token)?.parse().ok()?),
            _ => return None,
        },
        // etcd has no field of these kinds, which a test makes sure of.
        Kind::Float | Kind::Double | Kind::Message(_) => return None,
    })
}

/// A whole number as its plain digits: `10` for `1e1`, `"10"` and `10.0`.
fn integer(token: &Token) -> Option<String> {
    let raw = token.raw();
    let text = match &token.content {
        Content::Number => &*raw,
        Content::String(text) if is_number(text) => text,
        _ => return None,
    };
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse::<i32>().ok()?.into();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = if whole == "0" { "" } else { whole };
    let fraction = fraction.trim_end_matches('0');
    let mut digits = format!("{whole}{fraction}");
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let point = whole.len() as i64 + exponent;
    if !(0..=MAX_DIGITS as i64).contains(&point) {
        return None;
    }
    let point = point as usize;
    while digits.len() < point {
        digits.push('0');
    }
    let fraction = digits.split_off(point);
    if fraction.bytes().any(|digit| digit != b'0') {
        return None;
    }
    let digits = if digits.is_empty() { "0" } else { &digits };
    // Unsigned fields refuse a minus even before a zero, and so does their parser.
    Some(format!("{sign}{digits}"))
}

/// Whether a text is a JSON number and nothing else.
fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && first_value(text.as_bytes()) == Ok(text.as_bytes())
}

const STANDARD: [GeneralPurpose; 2] = engines(&alphabet::STANDARD);
const URL_SAFE: [GeneralPurpose; 2] = engines(&alphabet::URL_SAFE);

/// Without and with padding. Go lets bits pass that no byte needs.
const fn engines(alphabet: &alphabet::Alphabet) -> [GeneralPurpose; 2] {
    let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    [
        GeneralPurpose::new(alphabet, config.with_decode_padding_mode(DecodePaddingMode::RequireNone)),
        GeneralPurpose::new(alphabet, config.with_decode_padding_mode(DecodePaddingMode::RequireCanonical)),
    ]
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let engines = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let engine = &engines[usize::from(text.len().is_multiple_of(4))];
    // Go's decoder passes over line ends.
    let text: Cow<str> =
        if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "").into() } else { text.into() };
    engine.decode(text.as_bytes()).ok()
}
