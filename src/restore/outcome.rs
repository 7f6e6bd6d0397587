//! The steps of a migration, and its ends.

use super::follow::SourceCallError;
use super::{RestoreError, plan};
use crate::snapshot::SavedError;
use crate::types::Revision;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// A migration that failed.
#[derive(Debug, Error)]
pub(crate) enum MigrateError {
    #[error(transparent)]
    Source(#[from] SourceCallError),
    #[error("the snapshot of the source {0}")]
    Content(#[from] SavedError),
    #[error("the source {0}")]
    Plan(#[from] plan::PlanError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(
        "the source sends no snapshot, and is no kine, as a jetway 0.1.0: its leases, users and roles would be left behind. Copy \
         its keys with etcdctl make-mirror"
    )]
    NoSnapshot,
    #[error(
        "users or roles of the source were changed during the migration, and their passwords cannot be copied one by one; run \
         the migration again"
    )]
    AuthChanged,
    #[error(
        "the source has the alarm CORRUPT, under which nothing can be written: an earlier migration has fenced it, or etcd has found \
         damage. If the members agree (etcdctl endpoint hashkv --cluster), run etcdctl alarm disarm, and the migration again"
    )]
    Corrupt,
    #[error(
        "{reason}; and the source is still fenced, since {error}: run etcdctl alarm disarm to let it write again"
    )]
    StillFenced { reason: Box<MigrateError>, error: SourceCallError },
    #[error(
        "{0}. The source is still fenced, so that nobody writes to both stores. Before another migration, or to go on \
         with the source: etcdctl alarm disarm"
    )]
    LeftFenced(RestoreError),
    #[error(
        "stopped before the end of the copy: nothing is served, and the source goes on; run the same command once more, which begins \
         anew"
    )]
    Stopped,
    #[error(
        "the copy has {ours}, and the source {theirs}, at revision {revision}; run the migration again. If they differ once more, an \
         etcd or a jetway can be copied by a snapshot: etcdctl snapshot save FILE, then jetway restore FILE"
    )]
    Different { revision: Revision, ours: String, theirs: String },
    #[error(
        "the source was written to after the end of the copy: it is at revision {now}, and the copy at {copied}. Stop its clients \
         and run the migration again into an empty store; --switch-over fences an etcd or a jetway, and waits until another \
         program is at rest"
    )]
    WentOn { copied: Revision, now: Revision },
}

/// How far a migration is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Bytes of the snapshot, of all.
    Receiving(u64, u64),
    /// Keys that were read in pages.
    Listing(usize),
    /// Versions of the snapshot, of all.
    Writing(usize, usize),
    /// The revision of the copy, and that of the source.
    Following(Revision, Revision),
    /// The source cannot be fenced, and is at this revision: its writers must stop.
    Waiting(Revision),
    /// The source cannot be reached for now.
    Retrying,
}

/// How the copy and its source were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// By etcd's hash of the whole store.
    Hash,
    /// By that hash at a revision right before the fence. Behind it each revision and each version of a key
    /// followed the one before, and the numbers of keys are equal.
    HashTo(Revision),
    /// By the numbers of keys.
    Counts,
    /// By the digests of all keys.
    Keys,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compared::Hash => f.write_str("HashKV is equal"),
            Compared::HashTo(revision) => {
                write!(f, "HashKV is equal at revision {revision}, and each revision behind it was copied")
            }
            Compared::Counts => f.write_str("the numbers of keys are equal"),
            Compared::Keys => f.write_str("all keys are equal"),
        }
    }
}

/// The result of a migration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migrated {
    pub revision: Revision,
    pub floor: Option<Revision>,
    pub keys: usize,
    pub leases: usize,
    /// The means of the comparison at the end.
    pub compared: Compared,
    /// The time from the fence to the end, if there was a fence.
    pub frozen: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::super::error::LastStepError;
    use super::*;

    #[test]
    fn a_fence_that_was_left_is_named_with_both_remedies() {
        let step = LastStepError::Sync(std::io::Error::other("the disk is gone"));
        let text = MigrateError::LeftFenced(RestoreError::Uncertain(step)).to_string();
        for words in ["the disk is gone", "start jetway on it", "still fenced", "etcdctl alarm disarm"] {
            assert!(text.contains(words), "{text}");
        }
    }
}
