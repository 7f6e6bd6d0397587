//! Numbers and ranges that all modules use. Depends on no other module.

mod key_range;

pub use key_range::KeyRange;

use serde::{Deserialize, Serialize};
use std::fmt;

/// A point in the store's history as an etcd client sees it. An empty store is at revision 1, the first write
/// makes 2, and every write transaction moves it by exactly one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision of a store that nobody has written to.
    pub const EMPTY_STORE: Revision = Revision(1);

    /// The revision that the next write makes.
    #[must_use]
    pub const fn next(self) -> Revision {
        Revision(self.0 + 1)
    }

    /// The revision just before this one, the one `prev_kv` of its events is read at.
    #[must_use]
    pub const fn prev(self) -> Revision {
        Revision(self.0 - 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of a message in a JetStream stream. It has no relation to a [`Revision`], which each record
/// carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The position before any message. A guard for a subject without messages expects it.
    pub const NONE: Sequence = Sequence(0);

    /// The position of the next message.
    #[must_use]
    pub const fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a record in the log, dense from 1: what etcd calls the Raft index. Void messages and barriers
/// have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// Before the first record.
    pub const NONE: LogIndex = LogIndex(0);

    /// The place of the next record.
    #[must_use]
    pub const fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a writer's term, from 1: what etcd calls the Raft term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An etcd lease id; 0 stands for "no lease" on the wire and in a stored version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// No lease.
    pub const NONE: LeaseId = LeaseId(0);

    /// Whether this names a lease at all.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for LeaseId {
    /// Lowercase hex without padding, the form etcd's tools print.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A lease as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Time to live, seconds.
    pub ttl: i64,
    /// The seconds that were left when the lease was copied from another server. The first writer of the copy
    /// counts from there; each later writer gives the full TTL, as after any change of the writer.
    pub remaining: Option<i64>,
}

impl Grant {
    /// A grant with its full TTL ahead.
    #[must_use]
    pub const fn full(ttl: i64) -> Grant {
        Grant { ttl, remaining: None }
    }
}
