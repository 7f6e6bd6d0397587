//! The stream of a bucket: created, recognised, repaired, or refused.

use super::api::{Api, ApiError, StreamInfo};
use super::connect::{Connection, Endpoint};
use super::fence;
use super::limits::{self, Demand};
use super::mirror::{self, ReadOnly};
use super::rights::API_PREFIX;
use super::setup_error::SetupError;
use super::store::Store;
use super::stream_settings::{CLUSTER_KEY, Deviations, FORMAT_KEY, SNAPSHOT_KEY, UNFINISHED, wanted};
use super::subjects::{self, KeyTooLong};
use crate::record::FORMAT;
use crate::types::Sequence;
use crate::version::NatsVersion;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Longest wait for a cluster that looks for enough servers for a stream.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(20);
/// The metadata key that holds the version of the stream's leader.
const LEADER_VERSION_KEY: &str = "_nats.ver";
/// Interval of the lines that report such a wait.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before JetStream is asked again whether it has a leader.
const MEMBERS_RETRY: Duration = Duration::from_millis(100);
/// Pause before another attempt.
const CLUSTER_RETRY: Duration = Duration::from_millis(500);

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
    /// Whether it was made just now.
    pub is_new: bool,
    /// The id of a stream that is or was a mirror.
    pub mirror_id: Option<u64>,
    /// The number of promotions before it became what it is.
    pub promotions: u64,
}

impl Facts {
    /// The properties of a stream.
    pub(super) fn of(info: &StreamInfo, is_new: bool) -> Facts {
        Facts {
            cluster_id: Bucket::cluster_id(info).unwrap_or_default(),
            replicas: info.copies(),
            before_first: Sequence(mirror::first_of(&info.config).unwrap_or(1).saturating_sub(1)),
            is_new,
            mirror_id: mirror::mirror_id(&info.config),
            promotions: mirror::promotions(&info.config),
        }
    }
}

/// The use that a bucket is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Serving what it holds.
    Serve,
    /// Filling an empty one. No jetway serves it before [`super::Log::finish_restore`].
    Restore,
    /// Serving it as soon as the restore that fills it has ended.
    ServeRestored,
}

impl Purpose {
    fn format(self) -> String {
        match self {
            Purpose::Serve => FORMAT.to_string(),
            Purpose::Restore | Purpose::ServeRestored => UNFINISHED.to_owned(),
        }
    }
}

/// How long a stream that must exist is looked for: a new leader of the metadata may not have read all of it.
/// 30 s after its start nats-server removes the files of streams that its metadata does not list.
const VANISHED_TIMEOUT: Duration = Duration::from_secs(3);

impl Bucket {
    /// The random id from the creation of a stream; `None` if it is not jetway's.
    pub fn cluster_id(info: &StreamInfo) -> Option<u64> {
        u64::from_str_radix(info.config["metadata"][CLUSTER_KEY].as_str()?, 16).ok()
    }

    /// The name of the snapshot with which the cluster of a stream was made anew; `None` if it was not.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(super) async fn snapshot(&self, api: &Api) -> Result<Option<String>, ApiError> {
        let info = api.stream_info(&self.stream).await?;
        Ok(info.config["metadata"][SNAPSHOT_KEY].as_str().map(str::to_owned))
    }

    /// The names for the bucket of an endpoint.
    pub fn of(endpoint: &Endpoint) -> Bucket {
        Bucket::new(&endpoint.bucket, endpoint.api_prefix.as_deref().unwrap_or(API_PREFIX))
    }

    /// The names for a bucket that is reached by the API below `api_prefix`.
    pub fn new(name: &str, api_prefix: &str) -> Bucket {
        let prefix = format!("$KV.{name}.");
        let publish_prefix =
            if api_prefix == API_PREFIX { prefix.clone() } else { format!("{api_prefix}.{prefix}") };
        Bucket { name: name.to_owned(), stream: format!("KV_{name}"), prefix, publish_prefix }
    }

    /// Whether a key can be a subject.
    ///
    /// # Errors
    /// [`KeyTooLong`].
    pub fn check_key(&self, key: &[u8]) -> Result<(), KeyTooLong> {
        subjects::check_length(self.publish_prefix.len(), key)
    }

    /// Refuses a stream that holds something, but for the rest of a restore. All else is found when it is
    /// opened.
    ///
    /// # Errors
    /// [`SetupError::NotEmpty`].
    pub(super) async fn check_restore(&self, api: &Api) -> Result<(), SetupError> {
        match api.stream_info(&self.stream).await {
            Ok(info) if !is_unfinished(&info.config) && !is_unused(&info) => {
                Err(SetupError::NotEmpty { stream: self.stream.clone(), messages: info.state.messages })
            }
            _ => Ok(()),
        }
    }

    /// Lets a restored stream be served, if it is as the restore has left it: `end` is its last message.
    ///
    /// # Errors
    /// [`SetupError::Disturbed`], [`SetupError::Api`].
    pub(super) async fn finish_restore(
        &self,
        api: &Api,
        facts: Facts,
        end: Sequence,
        snapshot: Option<&str>,
    ) -> Result<(), SetupError> {
        let stream = &self.stream;
        let failed = |source| SetupError::Api { stream: stream.clone(), source };
        let info = api.stream_info(stream).await.map_err(failed)?;
        let is_same = Bucket::cluster_id(&info) == Some(facts.cluster_id) && is_unfinished(&info.config);
        if !is_same || info.last() != end || info.state.messages != end.0 - facts.before_first.0 {
            return Err(SetupError::Disturbed { stream: stream.clone() });
        }
        let mut config = info.config;
        config["metadata"][FORMAT_KEY] = Purpose::Serve.format().into();
        if let Some(snapshot) = snapshot {
            config["metadata"][SNAPSHOT_KEY] = snapshot.into();
        }
        api.call::<StreamInfo>(&format!("STREAM.UPDATE.{stream}"), &config).await.map_err(failed)?;
        Ok(())
    }

    /// Creates or checks the stream; returns its properties, and why nothing may be appended to it. Waits a
    /// while for a NATS cluster that still looks for its servers. A member of a cluster of embedded servers
    /// waits for the others without an end, as in etcd.
    ///
    /// # Errors
    /// [`SetupError`].
    pub async fn set_up(
        &self,
        api: &Api,
        connection: &Connection,
        endpoint: &Endpoint,
        store: Option<&Store>,
        (purpose, demand): (Purpose, Demand),
    ) -> Result<(Facts, Option<ReadOnly>), SetupError> {
        if endpoint.own_cluster.is_some() {
            self.await_members(api).await;
        }
        let deadline = Instant::now() + CLUSTER_TIMEOUT;
        let mut vanished = None;
        loop {
            match self.ensure(api, endpoint, store, (purpose, demand)).await {
                // The others may have gone again meanwhile.
                Err(SetupError::Api { source, .. })
                    if endpoint.own_cluster.is_some()
                        && source.is_transient()
                        && Instant::now() >= deadline =>
                {
                    tokio::time::sleep(CLUSTER_RETRY).await;
                    self.await_members(api).await;
                }
                // At first only the metadata leader may know a stream that another instance has just created.
                Err(SetupError::Api { stream, source })
                    if (source.is_transient() || source.is_absent()) && Instant::now() < deadline =>
                {
                    tracing::warn!(target: "jetway::log", stream, %source, "the stream cannot be set up yet");
                    if source.is_transient() {
                        connection.leave_server();
                    }
                    tokio::time::sleep(CLUSTER_RETRY).await;
                }
                Err(SetupError::Api { stream, source }) => {
                    return Err(match limits::remedy(&source, self, demand) {
                        Some(remedy) => SetupError::Limit { stream, source, remedy },
                        None => SetupError::Api { stream, source },
                    });
                }
                Err(SetupError::Vanished { .. })
                    if vanished.get_or_insert_with(Instant::now).elapsed() < VANISHED_TIMEOUT =>
                {
                    tokio::time::sleep(CLUSTER_RETRY).await;
                }
                // A leaf connection to the other region may be made just now.
                Err(error @ SetupError::Origin { .. }) if Instant::now() < deadline => {
                    tracing::warn!(target: "jetway::log", %error, "the mirror cannot be set up yet");
                    tokio::time::sleep(CLUSTER_RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits until JetStream has a leader that knows whether there is a stream.
    async fn await_members(&self, api: &Api) {
        let mut reported: Option<Instant> = None;
        loop {
            let info = tokio::time::timeout(CLUSTER_RETRY, api.stream_info(&self.stream)).await;
            let reason = match info {
                Ok(Err(error)) if error.is_transient() => error.to_string(),
                Ok(_) => return,
                Err(_) => "JetStream has no leader yet".to_owned(),
            };
            if reported.is_none_or(|reported| reported.elapsed() >= REPORT_INTERVAL) {
                reported = Some(Instant::now());
                tracing::info!(target: "jetway::log", reason, "waiting for the other members of the cluster");
            }
            tokio::time::sleep(MEMBERS_RETRY).await;
        }
    }

    async fn ensure(
        &self,
        api: &Api,
        endpoint: &Endpoint,
        store: Option<&Store>,
        (purpose, demand): (Purpose, Demand),
    ) -> Result<(Facts, Option<ReadOnly>), SetupError> {
        let stream = self.stream.clone();
        let failed = |source| SetupError::Api { stream: stream.clone(), source };
        let replicas = endpoint.replicas_to_create();
        let (mut info, mut is_new) = match api.stream_info(&stream).await {
            Ok(info) if purpose == Purpose::Restore && is_unfinished(&info.config) => {
                tracing::info!(target: "jetway::log", stream, "removing what an earlier restore has left");
                api.call::<Value>(&format!("STREAM.DELETE.{stream}"), &Value::Null).await.map_err(failed)?;
                self.create(api, self.to_create(replicas, purpose), demand).await?
            }
            Ok(info) if purpose == Purpose::Restore && !is_unused(&info) => {
                return Err(SetupError::NotEmpty { stream, messages: info.state.messages });
            }
            Ok(info) => (info, false),
            Err(error) if error.err_code() == Some(ApiError::STREAM_NOT_FOUND) => {
                if let Some(store) = store {
                    store.check_new(&stream)?;
                }
                let must_exist = endpoint.own_cluster.as_ref().is_some_and(|cluster| cluster.has_joined);
                if must_exist && !store.is_some_and(|store| store.accepts_loss) {
                    return Err(SetupError::Vanished { stream });
                }
                let config = match &endpoint.mirror {
                    Some(origin) => mirror::to_create(self, api, replicas, origin).await?,
                    None => self.to_create(replicas, purpose),
                };
                self.create(api, config, demand).await?
            }
            Err(error) => return Err(failed(error)),
        };
        let leader = info.config["metadata"][LEADER_VERSION_KEY].as_str().unwrap_or_default();
        NatsVersion::check(leader).map_err(|reason| SetupError::TooOld { stream: stream.clone(), reason })?;
        let found = info.config["num_replicas"].as_u64().unwrap_or(1);
        if let Some(asked) = endpoint.replicas.filter(|asked| *asked as u64 != found) {
            return Err(SetupError::Replicas { stream, asked, found });
        }
        if let Some(mirror) = mirror::take(self, api, endpoint, &info).await? {
            return Ok((Facts::of(&mirror, is_new), ReadOnly::of(&mirror)));
        }
        let mut wanted = wanted(self, replicas, 0);
        wanted["subjects"] = fence::subjects(self, &info.config);
        let deviations = Deviations::of(&info.config, &wanted);
        let mut config = info.config.clone();
        let is_unused = is_unused(&info);
        if is_unused {
            // Instances that take the stream at once draw the same id.
            let id = xxhash_rust::xxh3::xxh3_64(format!("{stream} {}", info.created).as_bytes()) | 1;
            config["metadata"][FORMAT_KEY] = purpose.format().into();
            config["metadata"][CLUSTER_KEY] = format!("{id:016x}").into();
        }
        self.check_owner(&config, is_unused.then_some(deviations.unusable).flatten(), purpose)?;
        if let Some(setting) = deviations.unusable {
            let (found, expected) = (info.config[setting].clone(), wanted[setting].clone());
            return Err(SetupError::Unusable { stream, setting, found, expected });
        }
        if !deviations.harmless.is_empty() {
            let settings = deviations.harmless.join(", ");
            tracing::info!(target: "jetway::log", stream, settings, "the stream has settings of others, which do no harm");
        }
        if is_unused || !deviations.repairs.is_empty() {
            let repairs = deviations.repairs;
            tracing::warn!(target: "jetway::log", stream, is_unused, ?repairs, "putting stream settings right");
            for setting in repairs {
                config[setting] = wanted[setting].clone();
            }
            // The answer of an older server may lack a field, which the server would refuse in a request. It
            // knows a field that differs.
            info = api.call(&format!("STREAM.UPDATE.{stream}"), &config).await.map_err(failed)?;
            is_new |= is_unused;
        }
        Ok((Facts::of(&info, is_new), ReadOnly::of(&info)))
    }

    /// The settings of a stream that is to be made.
    fn to_create(&self, replicas: Option<usize>, purpose: Purpose) -> Value {
        let mut config = wanted(self, replicas, rand::random::<u64>() | 1);
        config["metadata"][FORMAT_KEY] = purpose.format().into();
        config
    }

    /// Makes the stream; returns it, and whether no other instance was faster.
    async fn create(
        &self,
        api: &Api,
        mut config: Value,
        demand: Demand,
    ) -> Result<(StreamInfo, bool), SetupError> {
        let stream = &self.stream;
        let failed = |source| SetupError::Api { stream: stream.clone(), source };
        tracing::info!(target: "jetway::log", stream, "creating the stream");
        let request = format!("STREAM.CREATE.{stream}");
        let mut created = api.call::<StreamInfo>(&request, &config).await;
        if let Err(error) = &created
            && error.err_code() == Some(ApiError::MAX_BYTES_REQUIRED)
            && let Some(max_bytes) = demand.max_bytes()
        {
            tracing::info!(
                target: "jetway::log",
                stream,
                max_bytes,
                "the NATS account wants a size for each stream: the stream gets that of --quota-backend-bytes, and room for deletes"
            );
            config["max_bytes"] = max_bytes.into();
            created = api.call(&request, &config).await;
        }
        match created {
            Ok(info) => Ok((info, true)),
            // Another instance was faster.
            Err(error) if error.err_code() == Some(ApiError::NAME_IN_USE) => {
                Ok((api.stream_info(stream).await.map_err(failed)?, false))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Refuses a stream of another program or format. `unusable` is a setting of an unused stream that
    /// another program must have made.
    fn check_owner(
        &self,
        config: &Value,
        unusable: Option<&str>,
        purpose: Purpose,
    ) -> Result<(), SetupError> {
        let metadata = &config["metadata"];
        if purpose == Purpose::Serve && is_unfinished(config) {
            return Err(SetupError::Unfinished { stream: self.stream.clone() });
        }
        let found = match (metadata[FORMAT_KEY].as_str(), metadata[CLUSTER_KEY].as_str(), unusable) {
            (Some(_), _, Some(setting)) => {
                format!("not a jetway bucket (another program made it: {setting} = {})", config[setting])
            }
            (Some(format), Some(_), None) if format == purpose.format() => return Ok(()),
            // The restore has ended already.
            (Some(format), Some(_), None)
                if purpose == Purpose::ServeRestored && format == Purpose::Serve.format() =>
            {
                return Ok(());
            }
            (Some(format), ..) => {
                format!("a jetway bucket of format {format}, where this jetway needs {FORMAT}")
            }
            (None, ..) => "not a jetway bucket (another program made it)".to_owned(),
        };
        Err(SetupError::Foreign { stream: self.stream.clone(), found })
    }
}

/// Whether a restore into a stream has not ended.
pub(super) fn is_unfinished(config: &Value) -> bool {
    config["metadata"][FORMAT_KEY] == UNFINISHED
}

/// Whether a stream was made by others, for jetway, and never held a message.
fn is_unused(info: &StreamInfo) -> bool {
    let metadata = &info.config["metadata"];
    let first = info.config["first_seq"].as_u64().unwrap_or(1).max(1);
    metadata[FORMAT_KEY].is_null()
        && metadata[CLUSTER_KEY].is_null()
        && info.state.messages == 0
        && info.state.last_seq + 1 == first
}
