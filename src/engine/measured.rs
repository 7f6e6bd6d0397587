//! The last look at the stream, the account, the disk and the embedded server: for the room that is left, for
//! metrics and for the log.

use crate::disk;
use crate::log::{AccountInfo, AccountLoad, StreamInfo};
use std::fmt;
use std::time::Duration;

/// How long looks must find no leader of the stream: one request may be lost while a cluster elects.
pub(super) const ABSENCE: Duration = Duration::from_millis(1500);

/// The result of a look; `None` for a part that did not answer or does not exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// Whether there was a connection to NATS.
    pub(super) is_connected: bool,
    pub(super) stream: Option<StreamInfo>,
    pub(super) account: Option<AccountInfo>,
    pub(super) disk: Option<disk::Space>,
    pub(super) load: Option<AccountLoad>,
}

/// A kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitKind {
    Quota,
    Stream,
    Account,
    Disk,
}

/// A limit of the bytes that may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) kind: LimitKind,
    pub(super) used: u64,
    pub(super) bytes: u64,
    /// How often each byte of the log counts.
    copies: u64,
}

impl LimitKind {
    /// Its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            LimitKind::Quota => "quota",
            LimitKind::Stream => "stream",
            LimitKind::Account => "account",
            LimitKind::Disk => "disk",
        }
    }
}

impl Limit {
    /// The quota of `--quota-backend-bytes`.
    pub(super) fn quota(used: u64, bytes: u64) -> Limit {
        Limit { kind: LimitKind::Quota, used, bytes, copies: 1 }
    }

    /// Bytes of the log until puts are refused, because only the headroom is left. The quota has none.
    pub(super) fn left(&self) -> i64 {
        let headroom = if self.kind == LimitKind::Quota { 0 } else { disk::headroom(self.bytes) as i64 };
        (self.bytes as i64 - self.used as i64 - headroom) / self.copies as i64
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { used, bytes, .. } = self;
        match self.kind {
            LimitKind::Quota => {
                write!(f, "the quota: {used} of {bytes} bytes are used (--quota-backend-bytes)")
            }
            LimitKind::Stream => write!(f, "max_bytes of the stream: {used} of {bytes} bytes are used"),
            LimitKind::Account => {
                write!(f, "the storage of the JetStream account: {used} of {bytes} bytes are used")
            }
            LimitKind::Disk => {
                let free = bytes.saturating_sub(*used);
                write!(f, "the disk of the data directory: {free} of {bytes} bytes are free")
            }
        }
    }
}

impl Measured {
    /// All limits but the quota.
    pub(super) fn limits(&self) -> Vec<Limit> {
        let mut limits = Vec::new();
        let mut limit = |kind, used, bytes: i64, copies| match u64::try_from(bytes) {
            Ok(bytes) if bytes > 0 => limits.push(Limit { kind, used, bytes, copies }),
            _ => {}
        };
        if let Some(stream) = &self.stream {
            let max_bytes = stream.config["max_bytes"].as_i64().unwrap_or_default();
            limit(LimitKind::Stream, stream.state.bytes, max_bytes, 1);
            // Everything that is stored counts once for each replica.
            let copies = stream.config["num_replicas"].as_u64().unwrap_or(1).max(1);
            // A user that may not ask for the account's limits learns of them when they are met.
            let of_account = self.account.iter().flat_map(AccountInfo::storage);
            of_account.for_each(|(used, bytes)| limit(LimitKind::Account, used, bytes, copies));
        }
        if let Some(disk) = self.disk {
            limit(LimitKind::Disk, disk.total.saturating_sub(disk.free), disk.total as i64, 1);
        }
        limits
    }

    /// Whether the stream has a leader; `None` if it is not known.
    pub(super) fn has_leader(&self) -> Option<bool> {
        match &self.stream {
            Some(stream) => Some(stream.is_from_leader()),
            // Only the leader of a stream answers, or those that know that there is none.
            None => self.is_connected.then_some(false),
        }
    }

    /// The name of the server with the stream's leader.
    pub(super) fn leader(&self) -> Option<&str> {
        self.stream.as_ref()?.cluster.as_ref()?.leader()
    }
}
