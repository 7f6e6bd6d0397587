//! Hands calls to the node.

use super::{Counters, REQUEST_TIMEOUT};
use crate::auth::Caller;
use crate::engine::proposal::{Answer, Proposal};
use crate::engine::read_only::ReadOnlyState;
use crate::error::EtcdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Writes that may be open at once. etcd refuses more when that many are committed and not applied.
const MAX_OPEN: usize = 10_000;

/// A new call, for the node.
#[derive(Debug)]
pub(super) struct NewCall {
    pub(super) proposal: Proposal,
    pub(super) caller: Caller,
    pub(super) deadline: Instant,
    pub(super) answer: Option<oneshot::Sender<Result<Answer, EtcdError>>>,
}

/// Hands calls to the node.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    pub(super) sender: mpsc::UnboundedSender<NewCall>,
    /// Writes that are not answered. Relaxed: a number by itself.
    pub(super) open: Arc<AtomicUsize>,
    pub(super) counters: Counters,
    pub(super) read_only: ReadOnlyState,
}

/// Counts a proposal as failed when it is dropped, unless it was answered.
struct Unanswered<'a>(Option<&'a Counters>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(counters) = self.0 {
            counters.proposal_failed();
        }
    }
}

/// Whether an error means that the writer has not answered, and not that it has refused. etcd counts the same
/// ones: a proposal that a member could not bring to an end.
fn is_failure(error: &EtcdError) -> bool {
    matches!(
        error,
        EtcdError::Timeout
            | EtcdError::TimeoutLeaderFailure
            | EtcdError::TimeoutConnectionLost
            | EtcdError::LeaderChanged
            | EtcdError::Unavailable(_)
            | EtcdError::Stopped
    )
}

/// Counts an open write until it is dropped.
pub(super) struct OpenWrite<'a>(&'a AtomicUsize);

impl Drop for OpenWrite<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Calls {
    pub(super) async fn ask(&self, proposal: Proposal) -> Result<Answer, EtcdError> {
        self.ask_as(proposal, &Caller::default()).await
    }

    pub(super) async fn ask_as(&self, proposal: Proposal, caller: &Caller) -> Result<Answer, EtcdError> {
        if let Some(reason) = &*self.read_only.borrow() {
            return Err(EtcdError::ReadOnly(reason.to_string()));
        }
        let (sender, receiver) = oneshot::channel();
        // A client that gives up counts, too, as in etcd.
        let mut outcome = Unanswered(proposal.is_write().then_some(&self.counters));
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let call = NewCall { proposal, caller: caller.clone(), deadline, answer: Some(sender) };
        self.sender.send(call).map_err(|_| EtcdError::Stopped)?;
        let answer = receiver.await.unwrap_or(Err(EtcdError::Stopped));
        if !answer.as_ref().is_err_and(is_failure) {
            outcome.0 = None;
        }
        answer
    }

    pub(super) fn open_write(&self) -> Result<OpenWrite<'_>, EtcdError> {
        let open = OpenWrite(&self.open);
        if self.open.fetch_add(1, Ordering::Relaxed) >= MAX_OPEN {
            Err(EtcdError::TooManyRequests)
        } else {
            Ok(open)
        }
    }
}
