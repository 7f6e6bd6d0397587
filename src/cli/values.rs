//! Values of flags, read by the rules of Go and etcd. The errors have etcd's texts.

use super::flags::Kind;
use super::urls::{self, UrlError};
use crate::duration::{self, DurationError};
use thiserror::Error;

/// Gates of etcd 3.7.
const FEATURE_GATES: [&str; 11] = [
    "AllAlpha",
    "AllBeta",
    "CompactHashCheck",
    "FastLeaseKeepAlive",
    "InitialCorruptCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
];

/// A value is not of the kind that its flag takes. The text is etcd's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum ValueError {
    #[error("parse error")]
    Syntax,
    #[error("value out of range")]
    Range,
    #[error("strconv.ParseUint: parsing {0:?}: invalid syntax")]
    Uint32Syntax(String),
    #[error("strconv.ParseUint: parsing {0:?}: value out of range")]
    Uint32Range(String),
    #[error("invalid value, expected {}", .0.join(" or "))]
    Choice(&'static [&'static str]),
    #[error("invalid value {0:?}")]
    Choices(String),
    #[error("missing bool value for {0}")]
    GateWithoutValue(String),
    #[error("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")]
    GateValue { name: String, value: String },
    #[error("unrecognized feature gate: {0}")]
    UnknownGate(String),
    #[error(transparent)]
    Duration(#[from] DurationError),
    #[error(transparent)]
    Url(#[from] UrlError),
}

/// A refused value, and the form that its flag expects.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{reason}{expected}")]
pub(super) struct InvalidValue {
    reason: Box<ValueError>,
    expected: &'static str,
}

/// Checks that a value is of its kind.
pub(super) fn check(kind: Kind, text: &str) -> Result<(), InvalidValue> {
    let expected = match kind {
        Kind::Bool => ", expected true or false",
        Kind::Uint | Kind::Uint32 => ", expected a number from 0",
        Kind::Int => ", expected a number",
        Kind::Duration => ", expected a duration with its unit, such as 5s, 100ms or 1m30s",
        Kind::Urls => ", expected http://address:port, https://address:port or unix:///path",
        Kind::Origins => ", expected http://host:port or *",
        Kind::Text
        | Kind::Texts(_)
        | Kind::Choice(_)
        | Kind::Choices(_)
        | Kind::FeatureGates
        | Kind::Anything => "",
    };
    etcd_check(kind, text).map_err(|reason| InvalidValue { reason: Box::new(reason), expected })
}

fn etcd_check(kind: Kind, text: &str) -> Result<(), ValueError> {
    match kind {
        Kind::Bool => boolean(text).map(drop),
        Kind::Uint => unsigned(text).map(drop),
        Kind::Uint32 => match unsigned(text) {
            Ok(number) if u32::try_from(number).is_ok() => Ok(()),
            Err(ValueError::Syntax) => Err(ValueError::Uint32Syntax(text.to_owned())),
            _ => Err(ValueError::Uint32Range(text.to_owned())),
        },
        Kind::Int => integer(text).map(drop),
        Kind::Duration => Ok(duration::parse(text).map(drop)?),
        Kind::Text | Kind::Texts(_) | Kind::Anything => Ok(()),
        Kind::Urls if text.is_empty() => Ok(()),
        Kind::Origins if text == "*" => Ok(()),
        Kind::Urls | Kind::Origins => Ok(urls::parse_list(text).map(drop)?),
        Kind::Choice(choices) if choices.contains(&text) => Ok(()),
        Kind::Choice(choices) => Err(ValueError::Choice(choices)),
        Kind::Choices(choices) => match text.split(',').find(|one| !choices.contains(one)) {
            None => Ok(()),
            Some(one) => Err(ValueError::Choices(one.to_owned())),
        },
        Kind::FeatureGates => feature_gates(text).map(drop),
    }
}

/// A boolean in one of Go's spellings.
pub(super) fn boolean(text: &str) -> Result<bool, ValueError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ValueError::Syntax),
    }
}

/// A whole number from 0, in the bases that Go writes numbers in.
pub(super) fn unsigned(text: &str) -> Result<u64, ValueError> {
    let (base, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &text[2..]),
        [b'0', b'o' | b'O', ..] => (8, &text[2..]),
        [b'0', b'b' | b'B', ..] => (2, &text[2..]),
        [b'0', _, ..] => (8, &text[1..]),
        _ => (10, text),
    };
    // Go allows underscores between digits only if the number names its base.
    let prefixed = digits.len() != text.len();
    let digits = if prefixed { digits.replace('_', "") } else { digits.to_owned() };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(ValueError::Syntax);
    }
    u64::from_str_radix(&digits, base).map_err(|_| ValueError::Range)
}

/// A whole number.
pub(super) fn integer(text: &str) -> Result<i64, ValueError> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let number = i128::from(unsigned(digits)?);
    i64::try_from(if negative { -number } else { number }).map_err(|_| ValueError::Range)
}

/// Names of gates and whether each is on.
pub(super) fn feature_gates(text: &str) -> Result<Vec<(&str, bool)>, ValueError> {
    let mut gates = Vec::new();
    for gate in text.split(',').filter(|gate| !gate.is_empty()) {
        let Some((name, value)) = gate.split_once('=') else {
            return Err(ValueError::GateWithoutValue(gate.trim().to_owned()));
        };
        let (name, value) = (name.trim(), value.trim());
        let on = boolean(value)
            .map_err(|_| ValueError::GateValue { name: name.to_owned(), value: value.to_owned() })?;
        gates.push((name, on));
    }
    match gates.iter().find(|(name, _)| !FEATURE_GATES.contains(name)) {
        Some((name, _)) => Err(ValueError::UnknownGate((*name).to_owned())),
        None => Ok(gates),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_go_s() {
        for (text, number) in [("0", 0), ("10", 10), ("0x1F", 31), ("010", 8), ("0b11", 3), ("0x1_0", 16)] {
            assert_eq!(unsigned(text), Ok(number), "{text}");
        }
        for text in ["", "x", "1_0", "-1", "09", "1.5", " 1"] {
            assert_eq!(unsigned(text), Err(ValueError::Syntax), "{text}");
        }
        assert_eq!(unsigned("18446744073709551616"), Err(ValueError::Range));
        assert_eq!((integer("-5"), integer("+5")), (Ok(-5), Ok(5)));
        assert_eq!(integer("9223372036854775808"), Err(ValueError::Range));
    }

    #[test]
    fn gates_are_checked() {
        assert_eq!(feature_gates("AllAlpha=true,"), Ok(vec![("AllAlpha", true)]));
        for (text, words) in
            [("a", "missing bool"), ("AllBeta=2", "invalid value"), ("a=true", "unrecognized")]
        {
            assert!(feature_gates(text).expect_err(text).to_string().contains(words), "{text}");
        }
    }
}
