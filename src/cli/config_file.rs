//! `--config-file`: etcd's YAML.
//!
//! Keys are those of etcd's own decoding: mostly names of flags, with TLS, sockets and discovery in maps of
//! their own. Types are as strict as there: a number is no text, a duration is a number of nanoseconds. Each
//! value becomes the text that the flag would have on the command line, so that the later checks are the same
//! for both.

use super::flags::{self, ALLOWED_CN, CONFIG_FILE, Kind};
use super::values::{self, InvalidValue};
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A config file that cannot be used.
#[derive(Debug, Error)]
#[error("--config-file {path}: {reason}", path = .path.display())]
pub(super) struct ConfigFileError {
    path: PathBuf,
    reason: Box<ContentError>,
}

/// The reason for which a config file cannot be used. The texts about its content are etcd's.
#[derive(Debug, Error)]
pub(super) enum ContentError {
    #[error("{0}")]
    Read(std::io::Error),
    #[error("error converting YAML to JSON: {0}")]
    Yaml(serde_saphyr::Error),
    #[error("error unmarshaling JSON: cannot unmarshal {found} into {path} of type {expected}")]
    Type { found: String, path: String, expected: &'static str },
    #[error("{path}: {text:?}: {reason}")]
    Value { path: String, text: String, reason: InvalidValue },
}

/// A file's content.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    /// Texts by the names of their flags.
    pub(super) values: Vec<(&'static str, String)>,
    /// Keys that etcd would ignore without a message.
    pub(super) unknown: Vec<String>,
}

/// Keys in maps, with the names of their flags.
const NESTED: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-cn", ALLOWED_CN),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
        ],
    ),
    ("socket-options", &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")]),
    ("discovery-config", &[("token", "discovery-token")]),
];
/// The map in `discovery-config` that has the endpoints.
const DISCOVERY_CLIENT: (&str, &[(&str, &str)]) = ("client", &[("endpoints", "discovery-endpoints")]);

/// Flags that the config file has neither as a key of its own nor in a map of [`NESTED`].
const FLAGS_ONLY: &[&str] =
    &["client-crl-file", "peer-crl-file", "discovery-fallback", "raft-read-timeout", "raft-write-timeout"];

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<ConfigFile, ConfigFileError> {
    let text = std::fs::read_to_string(path).map_err(ContentError::Read);
    text.and_then(|text| parse(&text))
        .map_err(|reason| ConfigFileError { path: path.to_owned(), reason: Box::new(reason) })
}

pub(super) fn parse(text: &str) -> Result<ConfigFile, ContentError> {
    if text.trim().is_empty() {
        return Ok(ConfigFile::default());
    }
    let document: Value = from_yaml(text).map_err(ContentError::Yaml)?;
    let mut file = ConfigFile::default();
    for (key, value) in map("", &document)? {
        let nested = NESTED.iter().find(|(name, _)| key.eq_ignore_ascii_case(name));
        if let Some((name, keys)) = nested {
            for (key, value) in map(name, value)? {
                if *name == "discovery-config" && key == DISCOVERY_CLIENT.0 {
                    for (key, value) in map("discovery-config.client", value)? {
                        file.take("discovery-config.client.", key, value, DISCOVERY_CLIENT.1)?;
                    }
                } else {
                    file.take(&format!("{name}."), key, value, keys)?;
                }
            }
        } else if let Some(flag) = top_level(key) {
            file.put(key, value, flag)?;
        } else {
            file.unknown.push(key.clone());
        }
    }
    Ok(file)
}

/// The flag of a key at the top of the file. As in Go's JSON, case does not matter.
fn top_level(key: &str) -> Option<&'static flags::Flag> {
    let flag = flags::find(&key.to_ascii_lowercase())?;
    let elsewhere = NESTED.iter().any(|(_, keys)| keys.iter().any(|(_, name)| *name == flag.name))
        || FLAGS_ONLY.contains(&flag.name)
        || matches!(flag.name, CONFIG_FILE | "version")
        || (flag.name.starts_with("discovery-") && !flag.name.starts_with("discovery-srv"));
    (!elsewhere && flag.kind != Kind::Anything).then_some(flag)
}

fn map<'a>(name: &str, value: &'a Value) -> Result<&'a serde_json::Map<String, Value>, ContentError> {
    static EMPTY: std::sync::OnceLock<serde_json::Map<String, Value>> = std::sync::OnceLock::new();
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(EMPTY.get_or_init(serde_json::Map::new)),
        other => Err(mismatch(other, name, "a map of keys")),
    }
}

impl ConfigFile {
    fn take(
        &mut self,
        prefix: &str,
        key: &str,
        value: &Value,
        keys: &[(&str, &'static str)],
    ) -> Result<(), ContentError> {
        let name = keys.iter().find(|(name, _)| key.eq_ignore_ascii_case(name)).map(|(_, flag)| *flag);
        let path = format!("{prefix}{key}");
        match name.map(|name| (name, flags::find(name))) {
            Some((_, Some(flag))) => self.put(&path, value, flag),
            Some((name, None)) => {
                if let Some(text) = text_of(&path, value, Kind::Texts(true))? {
                    self.values.push((name, text));
                }
                Ok(())
            }
            None => {
                self.unknown.push(path);
                Ok(())
            }
        }
    }

    fn put(&mut self, path: &str, value: &Value, flag: &'static flags::Flag) -> Result<(), ContentError> {
        if let Some(text) = text_of(path, value, flag.kind)? {
            // As in etcd, an empty text leaves the default.
            if !text.is_empty() {
                match values::check(flag.kind, &text) {
                    Ok(()) => self.values.push((flag.name, text)),
                    Err(reason) => return Err(ContentError::Value { path: path.to_owned(), text, reason }),
                }
            }
        }
        Ok(())
    }
}

/// The text that a value would have on the command line; `None` for null, which leaves the default.
fn text_of(path: &str, value: &Value, kind: Kind) -> Result<Option<String>, ContentError> {
    let text = match (kind, value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Bool, Value::Bool(value)) => value.to_string(),
        (Kind::Uint | Kind::Uint32, Value::Number(number)) if number.is_u64() => number.to_string(),
        (Kind::Int, Value::Number(number)) if number.is_i64() => number.to_string(),
        (Kind::Duration, Value::Number(number)) if number.is_i64() => format!("{number}ns"),
        (Kind::Texts(true), Value::Array(texts)) => {
            let texts = texts
                .iter()
                .map(|text| text.as_str().ok_or_else(|| mismatch(text, path, "string")))
                .collect::<Result<Vec<_>, _>>()?;
            texts.join(",")
        }
        (
            Kind::Text
            | Kind::Texts(false)
            | Kind::Urls
            | Kind::Origins
            | Kind::Choice(_)
            | Kind::Choices(_)
            | Kind::FeatureGates,
            Value::String(text),
        ) => text.clone(),
        _ => return Err(mismatch(value, path, type_name(kind))),
    };
    Ok(Some(text))
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "bool",
        Kind::Uint => "uint",
        Kind::Uint32 => "uint32",
        Kind::Int => "int",
        Kind::Duration => "time.Duration, an integer number of nanoseconds",
        Kind::Texts(true) => "[]string",
        _ => "string",
    }
}

fn mismatch(value: &Value, path: &str, expected: &'static str) -> ContentError {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        // Go's text has the number if another kind of number is expected.
        Value::Number(number) if expected.contains("int") => format!("number {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    let path = if path.is_empty() { "the file" } else { path };
    ContentError::Type { found, path: path.to_owned(), expected }
}

fn from_yaml(text: &str) -> Result<Value, serde_saphyr::Error> {
    // etcd's reader takes yes and no for booleans, and the last one of two equal keys.
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_flags() {
        let file = parse(
            "name: a\nlisten-client-urls: http://127.0.0.1:1\nwatch-progress-notify-interval: 5000000000\n\
             log-outputs: [stdout, /tmp/log]\nmax-txn-ops: 5\nenable-pprof: true\nquota-backend-bytes: -1\n\
             client-transport-security:\n  cert-file: c\n  client-cert-auth: yes\n  allowed-cn: [a, b]\n\
             socket-options:\n  reuse-port: true\ndiscovery-srv:\nmax-learners: null\n\
             colour: red\nclient-crl-file: x\n",
        )
        .expect("a good file");
        let mut values = file.values;
        values.sort();
        let expected: &[(&str, &str)] = &[
            ("cert-file", "c"),
            ("client-cert-allowed-cn", "a,b"),
            ("client-cert-auth", "true"),
            ("enable-pprof", "true"),
            ("listen-client-urls", "http://127.0.0.1:1"),
            ("log-outputs", "stdout,/tmp/log"),
            ("max-txn-ops", "5"),
            ("name", "a"),
            ("quota-backend-bytes", "-1"),
            ("socket-reuse-port", "true"),
            ("watch-progress-notify-interval", "5000000000ns"),
        ];
        assert_eq!(values.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>(), expected);
        assert_eq!(file.unknown, ["client-crl-file", "colour"]);
        assert!(parse("\n").expect("nothing given").values.is_empty());
    }

    #[test]
    fn the_second_of_two_values_counts_and_case_does_not() {
        let file = parse("name: a\nname: b\n").expect("as etcd");
        assert_eq!(file.values, [("name", "b".to_owned())]);
        assert_eq!(parse("Name: a").expect("as etcd").values, [("name", "a".to_owned())]);
    }

    #[test]
    fn types_are_strict() {
        for (text, words) in [
            ("max-txn-ops: many", "cannot unmarshal string into max-txn-ops of type uint"),
            ("max-txn-ops: \"5\"", "cannot unmarshal string"),
            ("max-txn-ops: -1", "cannot unmarshal number -1 into max-txn-ops"),
            ("max-txn-ops: 1.5", "cannot unmarshal number 1.5"),
            ("name: 5", "cannot unmarshal number into name of type string"),
            ("log-outputs: stdout", "cannot unmarshal string into log-outputs of type []string"),
            ("watch-progress-notify-interval: 5s", "nanoseconds"),
            ("client-transport-security: 5", "cannot unmarshal number into client-transport-security"),
            ("client-transport-security:\n  cert-file: 5", "client-transport-security.cert-file"),
            ("enable-pprof: \"true\"", "cannot unmarshal string into enable-pprof of type bool"),
            ("a b c", "cannot unmarshal string"),
            ("[1]", "cannot unmarshal array"),
            ("name: [", "error converting YAML"),
            ("listen-client-urls: foo", "URL scheme must be http"),
            ("feature-gates: a=true", "unrecognized feature gate: a"),
            ("auto-compaction-retention: 5", "cannot unmarshal number into auto-compaction-retention"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
