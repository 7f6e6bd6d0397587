//! Values as Go and etcd read them. Each check answers with the words etcd has for a value that is none.

use super::duration;
use super::flags::Kind;
use super::urls;

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

const SYNTAX: &str = "parse error";
const RANGE: &str = "value out of range";

/// Whether a value is one of its kind. The reason begins with etcd's and ends with what would be one.
pub(super) fn check(kind: Kind, text: &str) -> Result<(), String> {
    let remedy = match kind {
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
    etcd_check(kind, text).map_err(|reason| reason + remedy)
}

fn etcd_check(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Bool => boolean(text).map(drop),
        Kind::Uint => unsigned(text).map(drop),
        Kind::Uint32 => match unsigned(text) {
            Ok(number) if u32::try_from(number).is_ok() => Ok(()),
            Err(reason) if reason == SYNTAX => {
                Err(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))
            }
            _ => Err(format!("strconv.ParseUint: parsing {text:?}: {RANGE}")),
        },
        Kind::Int => integer(text).map(drop),
        Kind::Duration => duration::parse(text).map(drop),
        Kind::Text | Kind::Texts(_) | Kind::Anything => Ok(()),
        Kind::Urls if text.is_empty() => Ok(()),
        Kind::Origins if text == "*" => Ok(()),
        Kind::Urls | Kind::Origins => urls::parse_list(text).map(drop),
        Kind::Choice(choices) if choices.contains(&text) => Ok(()),
        Kind::Choice(choices) => Err(format!("invalid value, expected {}", choices.join(" or "))),
        Kind::Choices(choices) => match text.split(',').find(|one| !choices.contains(one)) {
            None => Ok(()),
            Some(one) => Err(format!("invalid value {one:?}")),
        },
        Kind::FeatureGates => feature_gates(text).map(drop),
    }
}

/// What Go takes for a boolean.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(SYNTAX.to_owned()),
    }
}

/// A whole number from 0, in the bases that Go writes numbers in.
pub(super) fn unsigned(text: &str) -> Result<u64, String> {
    let (base, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &text[2..]),
        [b'0', b'o' | b'O', ..] => (8, &text[2..]),
        [b'0', b'b' | b'B', ..] => (2, &text[2..]),
        [b'0', _, ..] => (8, &text[1..]),
        _ => (10, text),
    };
    // Underscores may stand between digits, but not where the base is not named.
    let prefixed = digits.len() != text.len();
    let digits = if prefixed { digits.replace('_', "") } else { digits.to_owned() };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(SYNTAX.to_owned());
    }
    u64::from_str_radix(&digits, base).map_err(|_| RANGE.to_owned())
}

/// A whole number.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let number = i128::from(unsigned(digits)?);
    i64::try_from(if negative { -number } else { number }).map_err(|_| RANGE.to_owned())
}

/// Names of gates and whether each is on.
pub(super) fn feature_gates(text: &str) -> Result<Vec<(&str, bool)>, String> {
    let mut gates = Vec::new();
    for gate in text.split(',').filter(|gate| !gate.is_empty()) {
        let Some((name, value)) = gate.split_once('=') else {
            return Err(format!("missing bool value for {}", gate.trim()));
        };
        let (name, value) = (name.trim(), value.trim());
        let on = boolean(value).map_err(|_| {
            format!(
                "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
            )
        })?;
        gates.push((name, on));
    }
    match gates.iter().find(|(name, _)| !FEATURE_GATES.contains(name)) {
        Some((name, _)) => Err(format!("unrecognized feature gate: {name}")),
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
            assert_eq!(unsigned(text), Err(SYNTAX.to_owned()), "{text}");
        }
        assert_eq!(unsigned("18446744073709551616"), Err(RANGE.to_owned()));
        assert_eq!((integer("-5"), integer("+5")), (Ok(-5), Ok(5)));
        assert_eq!(integer("9223372036854775808"), Err(RANGE.to_owned()));
    }

    #[test]
    fn gates_are_checked() {
        assert_eq!(feature_gates("AllAlpha=true,"), Ok(vec![("AllAlpha", true)]));
        for (text, words) in
            [("a", "missing bool"), ("AllBeta=2", "invalid value"), ("a=true", "unrecognized")]
        {
            assert!(feature_gates(text).expect_err(text).contains(words), "{text}");
        }
    }
}
