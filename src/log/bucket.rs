//! The stream of a bucket: created, recognised, repaired, or refused.

use super::api::{Api, ApiError, StreamInfo};
use super::rights::API_PREFIX;
use crate::record::FORMAT;
use crate::types::Sequence;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The metadata key that holds the version of the stored format. A stream without it is another program's.
const FORMAT_KEY: &str = "jetway.format";
/// The metadata key that holds the cluster's id, drawn when the stream is made.
const CLUSTER_KEY: &str = "jetway.cluster";

/// Longest wait for a cluster that looks for enough servers for a stream.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(20);
/// Pause before another attempt.
const CLUSTER_RETRY: Duration = Duration::from_millis(500);

/// A bucket cannot be used.
#[derive(Debug, Error)]
pub enum SetupError {
    /// Another program's, or of another format.
    #[error(
        "stream {stream} exists and is {found}; choose another bucket with --endpoint …?bucket=NAME, or another --data-dir"
    )]
    Foreign {
        /// The stream.
        stream: String,
        /// A description of what it is.
        found: String,
    },
    /// The number of replicas asked for is not that of the stream.
    #[error(
        "--endpoint asks for replicas={asked} and stream {stream} has {found}; leave replicas= away, or change the stream \
         (nats stream edit {stream} --replicas {asked})"
    )]
    Replicas {
        /// The stream.
        stream: String,
        /// The number in the endpoint.
        asked: usize,
        /// The number that the stream has.
        found: u64,
    },
    /// Settings that would break an invariant, and that an update cannot change.
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
        /// The value that it must have.
        expected: Value,
    },
    /// The files of the stream exist, but nats-server does not load it.
    #[error(
        "nats-server does not load stream {stream} from {}: meta.inf or meta.sum there is damaged or missing. Restore a copy, or \
         accept the loss with --accept-data-loss",
        folder.display()
    )]
    Unloaded {
        /// The stream.
        stream: String,
        /// Its files.
        folder: PathBuf,
    },
    /// The files of a damaged stream cannot be prepared for another load.
    #[error("cannot remove the damaged {}: {source}", file.display())]
    Files {
        /// One of them.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
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

/// The embedded server's store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Its directory.
    pub dir: PathBuf,
    /// Whether to go on without lost records.
    pub accepts_loss: bool,
}

impl Store {
    /// Checks that there are no messages of a stream that the server does not load. Creating the stream again
    /// would take them in under another id, once more at each start, because nats-server leaves a damaged
    /// `meta.inf` as it is.
    fn check_new(&self, stream: &str) -> Result<(), SetupError> {
        let folder = self.dir.join("jetstream/$G/streams").join(stream);
        if !folder.exists() {
            return Ok(());
        }
        let blocks = std::fs::read_dir(folder.join("msgs")).into_iter().flatten().flatten();
        let has_messages = blocks
            .filter(|block| block.path().extension().is_some_and(|of| of == "blk"))
            .any(|block| block.metadata().is_ok_and(|file| file.len() > 0));
        if has_messages && !self.accepts_loss {
            return Err(SetupError::Unloaded { stream: stream.to_owned(), folder });
        }
        for file in ["meta.inf", "meta.sum"].map(|name| folder.join(name)) {
            match std::fs::remove_file(&file) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SetupError::Files { file, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Names of a bucket's stream and subjects.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// The bucket.
    pub name: String,
    /// Its stream.
    pub stream: String,
    /// The beginning of all its subjects, with a dot at the end.
    pub prefix: String,
    /// The same, as messages are sent. Another domain or account takes them below the prefix of its API.
    pub publish_prefix: String,
}

/// Properties of a stream that jetway can use.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The random id from its creation.
    pub cluster_id: u64,
    /// The number of its replicas.
    pub replicas: usize,
    /// The sequence before its first message at its creation.
    pub before_first: Sequence,
}

/// The sequences that a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The first message.
    pub first: Sequence,
    /// Those behind it that were removed, ascending.
    pub deleted: Vec<Sequence>,
}

impl Bucket {
    /// The random id from the creation of a stream; `None` if it is not jetway's.
    pub fn cluster_id(info: &StreamInfo) -> Option<u64> {
        u64::from_str_radix(info.config["metadata"][CLUSTER_KEY].as_str()?, 16).ok()
    }

    /// The names for a bucket that is reached by the API below `api_prefix`.
    pub fn new(name: &str, api_prefix: &str) -> Bucket {
        let prefix = format!("$KV.{name}.");
        let publish_prefix =
            if api_prefix == API_PREFIX { prefix.clone() } else { format!("{api_prefix}.{prefix}") };
        Bucket { name: name.to_owned(), stream: format!("KV_{name}"), prefix, publish_prefix }
    }

    /// Creates or checks the stream. Waits a while for a NATS cluster that still looks for its servers.
    ///
    /// # Errors
    /// [`SetupError`].
    pub async fn set_up(
        &self,
        api: &Api,
        replicas: Option<usize>,
        store: Option<&Store>,
    ) -> Result<Facts, SetupError> {
        let deadline = Instant::now() + CLUSTER_PATIENCE;
        loop {
            match self.ensure(api, replicas, store).await {
                // At first only the metadata leader may know a stream that another instance has just created.
                Err(SetupError::Api { stream, source })
                    if (source.may_pass() || source.is_absent()) && Instant::now() < deadline =>
                {
                    tracing::warn!(target: "jetway::log", stream, %source, "the stream cannot be set up yet");
                    tokio::time::sleep(CLUSTER_RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn config(&self, replicas: Option<usize>) -> Value {
        json!({
            "name": self.stream,
            "subjects": [format!("{}>", self.prefix)],
            "retention": "limits",
            "storage": "file",
            // `old` would let a full stream drop live keys without an error.
            "discard": "new",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msg_size": -1,
            "max_msgs_per_subject": -1,
            "num_replicas": replicas.unwrap_or(1),
            // The window is not used, and costs memory and start-up time. This is the shortest one.
            "duplicate_window": 100_000_000,
            "allow_direct": true,
            "deny_delete": false,
            "deny_purge": false,
            "metadata": { FORMAT_KEY: FORMAT.to_string(), CLUSTER_KEY: format!("{:016x}", rand::random::<u64>() | 1) },
        })
    }

    async fn ensure(
        &self,
        api: &Api,
        replicas: Option<usize>,
        store: Option<&Store>,
    ) -> Result<Facts, SetupError> {
        let stream = self.stream.clone();
        let failed = |source| SetupError::Api { stream: stream.clone(), source };
        let wanted = self.config(replicas);
        let info = match api.stream_info(&stream).await {
            Ok(info) => info,
            Err(error) if error.err_code() == Some(ApiError::STREAM_NOT_FOUND) => {
                if let Some(store) = store {
                    store.check_new(&stream)?;
                }
                tracing::info!(target: "jetway::log", stream, "creating the stream");
                match api.call::<StreamInfo>(&format!("STREAM.CREATE.{stream}"), &wanted).await {
                    // Another instance was faster.
                    Err(error) if error.err_code() == Some(ApiError::NAME_IN_USE) => {
                        api.stream_info(&stream).await.map_err(failed)?
                    }
                    created => created.map_err(failed)?,
                }
            }
            Err(error) => return Err(failed(error)),
        };
        let metadata = &info.config["metadata"];
        let cluster_id = metadata[CLUSTER_KEY].as_str().and_then(|id| u64::from_str_radix(id, 16).ok());
        let found = match (metadata[FORMAT_KEY].as_str(), cluster_id) {
            (Some(format), Some(_)) if format == FORMAT.to_string() => None,
            (Some(format), _) => {
                Some(format!("a jetway bucket of format {format}, where this jetway needs {FORMAT}"))
            }
            (None, _) => Some("not a jetway bucket (another program made it)".to_owned()),
        };
        if let Some(found) = found {
            return Err(SetupError::Foreign { stream, found });
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
        let found = info.config["num_replicas"].as_u64().unwrap_or(1);
        if let Some(asked) = replicas.filter(|asked| *asked as u64 != found) {
            return Err(SetupError::Replicas { stream, asked, found });
        }
        let repairs: Vec<_> = REPAIRABLE.iter().copied().filter(|setting| differs(setting)).collect();
        if !repairs.is_empty() {
            tracing::warn!(target: "jetway::log", stream, ?repairs, "putting stream settings right");
            let mut config = info.config.clone();
            for setting in repairs {
                config[setting] = wanted[setting].clone();
            }
            // The answer of an older server may lack a field, which the server would refuse in a request. It
            // knows a field that differs.
            api.call::<StreamInfo>(&format!("STREAM.UPDATE.{stream}"), &config).await.map_err(failed)?;
        }
        let before_first = Sequence(info.config["first_seq"].as_u64().unwrap_or(1).saturating_sub(1));
        Ok(Facts { cluster_id: cluster_id.unwrap_or_default(), replicas: found as usize, before_first })
    }
}

/// Settings that an update can correct.
const REPAIRABLE: &[&str] = &["discard", "max_msgs", "max_age", "max_msgs_per_subject", "allow_direct"];
/// Settings that an update cannot change.
const FIXED: &[&str] = &["storage", "retention", "deny_delete", "deny_purge"];
