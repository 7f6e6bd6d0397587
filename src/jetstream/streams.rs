//! The two streams of a bucket: created, recognised, repaired, or refused.

use super::api::{Api, ApiError, StreamInfo};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Version of the layout of subjects, headers and entries, in each stream's metadata. A stream without it is not ours.
pub const FORMAT: &str = "1";
const FORMAT_KEY: &str = "jetway.format";

/// How long a cluster may take to find enough servers for a stream, and how often it is asked.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(20);
const CLUSTER_RETRY: Duration = Duration::from_millis(500);

/// A bucket cannot be used.
#[derive(Debug, Error)]
pub enum SetupError {
    /// Somebody else's.
    #[error(
        "stream {stream} exists and is not a jetway bucket of format {FORMAT} (its metadata has {FORMAT_KEY}={found:?}); \
         choose another bucket with --endpoint …?bucket=NAME"
    )]
    Foreign {
        /// The stream.
        stream: String,
        /// The format it states.
        found: Option<String>,
    },
    /// Settings that cannot be put right and would break a promise.
    #[error(
        "stream {stream} has {setting} = {found}, which jetway cannot use and JetStream does not let it change; expected {expected}"
    )]
    Unusable {
        /// The stream.
        stream: String,
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: Value,
        /// What it must be.
        expected: Value,
    },
    /// JetStream refused or did not answer.
    #[error("cannot set up stream {stream}: {source}")]
    Api {
        /// The stream.
        stream: String,
        /// Why.
        source: ApiError,
    },
}

/// Names of a bucket's streams and subjects.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// The bucket.
    pub name: String,
    /// Stream of the keys.
    pub keys: String,
    /// What key subjects begin with; ends in a dot.
    pub keys_prefix: String,
    /// Stream of leases, compaction floor and alarms.
    pub meta: String,
    /// What meta subjects begin with; ends in a dot.
    pub meta_prefix: String,
}

impl Bucket {
    /// The names for a bucket.
    pub fn new(name: &str) -> Bucket {
        Bucket {
            name: name.to_owned(),
            keys: format!("KV_{name}"),
            keys_prefix: format!("$KV.{name}."),
            meta: format!("KV_{name}_meta"),
            meta_prefix: format!("$KV.{name}_meta."),
        }
    }

    /// Makes sure both streams are there and fit for use; answers what JetStream says of keys and meta. Waits a while for a
    /// NATS cluster that is still finding its servers.
    pub async fn set_up(&self, api: &Api, replicas: usize) -> Result<(StreamInfo, StreamInfo), SetupError> {
        let keys = ensured(api, replicas, &self.keys_config(replicas)).await?;
        let meta = ensured(api, replicas, &self.meta_config(replicas)).await?;
        Ok((keys, meta))
    }

    fn keys_config(&self, replicas: usize) -> Value {
        json!({
            "name": self.keys,
            "subjects": [format!("{}>", self.keys_prefix)],
            "retention": "limits",
            "storage": "file",
            // `old` would let a full stream drop live keys without a word.
            "discard": "new",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msg_size": -1,
            "max_msgs_per_subject": -1,
            "num_replicas": replicas,
            // Not used, and it costs memory and start-up time; this is the least it can be.
            "duplicate_window": 100_000_000,
            "allow_direct": true,
            "allow_atomic": true,
            "deny_delete": false,
            "deny_purge": false,
            // The first write of an empty etcd store makes revision 2.
            "first_seq": 2,
            "metadata": { FORMAT_KEY: FORMAT },
        })
    }

    fn meta_config(&self, replicas: usize) -> Value {
        json!({
            "name": self.meta,
            "subjects": [format!("{}>", self.meta_prefix)],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msg_size": -1,
            "max_msgs_per_subject": 1,
            "num_replicas": replicas,
            "duplicate_window": 100_000_000,
            "allow_direct": true,
            // Delete markers of leases take themselves away.
            "allow_msg_ttl": true,
            "deny_delete": false,
            "deny_purge": false,
            "metadata": { FORMAT_KEY: FORMAT },
        })
    }
}

/// Settings that an update can put right.
const REPAIRABLE: &[&str] = &[
    "discard",
    "max_msgs",
    "max_age",
    "max_msgs_per_subject",
    "allow_direct",
    "allow_atomic",
    "allow_msg_ttl",
    "num_replicas",
];
/// Settings that it cannot.
const FIXED: &[&str] = &["storage", "retention", "deny_delete", "deny_purge"];

async fn ensured(api: &Api, replicas: usize, wanted: &Value) -> Result<StreamInfo, SetupError> {
    let deadline = Instant::now() + CLUSTER_PATIENCE;
    loop {
        match ensure(api, wanted).await {
            Err(SetupError::Api { stream, source })
                if source.may_pass(replicas) && Instant::now() < deadline =>
            {
                tracing::warn!(target: "jetway::jetstream", stream, %source, "the stream cannot be set up yet");
                tokio::time::sleep(CLUSTER_RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

async fn ensure(api: &Api, wanted: &Value) -> Result<StreamInfo, SetupError> {
    let stream = wanted["name"].as_str().unwrap_or_default().to_owned();
    let failed = |source| SetupError::Api { stream: stream.clone(), source };
    let info = match api.stream_info(&stream).await {
        Ok(info) => info,
        Err(error) if error.err_code() == Some(ApiError::STREAM_NOT_FOUND) => {
            tracing::info!(target: "jetway::jetstream", stream, "creating the stream");
            api.call(&format!("STREAM.CREATE.{stream}"), wanted).await.map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let found = info.config["metadata"][FORMAT_KEY].as_str();
    if found != Some(FORMAT) {
        return Err(SetupError::Foreign { stream, found: found.map(str::to_owned) });
    }
    let differs = |setting: &str| {
        let absent = |value: &Value| value.is_null() || *value == json!(false) || *value == json!(0);
        let (is, should) = (&info.config[setting], &wanted[setting]);
        is != should && !(absent(is) && absent(should))
    };
    if let Some(setting) = FIXED.iter().copied().find(|setting| differs(setting)) {
        let (found, expected) = (info.config[setting].clone(), wanted[setting].clone());
        return Err(SetupError::Unusable { stream, setting, found, expected });
    }
    let repairs: Vec<_> = REPAIRABLE.iter().copied().filter(|setting| differs(setting)).collect();
    if repairs.is_empty() {
        return Ok(info);
    }
    tracing::warn!(target: "jetway::jetstream", stream, ?repairs, "putting stream settings right");
    let mut config = info.config.clone();
    for setting in repairs {
        config[setting] = wanted[setting].clone();
    }
    // An older server's answer may lack the field that it would refuse in a request; what we change it must know.
    api.call(&format!("STREAM.UPDATE.{stream}"), &config).await.map_err(failed)
}
