//! JetStream's request-reply API, as raw JSON.

use super::codec;
use super::rights::{Denials, Denied, Use};
use crate::record::Record;
use crate::types::Sequence;
use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::{Client, HeaderMap, Request};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

const TIMEOUT: Duration = Duration::from_secs(5);
/// The same for each attempt of a request that changes nothing; [`TIMEOUT`] together.
const READ_ATTEMPTS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_millis(3500)];

/// A request without a usable answer.
#[derive(Debug, Error)]
pub enum ApiError {
    /// JetStream refused it.
    #[error("JetStream: {description} (code {err_code})")]
    Refused {
        /// HTTP-like class.
        code: u16,
        /// JetStream's own number.
        err_code: u32,
        /// Its text.
        description: String,
    },
    /// The user has no right to make it.
    #[error("the NATS user may not {0}")]
    Denied(Denied),
    /// No answer in time.
    #[error("no answer to {0} within 5 s: the server or its disk stands still")]
    TimedOut(String),
    /// A cluster without a leader. It gives no answer in time, or an error.
    #[error(
        "JetStream in the NATS cluster {cluster:?} has no leader for {request} now; a majority of its servers must be up"
    )]
    NoLeader {
        /// The request.
        request: String,
        /// The name of the cluster.
        cluster: String,
    },
    /// There are no responders: no JetStream in this account, or the stream has no leader.
    #[error("nobody answers {0}: no JetStream in this NATS account, or the stream has no leader now")]
    NoResponders(String),
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
    /// An answer that cannot be read.
    #[error("unexpected answer to {0}: {1}")]
    Malformed(String, serde_json::Error),
}

impl ApiError {
    /// JetStream's number for "no such stream".
    pub const STREAM_NOT_FOUND: u32 = 10059;
    /// JetStream's number for a stream of that name with another configuration.
    pub const NAME_IN_USE: u32 = 10058;
    const NO_META_LEADER: u32 = 10008;
    const MESSAGE_NOT_FOUND: u32 = 10037;
    const NO_MESSAGE: u32 = 10043;
    const BEYOND_LAST: u32 = 10057;

    /// Whether a cluster may answer so while it still looks for its servers or a leader.
    pub fn may_pass(&self) -> bool {
        match self {
            // No suitable peers, not available, not the leader. Without a leader there is no answer at all.
            ApiError::Refused { err_code: 10005 | 10008 | 10009, .. }
            | ApiError::TimedOut(_)
            | ApiError::NoLeader { .. }
            | ApiError::NoResponders(_) => true,
            _ => false,
        }
    }

    /// Whether there is no such stream.
    pub fn is_absent(&self) -> bool {
        matches!(self, ApiError::Refused { err_code: 10059, .. })
    }

    /// JetStream's own error number, if it answered with one.
    pub fn err_code(&self) -> Option<u32> {
        match self {
            ApiError::Refused { err_code, .. } => Some(*err_code),
            _ => None,
        }
    }
}

/// JetStream's information about a stream.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamInfo {
    /// Time of its creation, as the server writes it. Another value means another stream.
    pub created: String,
    /// Its settings, unread ones included.
    pub config: Value,
    /// Its content.
    pub state: StreamState,
    /// The server's clock at the answer, RFC 3339.
    #[serde(default)]
    pub ts: Option<String>,
    /// The servers that hold it; `None` on a server without a cluster.
    #[serde(default)]
    pub cluster: Option<Cluster>,
}

/// The streams of an account, one page of them.
#[derive(Debug, Deserialize)]
pub(super) struct StreamPage {
    #[serde(default)]
    pub(super) total: usize,
    pub(super) streams: Option<Vec<StreamInfo>>,
}

/// Content of a stream.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamState {
    /// Number of messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The oldest one.
    pub first_seq: u64,
    /// The newest position, whether or not a message is there.
    pub last_seq: u64,
    /// Sequences that were removed, if they were asked for.
    #[serde(default)]
    pub deleted: Vec<u64>,
    /// Messages that the server knows to be lost to damage.
    #[serde(default)]
    pub lost: Option<Value>,
}

/// The servers that hold a stream.
#[derive(Clone, Debug, Deserialize)]
pub struct Cluster {
    #[serde(default)]
    leader: Option<String>,
    /// All of them but the leader.
    #[serde(default)]
    pub replicas: Vec<Replica>,
    /// The name of the group, where there is more than one copy.
    #[serde(default)]
    raft_group: Option<String>,
    /// The servers that it moves to, and how far that is.
    #[serde(default)]
    desired: Option<Value>,
}

/// A server with a copy of a stream.
#[derive(Clone, Debug, Deserialize)]
pub struct Replica {
    /// The name of the server.
    pub name: String,
    /// Whether it has all that the leader has.
    #[serde(default)]
    pub current: bool,
    /// How many operations it is behind the leader.
    #[serde(default)]
    pub lag: u64,
    /// Nanoseconds since the leader last heard of it.
    #[serde(default)]
    active: u64,
}

/// The leader of a group hears of each of its servers at least once a second.
const HEARTBEATS: Duration = Duration::from_millis(1500);

impl Replica {
    /// Whether it has all that the leader has, and the leader has heard of it just now.
    pub fn is_up_to_date(&self) -> bool {
        self.current && self.lag == 0 && self.last_heard() < HEARTBEATS
    }

    /// The time since the leader last heard of it.
    pub fn last_heard(&self) -> Duration {
        Duration::from_nanos(self.active)
    }
}

impl Cluster {
    /// The name of the leader's server, if there is a leader.
    pub fn leader(&self) -> Option<&str> {
        self.leader.as_deref().filter(|leader| !leader.is_empty())
    }
}

impl StreamInfo {
    /// Position of the newest message.
    pub fn last(&self) -> Sequence {
        Sequence(self.state.last_seq)
    }

    /// The number of its copies.
    pub fn copies(&self) -> usize {
        self.config["num_replicas"].as_u64().unwrap_or(1) as usize
    }

    /// The name of the leader's server, if there is a cluster and a leader.
    pub fn leader(&self) -> Option<&str> {
        self.cluster.as_ref()?.leader()
    }

    /// Whether it has a leader of a group of copies, all of which take its messages.
    pub fn is_group(&self) -> bool {
        self.leader().is_some() && self.cluster.as_ref().is_some_and(|cluster| cluster.raft_group.is_some())
    }

    /// Whether all copies are there and hold what the leader has, and none is left of an earlier number.
    pub fn is_settled(&self) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        cluster.leader().is_some()
            && cluster.desired.is_none()
            && cluster.replicas.len() + 1 == self.copies()
            && cluster.replicas.iter().all(|replica| replica.current)
    }

    /// Whether a leader answered. Members of a group without a leader answer too, from their own copy.
    pub fn is_from_leader(&self) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.leader().is_some())
    }
}

/// Storage and limits of an account, as a whole or by number of replicas.
#[derive(Clone, Debug, Deserialize)]
pub struct AccountInfo {
    #[serde(flatten)]
    whole: Tier,
    #[serde(default)]
    tiers: HashMap<String, Tier>,
}

#[derive(Clone, Debug, Deserialize)]
struct Tier {
    #[serde(default)]
    storage: u64,
    #[serde(default)]
    consumers: i64,
    #[serde(default)]
    limits: Limits,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Limits {
    #[serde(default)]
    max_storage: i64,
    #[serde(default)]
    max_consumers: i64,
}

impl AccountInfo {
    /// Bytes stored in files and their limit, for each limit that may apply to the bucket. One that is not
    /// positive is none.
    pub fn storage(&self) -> impl Iterator<Item = (u64, i64)> + '_ {
        self.tiers.values().chain([&self.whole]).map(|tier| (tier.storage, tier.limits.max_storage))
    }

    /// Consumers that the account may still make; `None` without a limit.
    pub fn free_consumers(&self) -> Option<i64> {
        let limited = self.tiers.values().chain([&self.whole]).filter(|tier| tier.limits.max_consumers > 0);
        limited.map(|tier| (tier.limits.max_consumers - tier.consumers).max(0)).min()
    }
}

/// Connections of an account.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct AccountLoad {
    /// Clients that are connected.
    #[serde(rename = "conns")]
    pub connections: u64,
    /// Clients that were disconnected because they did not read fast enough, since the server's start.
    #[serde(default)]
    pub slow_consumers: u64,
}

#[derive(Deserialize)]
struct AccountLoadAnswer {
    data: AccountLoads,
}

#[derive(Deserialize)]
struct AccountLoads {
    #[serde(default)]
    account_statz: Vec<AccountLoad>,
}

/// A message read by its sequence or subject.
#[derive(Clone, Debug, Deserialize)]
pub struct StoredMessage {
    /// Its subject.
    pub subject: String,
    /// Its sequence.
    pub seq: u64,
    /// Its headers, in base64.
    #[serde(default)]
    hdrs: Option<String>,
    /// Its payload, in base64.
    #[serde(default)]
    data: Option<String>,
}

impl StoredMessage {
    /// The record that the message is; `None` for a foreign one. `prefix` is that of the bucket.
    pub fn record(&self, prefix: &str) -> Option<Record> {
        let headers = BASE64_STANDARD.decode(self.hdrs.as_ref()?).ok()?;
        let payload = BASE64_STANDARD.decode(self.data.as_deref().unwrap_or_default()).ok()?;
        let subject = self.subject.strip_prefix(prefix)?;
        codec::decode(subject, std::str::from_utf8(&headers).ok()?, &payload, Sequence(self.seq))
    }
}

#[derive(Deserialize)]
struct MessageAnswer {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    #[serde(default)]
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: u16,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

/// Waits until the server denies a request; for ever if it does not.
async fn denial_of(mut denials: broadcast::Receiver<Denied>, request: &str) -> Denied {
    loop {
        match denials.recv().await {
            Ok(denied) if denied.usage == Use::Publish && denied.subject == request => return denied,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// JetStream's API over one connection.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    /// The beginning of all its subjects, without a dot at the end.
    prefix: String,
    denials: Denials,
}

impl Api {
    /// Requests go through `client`, to subjects below `prefix`.
    pub(super) fn new(client: Client, prefix: &str, denials: Denials) -> Api {
        Api { client, prefix: prefix.to_owned(), denials }
    }

    /// A subject of its own for answers.
    pub(super) fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// Whether a request would be sent now, and not kept for the next connection.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Sends a request below the prefix and reads its answer.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn call<T: DeserializeOwned>(&self, request: &str, body: &Value) -> Result<T, ApiError> {
        self.ask(format!("{}.{request}", self.prefix), body).await
    }

    /// The same for a request that changes nothing: it is sent again when an answer does not come, because
    /// NATS loses requests while a cluster elects a leader or a route comes up.
    async fn read<T: DeserializeOwned>(&self, request: &str, body: &Value) -> Result<T, ApiError> {
        self.ask_within(format!("{}.{request}", self.prefix), body, &READ_ATTEMPTS).await
    }

    async fn ask<T: DeserializeOwned>(&self, subject: String, body: &Value) -> Result<T, ApiError> {
        self.ask_within(subject, body, &[TIMEOUT]).await
    }

    /// Sends a request once for each of `attempts`, which are the longest waits for its answer.
    async fn ask_within<T: DeserializeOwned>(
        &self,
        subject: String,
        body: &Value,
        attempts: &[Duration],
    ) -> Result<T, ApiError> {
        let payload = Bytes::from(if body.is_null() { String::new() } else { body.to_string() });
        let send = async {
            let (last, earlier) = attempts.split_last().unwrap_or((&TIMEOUT, &[]));
            for timeout in earlier {
                match self.send(&subject, &payload, *timeout).await {
                    Err(error) if error.kind() == RequestErrorKind::TimedOut => {}
                    answer => return answer,
                }
            }
            self.send(&subject, &payload, *last).await
        };
        let answer = tokio::select! {
            answer = send => answer,
            denied = denial_of(self.denials.subscribe(), &subject) => return Err(ApiError::Denied(denied)),
        };
        let answer = answer.map_err(|error| match (error.kind(), self.client.server_info().cluster) {
            (RequestErrorKind::TimedOut, Some(cluster)) => {
                ApiError::NoLeader { request: subject.clone(), cluster }
            }
            (RequestErrorKind::TimedOut, None) => ApiError::TimedOut(subject.clone()),
            (RequestErrorKind::NoResponders, _) => ApiError::NoResponders(subject.clone()),
            _ => ApiError::Connection(error.to_string()),
        })?;
        let malformed = |error| ApiError::Malformed(subject.clone(), error);
        let refusal: ErrorAnswer = serde_json::from_slice(&answer.payload).map_err(malformed)?;
        if let (Some(ErrorBody { err_code: ApiError::NO_META_LEADER, .. }), Some(cluster)) =
            (&refusal.error, self.client.server_info().cluster)
        {
            return Err(ApiError::NoLeader { request: subject, cluster });
        }
        if let Some(ErrorBody { code, err_code, description }) = refusal.error {
            return Err(ApiError::Refused { code, err_code, description });
        }
        serde_json::from_slice(&answer.payload).map_err(malformed)
    }

    async fn send(
        &self,
        subject: &str,
        payload: &Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message, RequestError> {
        let request =
            Request::new().payload(payload.clone()).timeout(Some(timeout)).headers(HeaderMap::new());
        self.client.send_request(subject.to_owned(), request).await
    }

    /// Settings and content of a stream.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        self.read(&format!("STREAM.INFO.{stream}"), &Value::Null).await
    }

    /// The same, with the sequences that were removed between the first message and the last.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn stream_info_with_deleted(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        self.read(&format!("STREAM.INFO.{stream}"), &json!({ "deleted_details": true })).await
    }

    /// Storage and limits of the account.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn account_info(&self) -> Result<AccountInfo, ApiError> {
        self.read("INFO", &Value::Null).await
    }

    /// The connections of the account to the server of this connection. A user of an existing NATS may lack
    /// the right to ask.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn account_load(&self) -> Result<Option<AccountLoad>, ApiError> {
        // All servers of a cluster get the request.
        let this_server =
            json!({ "server_name": self.client.server_info().server_name, "exact_match": true });
        let answer: AccountLoadAnswer =
            self.ask("$SYS.REQ.ACCOUNT.PING.STATZ".to_owned(), &this_server).await?;
        Ok(answer.data.account_statz.into_iter().next())
    }

    /// The message at a position, from the stream's leader; `None` if there is none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn message(&self, stream: &str, sequence: Sequence) -> Result<Option<StoredMessage>, ApiError> {
        self.find(stream, &json!({ "seq": sequence.0 })).await
    }

    /// The first message of a subject at or behind a sequence, from the stream's leader.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn next_message(
        &self,
        stream: &str,
        from: Sequence,
        subject: &str,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.find(stream, &json!({ "seq": from.0, "next_by_subj": subject })).await
    }

    async fn find(&self, stream: &str, query: &Value) -> Result<Option<StoredMessage>, ApiError> {
        match self.read::<MessageAnswer>(&format!("STREAM.MSG.GET.{stream}"), query).await {
            Ok(answer) => Ok(Some(answer.message)),
            Err(error)
                if matches!(
                    error.err_code(),
                    Some(ApiError::MESSAGE_NOT_FOUND | ApiError::NO_MESSAGE | ApiError::BEYOND_LAST)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes one message; a message that is gone already counts as removed. Never erases in place: that
    /// overwrites the block file and is not crash-safe.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn delete_message(&self, stream: &str, sequence: Sequence) -> Result<(), ApiError> {
        let body = json!({ "seq": sequence.0, "no_erase": true });
        match self.call::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &body).await {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.err_code(),
                    Some(ApiError::NO_MESSAGE | ApiError::BEYOND_LAST | ApiError::MESSAGE_NOT_FOUND)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
