//! The settings of the engine.

use super::membership::ChangeRules;
use crate::auth;
use crate::durability::Level;
use crate::log::{Auth, Endpoint};
use crate::record::Member;
use std::time::Duration;
use tokio::sync::watch;

/// How a read is made linearizable where other instances may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinearizableReads {
    /// By a committed message, which proves that its sender still writes.
    #[default]
    Quorum,
    /// Without a message: the instance that last became the writer answers. A read can be stale for about a
    /// second around a partition.
    Leader,
}

/// The settings of the engine.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and all pairs occur")]
pub(crate) struct EngineSettings {
    /// NATS and the bucket.
    pub endpoint: Endpoint,
    /// No other instance can reach the bucket: the embedded server admits only this one.
    pub is_alone: bool,
    /// For reads where others may write.
    pub linearizable_reads: LinearizableReads,
    /// The store's directory where it is on this machine, for its size on disk.
    pub store_dir: Option<std::path::PathBuf>,
    /// When an answered write is on stable storage.
    pub durability: Level,
    /// The JetStream store, where its messages are made durable from here (see [`crate::durability`]).
    pub synced_store: Option<std::path::PathBuf>,
    /// Why the embedded server's store refuses writes, while it does.
    pub store_error: Option<watch::Receiver<Option<String>>>,
    /// Bytes above which the NOSPACE alarm is raised; negative for no limit.
    pub quota_bytes: i64,
    /// Largest write request in bytes, and so about the largest message.
    pub largest_message: usize,
    /// This instance in the member list.
    pub member: Member,
    /// The founding members of a cluster, whose members change by calls of the API alone; empty for one whose
    /// members are listed. `None` if each instance that serves the bucket is a member.
    pub founders: Option<Vec<Member>>,
    /// The credentials of the embedded server's system account, which it has in a cluster.
    pub system: Option<Auth>,
    /// The account of the stream on a member's server.
    pub account: &'static str,
    /// Rules for changes of the members of a cluster.
    pub change_rules: ChangeRules,
    /// Whether this member has never been in its cluster, so that no client waits for it.
    pub is_joining: bool,
    /// The time between two heartbeats of the writer.
    pub heartbeat_interval: Duration,
    /// Silence of the writer after which another instance takes over.
    pub election_timeout: Duration,
    /// Messages that are missing from the log are given up.
    pub accepts_loss: bool,
    /// The bucket is being filled by this process, and is served once that has ended.
    pub is_being_filled: bool,
    /// For users and their tokens.
    pub auth: auth::AuthSettings,
}
