//! The answers of JetStream's API.

use crate::log::codec;
use crate::log::mirror::Lag;
use crate::record::Record;
use crate::types::Sequence;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

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
    /// The state of the mirroring; `None` for a stream that is no mirror.
    #[serde(default)]
    mirror: Option<Mirroring>,
}

/// The mirroring of a stream, as JetStream describes it.
#[derive(Clone, Debug, Deserialize)]
struct Mirroring {
    /// Messages that the origin had more when the last one came.
    #[serde(default)]
    lag: u64,
    /// Nanoseconds since the origin was heard of, negative for never.
    active: i64,
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
    pub raft_group: Option<String>,
    /// The servers that it moves to, and how far that is.
    #[serde(default)]
    desired: Option<Value>,
}

/// The streams of an account, one page of them.
#[derive(Debug, Deserialize)]
pub(in crate::log) struct StreamPage {
    #[serde(default)]
    pub(in crate::log) total: usize,
    pub(in crate::log) streams: Option<Vec<StreamInfo>>,
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

    /// The lag of a mirror; `None` for a stream that is none.
    pub fn lag(&self) -> Option<Lag> {
        let Mirroring { lag, active } = self.mirror.as_ref()?;
        let silence = u64::try_from(*active).ok().map(Duration::from_nanos);
        Some(Lag { messages: *lag, silence })
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
pub(super) struct AccountLoadAnswer {
    pub(super) data: AccountLoads,
}

#[derive(Deserialize)]
pub(super) struct AccountLoads {
    #[serde(default)]
    pub(super) account_statz: Vec<AccountLoad>,
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
pub(super) struct MessageAnswer {
    pub(super) message: StoredMessage,
}

/// The answer to a message that was stored.
#[derive(Deserialize)]
pub(super) struct StoredAnswer {
    pub(super) seq: u64,
}

#[derive(Deserialize)]
pub(super) struct ErrorAnswer {
    #[serde(default)]
    pub(super) error: Option<ErrorBody>,
}

#[derive(Deserialize)]
pub(super) struct ErrorBody {
    pub(super) code: u16,
    #[serde(default)]
    pub(super) err_code: u32,
    #[serde(default)]
    pub(super) description: String,
}
