//! Calls to the writer: everything that changes the log or needs the writer's word, from this instance or
//! another one.

mod auth_change;
mod wire;

pub(crate) use auth_change::AuthChange;
pub(super) use wire::{WireAnswer, WireAnswers, WireCall, WireCalls, WireQuestion, WireStatus, WireVote};

use crate::auth::Caller;
use crate::core::State;
use crate::engine::membership::MemberChange;
use crate::error::EtcdError;
use crate::record::{Alarm, Member, OperationId};
use crate::txn::{Request, Response};
use crate::types::{LeaseId, LogIndex, Revision};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// The content of a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::engine) enum Proposal {
    /// A request that may write keys; it is sent as the request's own message.
    #[serde(skip)]
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
    #[serde(skip)]
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
    /// Lists the members that found a cluster; of the writer itself only.
    #[serde(skip)]
    Found(Vec<Member>),
    /// Changes the members of a cluster, if its rules permit it.
    ChangeMembers(MemberChange),
}

impl Proposal {
    /// Whether it is to add a record to the log, as etcd's proposals do.
    pub(in crate::engine) fn is_write(&self) -> bool {
        !matches!(
            self,
            Proposal::KeepAlive(_)
                | Proposal::TimeToLive(_)
                | Proposal::Leases
                | Proposal::FinishRemovals
                | Proposal::TokenUsed { .. }
                | Proposal::ReadIndex
                | Proposal::Barrier
                | Proposal::MoveLeader { .. }
        )
    }
}

/// The outcome of a call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) enum Outcome {
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
pub(in crate::engine) struct Answer {
    /// The outcome.
    pub(in crate::engine) outcome: Outcome,
    /// The response to a request that may write, where the writer is this instance.
    pub(in crate::engine) response: Option<Response>,
    /// A state that includes everything that the answer rests on.
    pub(in crate::engine) state: Arc<State>,
}

/// An answer on its way to another instance.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Addressed {
    /// The subject.
    pub(in crate::engine) reply: String,
    /// The start of the instance.
    pub(in crate::engine) instance: u64,
    pub(in crate::engine) answer: WireAnswer,
}

/// The destination of an answer.
#[derive(Debug)]
pub(in crate::engine) enum Origin {
    /// To a call of this instance.
    Local(oneshot::Sender<Result<Answer, EtcdError>>),
    /// To another instance, at this subject; the nonce is that of the epoch in which it asked.
    Remote { nonce: u64, reply: String, answers: mpsc::UnboundedSender<Addressed> },
    /// Nowhere.
    Internal,
}

/// A call on its way.
#[derive(Debug)]
pub(in crate::engine) struct Call {
    /// Its id; the records that it makes carry it.
    pub(in crate::engine) operation: OperationId,
    pub(in crate::engine) proposal: Proposal,
    pub(in crate::engine) caller: Caller,
    /// When the client gets an error for an unknown outcome.
    pub(in crate::engine) deadline: Instant,
    pub(in crate::engine) origin: Origin,
    /// Whether most voters had promised no later epoch when it came to the writer.
    pub(in crate::engine) is_confirmed: bool,
}

impl Call {
    /// Whether its client has gone: a call whose writes are not sent is not to be sent then.
    pub(in crate::engine) fn is_abandoned(&self) -> bool {
        matches!(&self.origin, Origin::Local(sender) if sender.is_closed())
    }

    /// Whether its answer waits until a compaction has ended.
    pub(in crate::engine) fn is_physical(&self) -> bool {
        matches!(self.proposal, Proposal::Compact { physical: true, .. })
    }

    /// Refuses it, which needs no state.
    pub(in crate::engine) fn refuse(self, error: EtcdError) {
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
pub(in crate::engine) struct Waiter {
    pub(in crate::engine) call: Call,
    pub(in crate::engine) outcome: Result<Outcome, EtcdError>,
    pub(in crate::engine) response: Option<Response>,
}

impl Waiter {
    pub(in crate::engine) fn new(call: Call, outcome: Result<Outcome, EtcdError>) -> Waiter {
        Waiter { call, outcome, response: None }
    }

    /// Sends the answer, which `state` shows.
    pub(in crate::engine) fn complete(self, state: &Arc<State>) {
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
