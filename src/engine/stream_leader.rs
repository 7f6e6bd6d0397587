//! The stream's leader is the writer's server. NATS chooses it apart from the writer. Then each record of the
//! writer and each barrier of a read goes to another server first, and the end of either one's machine stops
//! the writes.
//!
//! The writer moves the leader to the server that it is connected to, and appends nothing meanwhile: a
//! message on its way to a leader that steps down is not answered, and the writer then needs another epoch.
//!
//! That holds for a cluster of its own, in which each instance stays on its own server. Over external NATS
//! instances leave a server that is cut off, and a leader that moves to the writer's next server between two
//! such cuts leaves the stream without one for longer: in two of five runs no write succeeded for 30 s when
//! three servers were cut off one after the other.

use crate::engine::damaged_copies::DamagedCopies;
use crate::engine::mode::Mode;
use crate::engine::node::{Command, Held};
use crate::engine::one_copy::OneCopy;
use crate::engine::status::Status;
use crate::log::{ApiError, Cluster, Log, Replica};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

/// How often the writer looks at the stream.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an instance must have been the writer with the leader elsewhere: an election of either may go on.
const SETTLED: Duration = Duration::from_secs(2);
/// The pause after an attempt that failed, which doubles with each: NATS may have no leader for some seconds,
/// and nothing is appended during an attempt.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_mins(5);
/// How long the writer waits for the change. It takes some milliseconds.
const CHANGE_TIMEOUT: Duration = Duration::from_millis(500);
/// The longest wait for an answer about the stream.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(150);
/// The pause before the stream is looked at again.
const POLL: Duration = Duration::from_millis(5);

/// The task.
pub(super) struct StreamLeader {
    pub(super) log: Arc<Log>,
    pub(super) status: Arc<Status>,
    pub(super) mode: Arc<Mode>,
    pub(super) one_copy: Arc<OneCopy>,
    pub(super) damaged_copies: Arc<DamagedCopies>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) stop: CancellationToken,
}

impl StreamLeader {
    pub(super) async fn run(self) {
        let (mut due, mut retry) = (None, RETRY);
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if !self.is_led_elsewhere().await {
                (due, retry) = (None, RETRY);
                continue;
            }
            if Instant::now() < *due.get_or_insert(Instant::now() + SETTLED) {
                continue;
            }
            due = Some(Instant::now() + retry);
            retry = (2 * retry).min(LONGEST_RETRY);
            let Some(held) = Held::request(&self.commands).await else { continue };
            let begun = Instant::now();
            let moved = timeout(CHANGE_TIMEOUT, self.take_stream()).await;
            held.release();
            let took = begun.elapsed();
            match moved {
                Ok(Ok(())) => tracing::info!(?took, "the writer's server leads the stream now"),
                Ok(Err(error)) => tracing::debug!(%error, "the stream's leader stays on another server"),
                Err(_) => {
                    tracing::warn!(?took, "the stream's leader did not move to the writer's server in time");
                }
            }
        }
    }

    /// Whether this instance writes, and another server leads the stream, of which this one has a copy.
    async fn is_led_elsewhere(&self) -> bool {
        let is_group = self.mode.is_in_cluster() && !self.mode.is_moving() && self.log.copies() > 1;
        if !is_group
            || !self.status.is_writer()
            || self.one_copy.requested_server().is_some()
            || self.damaged_copies.is_on(&self.log.server_name())
        {
            return false;
        }
        let info = self.log.info().await.ok();
        info.and_then(|info| info.cluster).is_some_and(|cluster| self.copy_of(&cluster).is_some())
    }

    /// Asks the leader for its place once the copy here has all, and waits for the change.
    async fn take_stream(&self) -> Result<(), ApiError> {
        let mut is_asked = false;
        loop {
            // A request that reaches no leader is never answered.
            let info = timeout(ANSWER_TIMEOUT, self.log.info()).await;
            if let Some(cluster) = info.ok().transpose()?.and_then(|info| info.cluster) {
                if cluster.leader() == Some(&self.log.server_name()) {
                    return Ok(());
                }
                if !is_asked && self.copy_of(&cluster).is_some_and(|copy| copy.is_up_to_date()) {
                    self.log.step_down(&self.log.server_name()).await?;
                    is_asked = true;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The copy here, behind another server's that leads.
    fn copy_of(&self, cluster: &Cluster) -> Option<Replica> {
        cluster.leader()?;
        let own = self.log.server_name();
        cluster.replicas.iter().find(|replica| replica.name == own).cloned()
    }
}
