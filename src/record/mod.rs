//! The records of the log, and the rule that decides which of them are valid.
//!
//! The log is one ordered stream of messages. A message is a record of jetway's or foreign. A [`Record`]
//! names the epoch and the nonce of its writer, its [`LogIndex`], and the revision that it makes or leaves.
//! The [`Chain`] reads messages in the order of their sequences and returns the valid records; every reader
//! of the log uses it.
//!
//! No I/O and no NATS here: `log` turns messages into records and back.

mod chain;
mod loss;

pub use chain::{Chain, Outcome, Placed, TrimPoint};
pub use loss::{AcceptedLoss, Beginnings};

use crate::auth::{AuthStore, SimpleToken};
use crate::core::KeyVersion;
use crate::types::{Epoch, Grant, LeaseId, LogIndex, Revision};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of the stored format: subjects, headers and payloads. An instance that meets a higher one must not
/// go on.
pub const FORMAT: u32 = 2;

/// Names the request that a record belongs to; unique over all instances and restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId {
    /// A random number that each start of an instance chooses.
    pub instance: u64,
    /// Counts the instance's requests.
    pub counter: u64,
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.instance, self.counter)
    }
}

/// The digest of a state. Two states with the same content have the same digest, even after different
/// histories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Kinds of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AlarmKind {
    /// The quota is used up, or the disk is full.
    NoSpace,
    /// Data was found damaged.
    Corrupt,
}

impl AlarmKind {
    /// Its name in etcd's API.
    pub fn name(self) -> &'static str {
        match self {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        }
    }
}

/// An alarm that is raised for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Alarm {
    /// The member; it need not exist.
    pub member: u64,
    /// The kind.
    pub kind: AlarmKind,
}

/// An instance as the member list shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The URLs for clients.
    pub client_urls: Vec<String>,
    /// The URLs for peers.
    pub peer_urls: Vec<String>,
    /// Whether it does not count for a majority yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
}

/// The first record of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// [`OperationId::instance`] of the instance that writes from here on.
    pub instance: u64,
    /// The format of its records.
    pub format: u32,
    /// Its entry in the member list.
    pub member: Member,
    /// Its election timeout in milliseconds. A later writer adds the longest of them to each lease.
    pub election_timeout_ms: u64,
    /// Its quota in bytes, to be seen in the log; not positive for none.
    pub quota_bytes: i64,
    /// The digest of the state before this record.
    pub digest: Digest,
}

/// Names the records that may be missing from the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trim {
    /// Up to this index records may be missing.
    pub to: u64,
    /// The compaction floor; `None` before the first compaction.
    pub floor: Option<i64>,
    /// The digest of the state before this record.
    pub digest: Digest,
    /// Some of them, epoch records too, were lost, and the loss was accepted. Every later trim record repeats
    /// this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_lossy: bool,
    /// The last loss that was accepted, repeated in the same way. Logs of earlier versions do not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<AcceptedLoss>,
}

/// The content of a record.
#[derive(Clone, Debug)]
pub enum Body {
    /// A key's new version, which may be a tombstone.
    Key(KeyVersion),
    /// Proves that its writer is still the writer. Has no index.
    Barrier,
    /// An epoch begins.
    Epoch(Box<EpochStart>),
    /// A lease is granted, or ends.
    Lease(LeaseId, Option<Grant>),
    /// The compaction floor rises.
    Floor(Revision),
    /// Records up to an index may be missing from here on.
    Trim(Box<Trim>),
    /// The writer stops, with the digest of the state before this record.
    Stop(Digest),
    /// The users and roles.
    Users(Box<AuthStore>),
    /// An alarm is raised or lowered.
    Alarm(Alarm, bool),
    /// A token, named by its hash, is issued or ends.
    Token(String, Option<SimpleToken>),
    /// A member is added, changed or removed.
    Member(u64, Option<Box<Member>>),
}

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    /// The epoch of its writer.
    pub epoch: Epoch,
    /// The nonce of that epoch.
    pub nonce: u64,
    /// Its place in the log; for a barrier that of the last record before it.
    pub index: LogIndex,
    /// The revision of the store with this record.
    pub revision: Revision,
    /// Its place among the records of its batch, from 1.
    pub place: u32,
    /// The number of records in its batch.
    pub count: u32,
    /// The request that it belongs to.
    pub operation: OperationId,
    /// Its content.
    pub body: Body,
}

impl Record {
    /// About how many bytes it holds.
    pub fn size(&self) -> usize {
        match &self.body {
            Body::Key(version) => version.key().len() + version.value().len(),
            _ => 0,
        }
    }
}
