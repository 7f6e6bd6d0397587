//! The stream's leader is the writer's server. NATS chooses it apart from the writer. Then each record of the
//! writer and each barrier of a read goes to another server first, and the end of either one's machine stops
//! the writes.
//!
//! The writer moves the leader to the server that it is connected to, and appends nothing meanwhile: a
//! message on its way to a leader that steps down is not answered, and the writer then needs another epoch.
//! The copy here must have applied all of it before. nats-server asks for votes 10 ms after it was told to
//! lead; while a committed entry is not applied, it waits for a second instead, and the stream has no leader
//! (nats-server 2.15.1). Hence removals pause, too: each one is an entry.
//!
//! That holds for a cluster of its own, in which each instance stays on its own server. Over external NATS
//! instances leave a server that is cut off, and a leader that moves to the writer's next server between two
//! such cuts leaves the stream without one for longer: in two of five runs no write succeeded for 30 s when
//! three servers were cut off one after the other.

use crate::durability::RewriteLock;
use crate::engine::damaged_copies::DamagedCopies;
use crate::engine::mode::Mode;
use crate::engine::node::{Command, Held};
use crate::engine::one_copy::OneCopy;
use crate::engine::status::Status;
use crate::log::{ApiError, Auth, Cluster, GroupError, Log, MetadataGroup, Replica};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
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

/// The leader cannot be moved now.
#[derive(Debug, Error)]
enum TakeError {
    #[error(transparent)]
    Stream(#[from] ApiError),
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// The task.
pub(super) struct StreamLeader {
    pub(super) log: Arc<Log>,
    pub(super) status: Arc<Status>,
    pub(super) mode: Arc<Mode>,
    pub(super) one_copy: Arc<OneCopy>,
    pub(super) damaged_copies: Arc<DamagedCopies>,
    pub(super) commands: mpsc::Sender<Command>,
    /// Held while nothing may be removed.
    pub(super) rewrites: RewriteLock,
    pub(super) login: Auth,
    pub(super) account: &'static str,
    pub(super) stop: CancellationToken,
}

impl StreamLeader {
    pub(super) async fn run(self) {
        let (mut due, mut retry) = (None, RETRY);
        let mut group = None;
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
            if group.is_none() {
                match self.log.metadata_group(&self.login).await {
                    Ok(opened) => group = Some(opened),
                    Err(error) => tracing::debug!(%error, "the stream's leader stays on another server"),
                }
            }
            let Some(group) = &group else { continue };
            let rewrites = self.rewrites.lock().await;
            let Some(held) = Held::request(&self.commands).await else { continue };
            let begun = Instant::now();
            let moved = timeout(CHANGE_TIMEOUT, self.take_stream(group)).await;
            held.release();
            drop(rewrites);
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

    /// Asks the leader for its place once the copy here has applied all, and waits for the change.
    async fn take_stream(&self, group: &MetadataGroup) -> Result<(), TakeError> {
        let own = self.log.server_name();
        let mut asked_of: Option<String> = None;
        loop {
            if let Some(raft_group) = &asked_of {
                // Only a leader answers questions about the stream, and this server always answers.
                let state = group.raft_state(&own, self.account, raft_group).await?;
                if state.is_some_and(|state| state.is_leader())
                    && self.cluster().await?.is_some_and(|cluster| cluster.leader() == Some(&own))
                {
                    return Ok(());
                }
            } else if let Some(cluster) = self.cluster().await?
                && self.copy_of(&cluster).is_some_and(|copy| copy.is_up_to_date())
                && let Some(raft_group) = cluster.raft_group
                && let Some(state) = group.raft_state(&own, self.account, &raft_group).await?
                && state.has_applied_all()
            {
                self.log.step_down(&own).await?;
                asked_of = Some(raft_group);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The servers that hold the stream; `None` if its leader does not answer.
    async fn cluster(&self) -> Result<Option<Cluster>, ApiError> {
        let info = timeout(ANSWER_TIMEOUT, self.log.info()).await.ok().transpose()?;
        Ok(info.and_then(|info| info.cluster))
    }

    /// The copy here, behind another server's that leads.
    fn copy_of(&self, cluster: &Cluster) -> Option<Replica> {
        cluster.leader()?;
        let own = self.log.server_name();
        cluster.replicas.iter().find(|replica| replica.name == own).cloned()
    }
}
