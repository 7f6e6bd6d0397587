//! The refusals of JetStream's API.

use crate::log::rights::Denied;
use thiserror::Error;

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
    /// JetStream's number for a stream without a size in an account that wants one.
    pub const MAX_BYTES_REQUIRED: u32 = 10113;
    pub(super) const NO_META_LEADER: u32 = 10008;
    pub(super) const MESSAGE_NOT_FOUND: u32 = 10037;
    pub(super) const NO_MESSAGE: u32 = 10043;
    pub(super) const BEYOND_LAST: u32 = 10057;

    /// Whether a cluster may answer so while it still looks for its servers or a leader.
    pub fn is_transient(&self) -> bool {
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
