//! Records that contradict the state.

use crate::record::Digest;
use crate::types::{LogIndex, Revision};
use thiserror::Error;

/// A record does not fit the state before it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Damage {
    /// The version before is missing or another one.
    #[error(
        "the log is damaged at index {index}, revision {revision}: {key} has version {found} there, and version {before} before it"
    )]
    Predecessor {
        /// The record.
        index: LogIndex,
        /// Its revision.
        revision: Revision,
        /// The key, in a readable form.
        key: String,
        /// The version that the record makes; 0 for a delete.
        found: i64,
        /// The version that the key had; 0 for none.
        before: i64,
    },
    /// A revision does not follow the one before.
    #[error("the log is damaged at index {index}: revision {found} follows revision {before}")]
    Revision {
        /// The record.
        index: LogIndex,
        /// Its revision.
        found: Revision,
        /// The revision before.
        before: Revision,
    },
    /// The digest of the state is not that in the record.
    #[error(
        "the data is damaged: at index {index}, revision {revision}, its digest is {found}, and {expected} in the log"
    )]
    Digest {
        /// The record with the digest.
        index: LogIndex,
        /// The revision there.
        revision: Revision,
        /// The digest of the state.
        found: Digest,
        /// The digest in the record.
        expected: Digest,
    },
}
