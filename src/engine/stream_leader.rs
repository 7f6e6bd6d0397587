//! The stream's leader is the writer's server: NATS chooses it apart from the writer, and then each record of
//! the writer, and each barrier of a read, goes to another server first. Besides, the end of either one's
//! machine stops the writes, and so fewer machines do.
//!
//! The writer moves the leader to its own server, and appends nothing meanwhile: a message that is on its way
//! to a leader that steps down is not answered, and the writer then needs another epoch.

use super::server_group::Reconciler;
use crate::log::{ApiError, Cluster, Replica};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long an instance must have been the writer, with the leader elsewhere: an election of either may go on.
const SETTLED: Duration = Duration::from_secs(2);
/// The pause after an attempt. NATS may have no leader for some seconds after one that failed.
const RETRY: Duration = Duration::from_secs(30);
/// How long the writer waits for the change. It takes some milliseconds.
const CHANGE_TIMEOUT: Duration = Duration::from_millis(500);
/// The longest wait for an answer about the stream.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(50);
/// The pause before the stream is looked at again.
const POLL: Duration = Duration::from_millis(5);

/// The time at which the leader may be moved; `None` as long as it need not be.
#[derive(Default)]
pub(super) struct NextMove(Option<Instant>);

impl Reconciler {
    /// Moves the stream's leader to this server, if this instance has been the writer for a while.
    pub(super) async fn lead_stream(&self, next: &mut NextMove) {
        let measured = self.measured.borrow().stream.as_ref().and_then(|stream| stream.cluster.clone());
        if measured.is_none_or(|cluster| self.leads(&cluster) || self.copy_of(&cluster).is_none()) {
            next.0 = None;
            return;
        }
        let due = *next.0.get_or_insert(Instant::now() + SETTLED);
        if Instant::now() < due {
            return;
        }
        next.0 = Some(Instant::now() + RETRY);
        let Some(held) = self.hold().await else { return };
        let begun = Instant::now();
        let moved = timeout(CHANGE_TIMEOUT, self.take_stream()).await;
        held.release();
        let took = begun.elapsed();
        match moved {
            Ok(Ok(())) => {
                tracing::info!(?took, "the writer's server leads the stream now");
                next.0 = None;
            }
            Ok(Err(error)) => tracing::debug!(%error, "the stream's leader stays on another server"),
            Err(_) => {
                tracing::warn!(?took, "the stream's leader did not move to the writer's server in time")
            }
        }
    }

    /// Asks the leader for its place once the copy here has all, and waits for the change.
    async fn take_stream(&self) -> Result<(), ApiError> {
        let mut is_asked = false;
        loop {
            // A request that reaches no leader is never answered.
            let info = timeout(ANSWER_TIMEOUT, self.log.info()).await;
            if let Some(cluster) = info.ok().transpose()?.and_then(|info| info.cluster) {
                if self.leads(&cluster) {
                    return Ok(());
                }
                if !is_asked && self.copy_of(&cluster).is_some_and(Replica::is_up_to_date) {
                    self.log.step_down(&self.own).await?;
                    is_asked = true;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn leads(&self, cluster: &Cluster) -> bool {
        cluster.leader() == Some(self.own.as_str())
    }

    /// The copy here, behind another server's that leads.
    fn copy_of<'a>(&self, cluster: &'a Cluster) -> Option<&'a Replica> {
        cluster.leader()?;
        cluster.replicas.iter().find(|replica| replica.name == self.own)
    }
}
