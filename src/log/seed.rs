//! Makes JetStream's metadata for streams that exist already.
//!
//! Two servers with empty stores stand for the cluster to come. One has the name of the server with the
//! streams. They list the same streams with the same settings, place them on that one, and then it stays
//! alone. Its metadata makes a clustered server with the real streams take them up.

use super::api::{Api, ApiError, StreamPage};
use super::connect::{ConnectError, Connection, Endpoint};
use super::login::Auth;
use super::metadata_group::{GroupError, MetadataGroup, server_id};
use super::rights::{API_PREFIX, Denials};
use serde_json::{Value, json};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// Longest wait for the two servers: they elect a leader, at worst with the longest timeout of their Raft.
const READY_TIMEOUT: Duration = Duration::from_secs(40);
/// Longest wait for one answer. A request that comes before there is a leader gets none.
const ANSWER: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);
/// Metadata of a stream that the server adds to each answer.
const OF_SERVER: &str = "_nats.";

/// The metadata cannot be made.
#[derive(Debug, Error)]
pub enum SeedError {
    /// No connection to one of the two servers.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The streams that there are.
    #[error("the streams are not known: {0}")]
    Streams(ApiError),
    /// A step was not done in time.
    #[error("the servers that prepare the metadata do not {step} within {READY_TIMEOUT:?}: {cause}")]
    Late {
        /// The step.
        step: &'static str,
        /// The last answer.
        cause: String,
    },
    /// A stream has got other settings.
    #[error("the prepared stream {stream} has {setting} = {prepared}, and the real one {real}")]
    Differs {
        /// The stream.
        stream: String,
        /// The setting.
        setting: String,
        /// Its prepared value.
        prepared: Value,
        /// Its value.
        real: Value,
    },
    /// The group of the two servers.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// The two servers.
#[derive(Debug)]
pub struct SeedServers {
    /// The one with the name of the server with the streams.
    pub endpoint: Endpoint,
    /// The credentials of its system account.
    pub system: Auth,
    /// The name of that server.
    pub own: String,
    /// Its tag.
    pub own_tag: String,
    /// The name of the other server.
    pub helper: String,
}

/// Lists the streams of `live` in the metadata of the two servers, of which then one is left. Returns the
/// number of streams.
///
/// # Errors
/// [`SeedError`].
pub async fn seed_metadata(live: &Api, servers: &SeedServers) -> Result<usize, SeedError> {
    let streams = configs(live).await.map_err(SeedError::Streams)?;
    let client = Connection::open(&servers.endpoint, "jetway preparation").await?;
    let api = Api::new(client.client.clone(), API_PREFIX, Denials::default());
    let group = MetadataGroup::open(&servers.endpoint, &servers.system).await?;
    for config in &streams {
        let name = config["name"].as_str().unwrap_or_default();
        let mut placed = config.clone();
        placed["placement"] = json!({ "tags": [servers.own_tag] });
        call(&api, "make a stream", &format!("STREAM.CREATE.{name}"), &placed).await?;
        let prepared = call(&api, "place a stream", &format!("STREAM.UPDATE.{name}"), config).await?;
        compare(name, config, prepared["config"].clone())?;
    }
    let step = Step::new("choose their leader");
    loop {
        let cause = match group.peers().await {
            Ok(peers) if peers[0].id == server_id(&servers.own) => break,
            Ok(peers) => format!("{} leads", peers[0].id),
            Err(error) => error.to_string(),
        };
        drop(group.prefer(&servers.own).await);
        step.again(cause).await?;
    }
    group.remove(&server_id(&servers.helper)).await?;
    let step = Step::new("part");
    loop {
        let cause = match group.peers().await {
            Ok(peers) if peers.len() == 1 => return Ok(streams.len()),
            Ok(peers) => format!("{} servers are left", peers.len()),
            Err(error) => error.to_string(),
        };
        step.again(cause).await?;
    }
}

/// The settings of all streams, without those that the server adds.
async fn configs(api: &Api) -> Result<Vec<Value>, ApiError> {
    let mut configs = Vec::new();
    loop {
        let page: StreamPage = api.call("STREAM.LIST", &json!({ "offset": configs.len() })).await?;
        let streams = page.streams.unwrap_or_default();
        let is_last = streams.is_empty();
        configs.extend(streams.into_iter().map(|info| plain(info.config)));
        if is_last || configs.len() >= page.total {
            return Ok(configs);
        }
    }
}

/// Settings without those that a server adds.
fn plain(mut config: Value) -> Value {
    if let Some(metadata) = config["metadata"].as_object_mut() {
        metadata.retain(|key, _| !key.starts_with(OF_SERVER));
    }
    config
}

fn compare(stream: &str, real: &Value, prepared: Value) -> Result<(), SeedError> {
    let prepared = plain(prepared);
    let settings = |config: &Value| config.as_object().cloned().unwrap_or_default();
    let all = settings(real).into_iter().chain(settings(&prepared)).map(|(setting, _)| setting);
    for setting in all.filter(|setting| setting != "placement") {
        if real[&setting] != prepared[&setting] {
            let (prepared, real) = (prepared[&setting].clone(), real[&setting].clone());
            return Err(SeedError::Differs { stream: stream.to_owned(), setting, prepared, real });
        }
    }
    Ok(())
}

/// Makes a request until it is granted.
async fn call(api: &Api, step: &'static str, subject: &str, body: &Value) -> Result<Value, SeedError> {
    let step = Step::new(step);
    loop {
        let cause = match tokio::time::timeout(ANSWER, api.call::<Value>(subject, body)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        step.again(cause).await?;
    }
}

/// A step that is taken again until it succeeds.
struct Step {
    name: &'static str,
    deadline: Instant,
}

impl Step {
    fn new(name: &'static str) -> Step {
        Step { name, deadline: Instant::now() + READY_TIMEOUT }
    }

    /// Waits before the next attempt, after one that failed for a cause.
    async fn again(&self, cause: String) -> Result<(), SeedError> {
        if Instant::now() >= self.deadline {
            return Err(SeedError::Late { step: self.name, cause });
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
