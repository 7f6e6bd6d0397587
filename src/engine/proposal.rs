//! Calls to the writer: everything that changes the log or needs the writer's word, from this instance or another one.

use crate::auth::{AuthStore, Caller, Permission};
use crate::core::State;
use crate::error::EtcdError;
use crate::record::{Alarm, AlarmKind, Member, OperationId};
use crate::txn::{Request, Response};
use crate::types::{LeaseId, LogIndex, Revision};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// The content of a call.
#[derive(Clone, Debug)]
pub(super) enum Proposal {
    /// A request that may write keys.
    Write(Request),
    /// Grants a lease; id 0 lets the writer choose.
    Grant { id: i64, ttl: i64 },
    /// Ends a lease.
    Revoke(LeaseId),
    /// Renews a lease.
    KeepAlive(LeaseId),
    /// Asks for the time that a lease has left.
    TimeToLive(LeaseId),
    /// Asks for all leases.
    Leases,
    /// Raises the compaction floor; with `physical` the answer waits for the removals.
    Compact { revision: Revision, physical: bool },
    /// Waits for the removals of the compactions so far.
    FinishRemovals,
    /// Writes a trim record for the compaction floor that the index belongs to; of the writer itself only.
    Trim { to: LogIndex, floor: Option<Revision> },
    /// Raises or lowers an alarm.
    Alarm { alarm: Alarm, raised: bool },
    /// Changes users or roles.
    Users(AuthChange),
    /// Issues a token, named by its hash, to a user at an auth revision.
    IssueToken { hash: String, user: String, revision: u64 },
    /// A token was used.
    TokenUsed { hash: String },
    /// Asks for an index that includes everything answered before.
    ReadIndex,
    /// Asks for a barrier of this call's own.
    Barrier,
    /// Moves the writer to another member.
    MoveLeader { target: u64 },
    /// Adds, changes or removes a member.
    Member { id: u64, member: Option<Member> },
}

/// A change of users or roles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum AuthChange {
    /// Starts to check permissions.
    Enable,
    /// Ends it.
    Disable,
    /// Adds a user; without a password where there is no hash.
    AddUser {
        /// Its name.
        name: String,
        /// The hash of its password.
        hash: Option<String>,
    },
    /// Removes a user.
    DeleteUser(String),
    /// Gives a user another password.
    ChangePassword {
        /// Its name.
        name: String,
        /// The hash of the password; an error that comes after "no such user".
        hash: Result<String, EtcdError>,
    },
    /// Gives a user a role.
    GrantRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Takes a role from a user.
    RevokeRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Adds a role.
    AddRole(String),
    /// Removes a role.
    DeleteRole(String),
    /// Gives a role a permission.
    GrantPermission {
        /// The role.
        role: String,
        /// The permission.
        permission: Option<Permission>,
    },
    /// Takes a permission from a role.
    RevokePermission {
        /// The role.
        role: String,
        /// The first key of its range.
        key: Vec<u8>,
        /// The end of its range.
        range_end: Vec<u8>,
    },
}

impl AuthChange {
    /// Carries the change out.
    ///
    /// # Errors
    /// Those of [`AuthStore`]'s methods; the store is as it was then.
    pub fn apply(&self, store: &mut AuthStore) -> Result<(), EtcdError> {
        match self {
            AuthChange::Enable => store.enable(),
            AuthChange::Disable => {
                store.disable();
                Ok(())
            }
            AuthChange::AddUser { name, hash } => store.add_user(name, hash.as_deref()),
            AuthChange::DeleteUser(name) => store.delete_user(name),
            AuthChange::ChangePassword { name, hash } => {
                store.roles_of(name)?;
                store.change_password(name, hash.as_ref().map_err(EtcdError::clone)?)
            }
            AuthChange::GrantRole { user, role } => store.grant_role(user, role),
            AuthChange::RevokeRole { user, role } => store.revoke_role(user, role),
            AuthChange::AddRole(name) => store.add_role(name),
            AuthChange::DeleteRole(name) => store.delete_role(name),
            AuthChange::GrantPermission { role, permission } => {
                store.grant_permission(role, permission.clone())
            }
            AuthChange::RevokePermission { role, key, range_end } => {
                store.revoke_permission(role, key, range_end)
            }
        }
    }
}

/// The outcome of a call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its writes made this revision.
    Written(Revision),
    /// It writes nothing; its answer is read at this revision.
    Unwritten(Revision),
    /// It is carried out.
    Done,
    /// A lease was granted or renewed with this TTL; 0 for one that is gone.
    Lease { id: LeaseId, ttl: i64 },
    /// A lease has so many seconds left of so many granted; `None` for one that does not exist.
    TimeLeft(Option<(i64, i64)>),
    /// The leases, the one that ends first in front.
    Leases(Vec<LeaseId>),
}

/// An answer to a call of this instance.
#[derive(Debug)]
pub(super) struct Answer {
    /// The outcome.
    pub(super) outcome: Outcome,
    /// The response to a request that may write, where the writer is this instance.
    pub(super) response: Option<Response>,
    /// A state that includes everything that the answer rests on.
    pub(super) state: Arc<State>,
}

/// An answer on its way to another instance.
#[derive(Clone, Debug)]
pub(super) struct Addressed {
    /// The subject.
    pub(super) reply: String,
    /// The start of the instance.
    pub(super) instance: u64,
    pub(super) answer: WireAnswer,
}

/// The destination of an answer.
#[derive(Debug)]
pub(super) enum Origin {
    /// To a call of this instance.
    Local(oneshot::Sender<Result<Answer, EtcdError>>),
    /// To another instance, at this subject; the nonce is that of the epoch in which it asked.
    Remote { nonce: u64, reply: String, answers: mpsc::UnboundedSender<Addressed> },
    /// Nowhere.
    Internal,
}

/// A call on its way.
#[derive(Debug)]
pub(super) struct Call {
    /// Its id; the records that it makes carry it.
    pub(super) operation: OperationId,
    pub(super) proposal: Proposal,
    pub(super) caller: Caller,
    /// When the client is told that the outcome is unknown.
    pub(super) deadline: Instant,
    pub(super) origin: Origin,
}

impl Call {
    /// Whether its client has gone: a call whose writes are not sent is not to be sent then.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(&self.origin, Origin::Local(sender) if sender.is_closed())
    }

    /// Whether its answer waits until a compaction has ended.
    pub(super) fn is_physical(&self) -> bool {
        matches!(self.proposal, Proposal::Compact { physical: true, .. })
    }

    /// Refuses it, which needs no state.
    pub(super) fn refuse(self, error: EtcdError) {
        match self.origin {
            // The client may have gone; then nobody needs to know.
            Origin::Local(sender) => drop(sender.send(Err(error))),
            Origin::Remote { nonce, reply, answers } => {
                let answer = WireAnswer::new(nonce, self.operation.counter, LogIndex::NONE, &Err(error));
                drop(answers.send(Addressed { reply, instance: self.operation.instance, answer }));
            }
            Origin::Internal => {}
        }
    }
}

/// A call whose answer is known, and goes out when the state shows it.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) call: Call,
    pub(super) outcome: Result<Outcome, EtcdError>,
    pub(super) response: Option<Response>,
}

impl Waiter {
    pub(super) fn new(call: Call, outcome: Result<Outcome, EtcdError>) -> Waiter {
        Waiter { call, outcome, response: None }
    }

    /// Sends the answer, which `state` shows.
    pub(super) fn complete(self, state: &Arc<State>) {
        match self.call.origin {
            Origin::Local(sender) => {
                let answer = self.outcome.map(|outcome| Answer {
                    outcome,
                    response: self.response,
                    state: Arc::clone(state),
                });
                drop(sender.send(answer));
            }
            // The asking instance finds its own records in the log.
            Origin::Remote { .. } if matches!(self.outcome, Ok(Outcome::Written(_))) => {}
            Origin::Remote { nonce, reply, answers } => {
                let OperationId { instance, counter } = self.call.operation;
                let answer = WireAnswer::new(nonce, counter, state.log_index, &self.outcome);
                drop(answers.send(Addressed { reply, instance, answer }));
            }
            Origin::Internal => {}
        }
    }
}

/// Calls of one instance to the writer, in one message.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireCalls {
    /// The start of the asking instance.
    #[prost(fixed64, tag = "1")]
    pub(super) instance: u64,
    /// Its lowest counter that is still open.
    #[prost(uint64, tag = "2")]
    pub(super) lowest_open: u64,
    #[prost(message, repeated, tag = "3")]
    pub(super) calls: Vec<WireCall>,
}

/// One call, or a part of a large one.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireCall {
    #[prost(uint64, tag = "1")]
    pub(super) counter: u64,
    /// The user, and the auth revision at which it was recognised.
    #[prost(string, optional, tag = "2")]
    pub(super) user: Option<String>,
    #[prost(uint64, tag = "3")]
    pub(super) auth_revision: u64,
    /// Milliseconds that the client still waits.
    #[prost(uint64, tag = "4")]
    pub(super) patience_ms: u64,
    /// The kind of the content.
    #[prost(uint32, tag = "5")]
    pub(super) kind: u32,
    /// The content, or a part of it.
    #[prost(bytes = "bytes", tag = "6")]
    pub(super) content: bytes::Bytes,
    /// The number of this part, from 0, and of all parts.
    #[prost(uint32, tag = "7")]
    pub(super) part: u32,
    #[prost(uint32, tag = "8")]
    pub(super) parts: u32,
}

const PUT: u32 = 1;
const DELETE_RANGE: u32 = 2;
const TXN: u32 = 3;
const OTHER: u32 = 4;

/// Proposals that carry little, as JSON.
#[derive(Serialize, Deserialize)]
enum Small {
    Grant { id: i64, ttl: i64 },
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(i64),
    Leases,
    Compact { revision: i64, physical: bool },
    FinishRemovals,
    Alarm { member: u64, corrupt: bool, raised: bool },
    Users(AuthChange),
    IssueToken { hash: String, user: String, revision: u64 },
    TokenUsed { hash: String },
    ReadIndex,
    Barrier,
    MoveLeader { target: u64 },
    Member { id: u64, member: Option<Member> },
}

impl Proposal {
    /// Its kind and content in a message; `None` for one that never leaves its instance.
    pub(super) fn encode(&self) -> Option<(u32, bytes::Bytes)> {
        let small = match self {
            Proposal::Write(Request::Put(put)) => return Some((PUT, put.encode_to_vec().into())),
            Proposal::Write(Request::DeleteRange(delete)) => {
                return Some((DELETE_RANGE, delete.encode_to_vec().into()));
            }
            Proposal::Write(Request::Txn(txn)) => return Some((TXN, txn.encode_to_vec().into())),
            Proposal::Grant { id, ttl } => Small::Grant { id: *id, ttl: *ttl },
            Proposal::Revoke(id) => Small::Revoke(id.0),
            Proposal::KeepAlive(id) => Small::KeepAlive(id.0),
            Proposal::TimeToLive(id) => Small::TimeToLive(id.0),
            Proposal::Leases => Small::Leases,
            Proposal::Compact { revision, physical } => {
                Small::Compact { revision: revision.0, physical: *physical }
            }
            Proposal::FinishRemovals => Small::FinishRemovals,
            Proposal::Trim { .. } => return None,
            Proposal::Alarm { alarm, raised } => Small::Alarm {
                member: alarm.member,
                corrupt: alarm.kind == AlarmKind::Corrupt,
                raised: *raised,
            },
            Proposal::Users(change) => Small::Users(change.clone()),
            Proposal::IssueToken { hash, user, revision } => {
                Small::IssueToken { hash: hash.clone(), user: user.clone(), revision: *revision }
            }
            Proposal::TokenUsed { hash } => Small::TokenUsed { hash: hash.clone() },
            Proposal::ReadIndex => Small::ReadIndex,
            Proposal::Barrier => Small::Barrier,
            Proposal::MoveLeader { target } => Small::MoveLeader { target: *target },
            Proposal::Member { id, member } => Small::Member { id: *id, member: member.clone() },
        };
        Some((OTHER, serde_json::to_vec(&small).expect("plain data").into()))
    }

    /// Reads what [`Proposal::encode`] has written.
    pub(super) fn decode(kind: u32, content: bytes::Bytes) -> Option<Proposal> {
        use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, TxnRequest};
        Some(match kind {
            PUT => Proposal::Write(Request::Put(PutRequest::decode(content).ok()?)),
            DELETE_RANGE => Proposal::Write(Request::DeleteRange(DeleteRangeRequest::decode(content).ok()?)),
            TXN => Proposal::Write(Request::Txn(TxnRequest::decode(content).ok()?)),
            OTHER => match serde_json::from_slice(&content).ok()? {
                Small::Grant { id, ttl } => Proposal::Grant { id, ttl },
                Small::Revoke(id) => Proposal::Revoke(LeaseId(id)),
                Small::KeepAlive(id) => Proposal::KeepAlive(LeaseId(id)),
                Small::TimeToLive(id) => Proposal::TimeToLive(LeaseId(id)),
                Small::Leases => Proposal::Leases,
                Small::Compact { revision, physical } => {
                    Proposal::Compact { revision: Revision(revision), physical }
                }
                Small::FinishRemovals => Proposal::FinishRemovals,
                Small::Alarm { member, corrupt, raised } => {
                    let kind = if corrupt { AlarmKind::Corrupt } else { AlarmKind::NoSpace };
                    Proposal::Alarm { alarm: Alarm { member, kind }, raised }
                }
                Small::Users(change) => Proposal::Users(change),
                Small::IssueToken { hash, user, revision } => Proposal::IssueToken { hash, user, revision },
                Small::TokenUsed { hash } => Proposal::TokenUsed { hash },
                Small::ReadIndex => Proposal::ReadIndex,
                Small::Barrier => Proposal::Barrier,
                Small::MoveLeader { target } => Proposal::MoveLeader { target },
                Small::Member { id, member } => Proposal::Member { id, member },
            },
            _ => return None,
        })
    }
}

/// Answers to calls of one instance, in one message.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireAnswers {
    #[prost(message, repeated, tag = "1")]
    pub(super) answers: Vec<WireAnswer>,
}

/// One answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireAnswer {
    #[prost(uint64, tag = "1")]
    pub(super) counter: u64,
    /// The asking instance's state must reach this index before it answers its client.
    #[prost(uint64, tag = "2")]
    pub(super) index: u64,
    /// The outcome or the error, as JSON.
    #[prost(bytes = "vec", tag = "3")]
    outcome: Vec<u8>,
    /// The nonce of the epoch in which the call was asked.
    #[prost(fixed64, tag = "4")]
    pub(super) nonce: u64,
}

#[derive(Serialize, Deserialize)]
enum WireOutcome {
    Written(i64),
    Unwritten(i64),
    Done,
    Lease { id: i64, ttl: i64 },
    TimeLeft(Option<(i64, i64)>),
    Leases(Vec<i64>),
    Error(EtcdError),
}

impl WireAnswer {
    pub(super) fn new(
        nonce: u64,
        counter: u64,
        index: LogIndex,
        outcome: &Result<Outcome, EtcdError>,
    ) -> WireAnswer {
        let outcome = match outcome {
            Ok(Outcome::Written(revision)) => WireOutcome::Written(revision.0),
            Ok(Outcome::Unwritten(revision)) => WireOutcome::Unwritten(revision.0),
            Ok(Outcome::Done) => WireOutcome::Done,
            Ok(Outcome::Lease { id, ttl }) => WireOutcome::Lease { id: id.0, ttl: *ttl },
            Ok(Outcome::TimeLeft(left)) => WireOutcome::TimeLeft(*left),
            Ok(Outcome::Leases(leases)) => WireOutcome::Leases(leases.iter().map(|id| id.0).collect()),
            Err(error) => WireOutcome::Error(error.clone()),
        };
        let outcome = serde_json::to_vec(&outcome).expect("plain data");
        WireAnswer { counter, index: index.0, outcome, nonce }
    }

    pub(super) fn outcome(&self) -> Option<Result<Outcome, EtcdError>> {
        Some(Ok(match serde_json::from_slice(&self.outcome).ok()? {
            WireOutcome::Written(revision) => Outcome::Written(Revision(revision)),
            WireOutcome::Unwritten(revision) => Outcome::Unwritten(Revision(revision)),
            WireOutcome::Done => Outcome::Done,
            WireOutcome::Lease { id, ttl } => Outcome::Lease { id: LeaseId(id), ttl },
            WireOutcome::TimeLeft(left) => Outcome::TimeLeft(left),
            WireOutcome::Leases(leases) => Outcome::Leases(leases.into_iter().map(LeaseId).collect()),
            WireOutcome::Error(error) => return Some(Err(error)),
        }))
    }
}

/// The writer's sign of life, and an instance's.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireLife {
    /// The nonce of the sender's epoch; of an instance that does not write, that of the epoch it follows.
    #[prost(fixed64, tag = "1")]
    pub(super) nonce: u64,
    /// The start of the sender.
    #[prost(fixed64, tag = "2")]
    pub(super) instance: u64,
    /// Its member, as JSON.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) member: Vec<u8>,
    /// The index that its state has, and the digest there.
    #[prost(uint64, tag = "4")]
    pub(super) index: u64,
    #[prost(fixed64, tag = "5")]
    pub(super) digest: u64,
    /// Whether it holds everything that the log holds, as far as it knows.
    #[prost(bool, tag = "6")]
    pub(super) is_ready: bool,
}
