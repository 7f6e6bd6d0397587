//! Writes: plan on a snapshot, publish with guards, wait for the log.
//!
//! Whoever waits for a write waits for one thing, its [`Outcome`]. Acknowledgements, the log, lost connections and the
//! clock are watched for all writes together (see `acknowledge`).

use super::waiters::{Committed, Outcome, PendingWrite, Sent};
use super::{Inner, REQUEST_TIMEOUT};
use crate::auth::Caller;
use crate::core::{ChangeKind, State};
use crate::error::EtcdError;
use crate::jetstream::record::{self, Body, OperationId};
use crate::jetstream::{BATCH_MESSAGE_TIME, Basis, Guard, Outgoing, PublishError};
use crate::proto::etcdserverpb::request_op;
use crate::proto::etcdserverpb::{RequestOp, TxnRequest};
use crate::txn::{self, Plan, Planned, Request, Response};
use crate::types::Sequence;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Writes that may be under way at once, those included that wait for others of the same keys. etcd takes no more when
/// it lags so many behind.
pub(super) const MOST_UNDER_WAY: usize = 5000;
/// Pause before another try where nothing was stored.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

impl super::Engine {
    /// Carries out a request that may write. The answer is given when its revision is visible, or when a state no
    /// older than this call shows that nothing is to be written. Whether the caller may do it is checked with each plan.
    pub async fn execute(&self, request: Request, caller: &Caller) -> Result<Response, EtcdError> {
        let inner = &self.inner;
        let keys = written_keys(&request);
        let planner = |state: &Arc<State>| {
            inner.check_request(caller, &request)?;
            txn::plan(state, inner.as_ref(), request.clone())
        };
        inner.write(&keys, planner).await
    }
}

impl super::Engine {
    /// Answers a request that writes nothing from what is known here, however old that is.
    pub async fn answer_locally(&self, request: Request, caller: &Caller) -> Result<Response, EtcdError> {
        let state = self.serializable().await?;
        self.inner.check_request(caller, &request)?;
        match txn::plan(&state, self.inner.as_ref(), request)? {
            Planned::Answer(response) => Ok(response),
            Planned::Write(_) => {
                Err(EtcdError::Unknown("jetway: a local answer to a request that writes".into()))
            }
        }
    }
}

impl txn::LeaseTable for Inner {
    fn exists(&self, id: crate::types::LeaseId) -> bool {
        self.leases.get(id).is_some()
    }
}

/// What became of one attempt to publish.
enum Attempt {
    Committed(Committed),
    /// A guard did not hold: the plan was made on an old state.
    Conflict,
    /// Nothing was stored; the same may work a little later.
    Again(PublishError),
    Failed(EtcdError),
}

/// A write from when it is handed over until its outcome is known. Whoever writes the same keys next plans without it if it
/// is dropped before, and the line must know.
struct Settling<'a> {
    inner: &'a Inner,
    plan: &'a Plan,
    is_settled: bool,
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            let subject =
                |write: &txn::Write| record::subject(&self.inner.bucket.keys_prefix, &write.key).ok();
            self.inner.publisher.adrift(self.plan.writes.iter().filter_map(subject).collect());
        }
    }
}

/// Guards that a conflict has shown to be wrong: of a deleted key the tombstone may be gone already, or may still be
/// there though compaction has made us forget it; and a message of a torn batch counts for its subject until removed.
type Corrections = HashMap<Bytes, Sequence>;

impl Inner {
    /// Plans with `planner` on fresh states until the plan is carried out, needs nothing written, or fails.
    pub(super) async fn write(
        &self,
        keys: &[Bytes],
        planner: impl Fn(&Arc<State>) -> Result<Planned, EtcdError>,
    ) -> Result<Response, EtcdError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let _under_way = self.under_way.try_acquire().map_err(|_| EtcdError::TooManyRequests)?;
        self.wait_loaded().await?;
        let mut held = self.locks.keys(keys.iter()).await;
        let mut alone = false;
        let mut fresh = if self.settings.sole_writer { Some(self.linearizable().await?) } else { None };
        let mut corrections = Corrections::new();
        let mut conflicts = 0;
        loop {
            let is_fresh = fresh.is_some();
            let state = fresh.take().unwrap_or_else(|| self.reader.snapshot());
            let plan = match planner(&state) {
                Ok(Planned::Write(plan)) => plan,
                Ok(Planned::Answer(response)) if is_fresh => return Ok(response),
                Err(error) if is_fresh => return Err(error),
                Ok(Planned::Answer(_)) | Err(_) => {
                    fresh = Some(self.linearizable().await?);
                    continue;
                }
            };
            let needs_stream = plan.whole_stream.is_some() || !plan.guards.is_empty();
            if needs_stream && !alone {
                drop(held);
                held = self.locks.stream().await;
                alone = true;
                if self.settings.sole_writer {
                    fresh = Some(self.linearizable().await?);
                }
                continue;
            }
            self.store_recovers(deadline).await?;
            match self.publish(&plan, &state, needs_stream, &corrections, deadline).await {
                Attempt::Committed(Committed { revision, state }) => {
                    drop(held);
                    return plan.answer(revision, &state);
                }
                Attempt::Failed(error) => {
                    self.failed_writes.inc();
                    return Err(error);
                }
                Attempt::Conflict => {
                    if Instant::now() >= deadline {
                        return Err(EtcdError::Timeout);
                    }
                    conflicts += 1;
                    if conflicts > 2 {
                        // Others are at the same keys, or something is in the way that will be removed soon.
                        tokio::time::sleep(RETRY_PAUSE.min(Duration::from_millis(conflicts))).await;
                    }
                    let now = self.read_index().await?;
                    // A line asks nothing of the subjects.
                    if !self.settings.sole_writer {
                        corrections = self.correct(&plan, &now).await?;
                    }
                    fresh = Some(now);
                }
                Attempt::Again(error) => {
                    if Instant::now() + RETRY_PAUSE >= deadline {
                        return Err(EtcdError::Unavailable(error.to_string()));
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                    fresh = Some(self.linearizable().await?);
                }
            }
        }
    }

    async fn publish(
        &self,
        plan: &Plan,
        state: &State,
        needs_stream: bool,
        corrections: &Corrections,
        deadline: Instant,
    ) -> Attempt {
        let operation = OperationId { writer: self.writer_id, operation: self.next_operation() };
        let basis = if needs_stream { Basis::Stream(state.position) } else { Basis::Keys(state.position) };
        let messages = match self.messages(plan, operation, basis, corrections) {
            Ok(messages) => messages,
            Err(error) => return Attempt::Failed(error),
        };
        let deadline = deadline + BATCH_MESSAGE_TIME * messages.len() as u32;
        let is_row = self.settings.sole_writer && messages.len() > 1;
        let mut seen = self.pending.expect(
            operation.operation,
            Sent {
                at: Instant::now(),
                generation: self.publisher.generation(),
                deadline,
                bodies: if self.settings.sole_writer { bodies(plan, operation) } else { Vec::new() },
            },
        );
        let _until_visible = self.applied_durations.start_timer();
        let mut settling = Settling { inner: self, plan, is_settled: false };
        let sending = self.publisher.send(operation, messages, basis);
        // The log is the authority; an acknowledgement only says early that there is nothing to wait for.
        let outcome = tokio::select! {
            biased;
            outcome = &mut seen.receiver => outcome,
            sent = sending => match sent {
                Ok(_open) => (&mut seen.receiver).await,
                Err(error) => Ok(Outcome::Refused(error)),
            },
        };
        settling.is_settled = matches!(outcome, Ok(Outcome::Committed(_) | Outcome::Refused(_)));
        match outcome {
            Ok(Outcome::Committed(committed)) => Attempt::Committed(committed),
            Ok(Outcome::Unknown(cause, receiver)) => {
                seen.receiver = receiver;
                self.look_for(seen, &cause, deadline).await
            }
            Ok(Outcome::Refused(error)) => {
                if is_row {
                    // Part of it may be the end of the stream, where the rest could still come as far as anybody knows:
                    // reads would wait for it.
                    let end = OperationId { operation: self.next_operation(), ..operation };
                    drop(self.publisher.send(end, vec![self.barrier(None)], Basis::Anything).await);
                }
                self.refused(error)
            }
            Ok(Outcome::StoreFails(error)) => {
                Attempt::Failed(EtcdError::Unavailable(format!("the store refuses writes: {error}")))
            }
            Ok(Outcome::Late) => Attempt::Failed(self.unavailable()),
            Err(_) => Attempt::Failed(EtcdError::Stopped),
        }
    }

    /// Learns from the log what became of a write that nobody acknowledged.
    async fn look_for(&self, mut seen: PendingWrite<'_>, cause: &PublishError, deadline: Instant) -> Attempt {
        let log_tells = async {
            match self.read_index().await {
                Ok(_) => {}
                // Nothing more can be learned before the deadline.
                Err(_) => tokio::time::sleep_until(deadline).await,
            }
        };
        tokio::select! {
            biased;
            outcome = &mut seen.receiver => match outcome {
                Ok(Outcome::Committed(committed)) => Attempt::Committed(committed),
                Ok(Outcome::Refused(error)) => self.refused(error),
                Ok(_) => Attempt::Failed(self.unavailable()),
                Err(_) => Attempt::Failed(EtcdError::Stopped),
            },
            // It is not in the log, but a message on its way could still come: the outcome stays unknown (E2).
            () = log_tells => Attempt::Failed(EtcdError::Unavailable(format!(
                "it is unknown whether this was carried out: {cause}"
            ))),
            () = tokio::time::sleep_until(deadline) => Attempt::Failed(self.unavailable()),
        }
    }

    /// What a write comes to that was not stored.
    fn refused(&self, error: PublishError) -> Attempt {
        match error {
            PublishError::Conflict(_) => Attempt::Conflict,
            PublishError::NoSpace(cause) => {
                tracing::warn!(cause, "JetStream has no room for a write");
                self.room.found_full();
                Attempt::Failed(EtcdError::NoSpace)
            }
            error @ PublishError::NotStored(_) => Attempt::Again(error),
            PublishError::Refused { err_code: 10054 | 0, .. } => Attempt::Failed(EtcdError::RequestTooLarge),
            error @ PublishError::Refused { .. } => {
                Attempt::Failed(EtcdError::Unavailable(error.to_string()))
            }
            PublishError::Unknown(cause) => Attempt::Failed(EtcdError::Unavailable(format!(
                "it is unknown whether this was carried out: {cause}"
            ))),
        }
    }

    fn messages(
        &self,
        plan: &Plan,
        operation: OperationId,
        basis: Basis,
        corrections: &Corrections,
    ) -> Result<Vec<Outgoing>, EtcdError> {
        let count = plan.writes.len();
        plan.writes
            .iter()
            .enumerate()
            .map(|(at, write)| {
                let subject = record::subject(&self.bucket.keys_prefix, &write.key)?;
                let mut headers =
                    vec![(record::HEADER, record::header(&write.kind, at + 1, count, operation))];
                let payload = match &write.kind {
                    ChangeKind::Put { value, .. } => value.clone(),
                    ChangeKind::Delete => {
                        headers.push((record::KV_OPERATION, "DEL".to_owned()));
                        Bytes::new()
                    }
                };
                let guard = match basis {
                    // A line guards by itself.
                    _ if self.settings.sole_writer => None,
                    Basis::Stream(position) => (at == 0).then_some(Guard::Stream(position)),
                    Basis::Keys(_) | Basis::Anything => write
                        .guard
                        .map(|sequence| Guard::Subject(*corrections.get(&write.key).unwrap_or(&sequence))),
                };
                Ok(Outgoing { subject, headers, payload, guard, ttl: None })
            })
            .collect()
    }

    /// Finds which messages the subjects of a refused plan really end with. Only one that the state includes already
    /// is taken for a correction: with a newer one the key is not what the plan thinks.
    async fn correct(&self, plan: &Plan, state: &State) -> Result<Corrections, EtcdError> {
        let mut corrections = Corrections::new();
        for write in &plan.writes {
            let subject = record::subject(&self.bucket.keys_prefix, &write.key)?;
            let last = self
                .api
                .last_message(&self.bucket.keys, &subject)
                .await
                .map_err(|error| EtcdError::Unavailable(error.to_string()))?
                .map_or(Sequence::NONE, |message| Sequence(message.seq));
            if last <= state.position {
                corrections.insert(write.key.clone(), last);
            }
        }
        Ok(corrections)
    }
}

/// The messages of a plan as they come back from the log, for when they need not.
fn bodies(plan: &Plan, operation: OperationId) -> Vec<Body> {
    let count = plan.writes.len() as u32;
    let body = |(write, place): (&txn::Write, u32)| Body::Change {
        key: write.key.clone(),
        kind: write.kind.clone(),
        place,
        count,
        operation,
    };
    plan.writes.iter().zip(1..).map(body).collect()
}

impl From<crate::jetstream::KeyTooLong> for EtcdError {
    fn from(error: crate::jetstream::KeyTooLong) -> EtcdError {
        EtcdError::KeyTooLong { size: error.0, limit: crate::jetstream::MAX_SUBJECT_BYTES }
    }
}

/// The keys a request may write one by one, in either branch. Ranges are not among them: a request that deletes one
/// runs alone.
fn written_keys(request: &Request) -> Vec<Bytes> {
    let mut keys = Vec::new();
    match request {
        Request::Put(put) => keys.push(put.key.clone()),
        Request::DeleteRange(delete) => keys.push(delete.key.clone()),
        Request::Txn(txn) => written_by_txn(txn, &mut keys),
    }
    keys
}

fn written_by_txn(txn: &TxnRequest, keys: &mut Vec<Bytes>) {
    for RequestOp { request } in txn.success.iter().chain(&txn.failure) {
        match request {
            Some(request_op::Request::RequestPut(put)) => keys.push(put.key.clone()),
            Some(request_op::Request::RequestDeleteRange(delete)) => keys.push(delete.key.clone()),
            Some(request_op::Request::RequestTxn(txn)) => written_by_txn(txn, keys),
            Some(request_op::Request::RequestRange(_)) | None => {}
        }
    }
}
