//! Calls and answers between instances, as protobuf messages. A put, a delete or a transaction in one is
//! protobuf, too. Any other call, and each outcome, is JSON.

use super::{Outcome, Proposal};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, TxnRequest};
use crate::txn::Request;
use crate::types::LogIndex;
use bytes::Bytes;
use prost::Message as _;

/// Calls of one instance to the writer, in one message.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::engine) struct WireCalls {
    /// The random number that the asking instance chose at its start.
    #[prost(fixed64, tag = "1")]
    pub(in crate::engine) instance: u64,
    /// Its lowest counter that is still open.
    #[prost(uint64, tag = "2")]
    pub(in crate::engine) lowest_open: u64,
    #[prost(message, repeated, tag = "3")]
    pub(in crate::engine) calls: Vec<WireCall>,
    /// The asking instance's member and its vote, as in [`WireVote`].
    #[prost(fixed64, tag = "4")]
    pub(in crate::engine) member: u64,
    #[prost(uint64, optional, tag = "5")]
    pub(in crate::engine) vote: Option<u64>,
}

/// One call, or a part of a large one.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::engine) struct WireCall {
    #[prost(uint64, tag = "1")]
    pub(in crate::engine) counter: u64,
    /// The user, and the auth revision at which it was recognised.
    #[prost(string, optional, tag = "2")]
    pub(in crate::engine) user: Option<String>,
    #[prost(uint64, tag = "3")]
    pub(in crate::engine) auth_revision: u64,
    /// Milliseconds that the client still waits.
    #[prost(uint64, tag = "4")]
    pub(in crate::engine) timeout_ms: u64,
    /// The kind of the content.
    #[prost(uint32, tag = "5")]
    pub(in crate::engine) kind: u32,
    /// The content, or a part of it.
    #[prost(bytes = "bytes", tag = "6")]
    pub(in crate::engine) content: Bytes,
    /// The number of this part, from 0, and of all parts.
    #[prost(uint32, tag = "7")]
    pub(in crate::engine) part: u32,
    #[prost(uint32, tag = "8")]
    pub(in crate::engine) parts: u32,
}

const PUT: u32 = 1;
const DELETE_RANGE: u32 = 2;
const TXN: u32 = 3;
const OTHER: u32 = 4;

impl Proposal {
    /// Its kind and content in a message; `None` for one that never leaves its instance.
    pub(in crate::engine) fn encode(&self) -> Option<(u32, Bytes)> {
        let (kind, content) = match self {
            Proposal::Write(Request::Put(put)) => (PUT, put.encode_to_vec()),
            Proposal::Write(Request::DeleteRange(delete)) => (DELETE_RANGE, delete.encode_to_vec()),
            Proposal::Write(Request::Txn(txn)) => (TXN, txn.encode_to_vec()),
            Proposal::Trim { .. } => return None,
            other => (OTHER, serde_json::to_vec(other).expect("plain data")),
        };
        Some((kind, content.into()))
    }

    /// Reads what [`Proposal::encode`] has written.
    pub(in crate::engine) fn decode(kind: u32, content: Bytes) -> Option<Proposal> {
        Some(match kind {
            PUT => Proposal::Write(Request::Put(PutRequest::decode(content).ok()?)),
            DELETE_RANGE => Proposal::Write(Request::DeleteRange(DeleteRangeRequest::decode(content).ok()?)),
            TXN => Proposal::Write(Request::Txn(TxnRequest::decode(content).ok()?)),
            OTHER => serde_json::from_slice(&content).ok()?,
            _ => return None,
        })
    }
}

/// Answers to calls of one instance, in one message.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::engine) struct WireAnswers {
    #[prost(message, repeated, tag = "1")]
    pub(in crate::engine) answers: Vec<WireAnswer>,
}

/// One answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::engine) struct WireAnswer {
    #[prost(uint64, tag = "1")]
    pub(in crate::engine) counter: u64,
    /// The asking instance's state must reach this index before it answers its client.
    #[prost(uint64, tag = "2")]
    pub(in crate::engine) index: u64,
    /// The outcome or the error, as JSON.
    #[prost(bytes = "vec", tag = "3")]
    outcome: Vec<u8>,
    /// The nonce of the epoch in which the call was asked.
    #[prost(fixed64, tag = "4")]
    pub(in crate::engine) nonce: u64,
}

impl WireAnswer {
    pub(in crate::engine) fn new(
        nonce: u64,
        counter: u64,
        index: LogIndex,
        outcome: &Result<Outcome, EtcdError>,
    ) -> WireAnswer {
        let outcome = serde_json::to_vec(outcome).expect("plain data");
        WireAnswer { counter, index: index.0, outcome, nonce }
    }

    /// The outcome; `None` where a newer instance has sent one that is not known here.
    pub(in crate::engine) fn outcome(&self) -> Option<Result<Outcome, EtcdError>> {
        serde_json::from_slice(&self.outcome).ok()
    }
}

/// The heartbeat of the writer, and the status message of any other instance.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::engine) struct WireStatus {
    /// The nonce of the sender's epoch; of an instance that does not write, that of the epoch it follows.
    #[prost(fixed64, tag = "1")]
    pub(in crate::engine) nonce: u64,
    /// The random number that the sender chose at its start.
    #[prost(fixed64, tag = "2")]
    pub(in crate::engine) instance: u64,
    /// Its member, as JSON.
    #[prost(bytes = "vec", tag = "3")]
    pub(in crate::engine) member: Vec<u8>,
    /// The index that its state has, and the digest there.
    #[prost(uint64, tag = "4")]
    pub(in crate::engine) index: u64,
    #[prost(fixed64, tag = "5")]
    pub(in crate::engine) digest: u64,
    /// Whether it holds everything that the log holds, as far as it knows.
    #[prost(bool, tag = "6")]
    pub(in crate::engine) is_ready: bool,
    /// It votes for the writer of no epoch before this one.
    #[prost(uint64, tag = "7")]
    pub(in crate::engine) promised: u64,
}

/// A question to every instance: a candidate's for its status, or the writer's for its vote.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::engine) struct WireQuestion {
    /// The random number that the asking instance chose at its start.
    #[prost(fixed64, tag = "1")]
    pub(in crate::engine) instance: u64,
    /// The epoch for which a candidate needs promises; 0 if it needs none.
    #[prost(uint64, tag = "2")]
    pub(in crate::engine) epoch: u64,
    /// The number of the writer's poll.
    #[prost(uint64, tag = "3")]
    pub(in crate::engine) poll: u64,
}

/// A vote.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::engine) struct WireVote {
    /// The member that votes.
    #[prost(fixed64, tag = "1")]
    pub(in crate::engine) member: u64,
    /// The lowest epoch whose writer it votes for, if it votes.
    #[prost(uint64, optional, tag = "2")]
    pub(in crate::engine) epoch: Option<u64>,
    /// The number of the poll.
    #[prost(uint64, tag = "3")]
    pub(in crate::engine) poll: u64,
}
