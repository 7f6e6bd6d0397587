//! The settings of a stream: the wanted ones, and how those of a stream that exists differ.

use super::bucket::Bucket;
use crate::record::FORMAT;
use serde_json::{Value, json};

/// The metadata key that holds the version of the stored format. A stream without it is another program's.
pub(super) const FORMAT_KEY: &str = "jetway.format";
/// The version that a stream has until its restore has ended. Every jetway refuses it.
pub(super) const UNFINISHED: &str = "unfinished restore";
/// The metadata key that holds the name of the snapshot with which a cluster was made anew.
pub(super) const SNAPSHOT_KEY: &str = "jetway.snapshot";
/// The metadata key that holds the cluster's id.
pub(super) const CLUSTER_KEY: &str = "jetway.cluster";

/// Messages of one subject. Clients take a stream for a key-value bucket only if it has such a limit. This
/// one is never reached. It is the largest integer that every JSON parser reads exactly. It costs nothing
/// that can be measured: with 300,000 messages of 100,000 subjects the server's CPU is 1.7 to 1.9 s with it
/// and without it, and 0.3 to 0.4 s for a recovery without an index.
const MAX_PER_SUBJECT: u64 = (1 << 53) - 1;

/// Settings that are judged elsewhere: names, and limits that `limits` compares.
const ELSEWHERE: &[&str] = &["name", "metadata", "num_replicas", "first_seq", "max_bytes", "max_consumers"];
/// Settings that an update puts right.
const REPAIRABLE: &[&str] = &[
    // `old` would let a full stream drop live keys without an error.
    "discard",
    "discard_new_per_subject",
    "max_msgs",
    "max_age",
    "max_msgs_per_subject",
    // Large values would be refused.
    "max_msg_size",
    // Consumers of jetway's could be refused.
    "consumer_limits",
    "allow_direct",
    // Without acknowledgements no write would be answered.
    "no_ack",
];
/// Settings that an update cannot change, or that another program may rely on.
const UNUSABLE: &[&str] = &[
    "storage",
    "retention",
    "subjects",
    "subject_transform",
    "deny_delete",
    "deny_purge",
    "sealed",
    "mirror",
    "sources",
    // It acknowledges a message before it is written.
    "persist_mode",
    // Messages would have to be numbers.
    "allow_msg_counter",
];

/// The settings of a new stream.
pub(super) fn wanted(bucket: &Bucket, replicas: Option<usize>, cluster_id: u64) -> Value {
    json!({
        "name": bucket.stream,
        "subjects": [format!("{}>", bucket.prefix)],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msg_size": -1,
        "max_msgs_per_subject": MAX_PER_SUBJECT,
        "num_replicas": replicas.unwrap_or(1),
        // The window is not used, and costs memory and start-up time. This is the shortest one.
        "duplicate_window": 100_000_000,
        "allow_direct": true,
        "deny_delete": false,
        "deny_purge": false,
        "metadata": { FORMAT_KEY: FORMAT.to_string(), CLUSTER_KEY: format!("{cluster_id:016x}") },
    })
}

/// The settings of an existing stream that differ from the wanted ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Deviations {
    /// The first one that jetway cannot use.
    pub(super) unusable: Option<&'static str>,
    /// Those to put right.
    pub(super) repairs: Vec<&'static str>,
    /// Those that differ and do no harm, with their values.
    pub(super) harmless: Vec<String>,
}

impl Deviations {
    /// Compares the settings of a stream with those that jetway makes.
    pub(super) fn of(found: &Value, wanted: &Value) -> Deviations {
        let mut deviations = Deviations::default();
        let differs = |setting: &str| {
            let (is, should) = (&found[setting], &wanted[setting]);
            is != should && !(is_default(is) && is_default(should))
        };
        deviations.unusable = UNUSABLE.iter().copied().find(|setting| differs(setting));
        deviations.repairs = REPAIRABLE.iter().copied().filter(|setting| differs(setting)).collect();
        let is_listed = |setting: &str| {
            [ELSEWHERE, REPAIRABLE, UNUSABLE].iter().any(|settings| settings.contains(&setting))
        };
        let others = found.as_object().into_iter().flatten();
        let harmless = others.filter(|(setting, _)| !is_listed(setting) && differs(setting));
        deviations.harmless = harmless.map(|(setting, value)| format!("{setting}={value}")).collect();
        deviations
    }
}

/// Whether a value is one that a server leaves away, or that stands for nothing.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        // No limit has both spellings.
        Value::Number(number) => matches!(number.as_i64(), Some(0 | -1)),
        Value::String(text) => matches!(text.as_str(), "" | "none" | "default"),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_usable_repaired_or_harmless() {
        let wanted = wanted(&Bucket::new("b", "$JS.API"), None, 1);
        assert_eq!(Deviations::of(&wanted, &wanted), Deviations::default());
        let found = |setting: &str, value: Value| {
            let mut found = wanted.clone();
            found[setting] = value;
            Deviations::of(&found, &wanted)
        };
        for (setting, value) in [
            ("storage", json!("memory")),
            ("retention", json!("workqueue")),
            ("subjects", json!(["$KV.b.>", "other"])),
            ("sealed", json!(true)),
            ("persist_mode", json!("async")),
            ("sources", json!([{ "name": "s" }])),
        ] {
            assert_eq!(found(setting, value).unusable, Some(setting));
        }
        for (setting, value) in [
            ("discard", json!("old")),
            ("max_age", json!(1_000_000_000)),
            ("max_msg_size", json!(1000)),
            ("no_ack", json!(true)),
            ("consumer_limits", json!({ "inactive_threshold": 1_000_000_000 })),
        ] {
            assert_eq!(found(setting, value).repairs, [setting]);
        }
        assert_eq!(found("compression", json!("s2")).harmless, ["compression=\"s2\""]);
        assert_eq!(found("new_setting", json!(1)).harmless, ["new_setting=1"]);
        for (setting, value) in
            [("compression", json!("none")), ("max_msgs", json!(0)), ("max_bytes", json!(9))]
        {
            assert_eq!(found(setting, value), Deviations::default(), "{setting}");
        }
    }
}
