//! Logs each change of the connection to NATS, of the stream's leader, of the writer and of slow clients of
//! the embedded server once, with its reason, and counts them.

use super::Counters;
use super::measured::{ABSENCE, Measured};
use super::space::Space;
use super::status::{NoLeader, Status};
use crate::applier::Members;
use crate::log::{Link, Log};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// The observer of these changes.
pub(super) struct Changes {
    pub(super) log: Arc<Log>,
    pub(super) space: Arc<Space>,
    pub(super) status: Arc<Status>,
    pub(super) members: Arc<Members>,
    pub(super) member: u64,
    pub(super) counters: Counters,
    pub(super) stop: CancellationToken,
}

/// The last state of each kind that was logged.
#[derive(Default)]
struct Logged {
    /// The number of the connection.
    generation: u64,
    /// Since when there is none.
    lost: Option<Instant>,
    /// The server with the stream's leader.
    stream_leader: Option<String>,
    has_no_stream_leader: bool,
    /// Since when each look found no leader.
    absent: Option<Instant>,
    /// Clients that the embedded server had disconnected as slow ones, since its start.
    slow_consumers: u64,
    /// The member that writes.
    writer: Option<u64>,
    has_no_writer: bool,
}

impl Changes {
    /// Observes until the instance stops.
    pub(super) async fn run(self) {
        let mut link = self.log.connection().link.clone();
        let mut measured = self.space.measured();
        let mut leader = self.status.leader();
        let mut logged = Logged::default();
        loop {
            let now = link.borrow_and_update().clone();
            self.log_link(&mut logged, &now);
            let now = leader.borrow_and_update().clone();
            self.log_writer(&mut logged, now);
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = link.changed() => if changed.is_err() { return },
                changed = leader.changed() => if changed.is_err() { return },
                changed = measured.changed() => {
                    if changed.is_err() { return }
                    let now = measured.borrow_and_update().clone();
                    self.log_stream(&mut logged, &now);
                    self.log_slow_consumers(&mut logged, &now);
                }
            }
        }
    }

    fn log_link(&self, logged: &mut Logged, link: &Link) {
        let is_first = logged.generation == 0;
        if link.generation > logged.generation {
            // The first connection is that of the start.
            self.counters.reconnected(link.generation - logged.generation.max(1));
            logged.generation = link.generation;
            if let Some(since) = logged.lost.take() {
                tracing::info!(after = ?since.elapsed(), "NATS is connected again");
            } else if !is_first && link.connected {
                tracing::info!("the connection to NATS was lost for a moment");
            }
        }
        if !link.connected && !is_first && logged.lost.is_none() {
            logged.lost = Some(Instant::now());
            let cause = link.cause.as_deref().unwrap_or_default();
            tracing::warn!(cause, "the connection to NATS is lost; jetway tries to connect again");
        }
    }

    fn log_stream(&self, logged: &mut Logged, measured: &Measured) {
        let stream = self.log.stream();
        match measured.has_leader() {
            None => logged.absent = None,
            Some(false) => {
                let since = *logged.absent.get_or_insert_with(Instant::now);
                if since.elapsed() >= ABSENCE && !logged.has_no_stream_leader {
                    logged.has_no_stream_leader = true;
                    tracing::warn!(
                        stream,
                        last = logged.stream_leader,
                        "the stream has no leader, or JetStream does not answer; writes wait. Look at the servers of the \
                         cluster: most replicas must run"
                    );
                }
            }
            Some(true) => {
                logged.absent = None;
                let leader = measured.leader().map(str::to_owned);
                let is_other = logged.stream_leader.is_some() && leader != logged.stream_leader;
                if is_other {
                    self.counters.stream_leader_changed();
                }
                if is_other || logged.has_no_stream_leader {
                    tracing::info!(
                        stream,
                        leader,
                        before = logged.stream_leader,
                        "the stream has a new leader"
                    );
                }
                logged.has_no_stream_leader = false;
                logged.stream_leader = leader.or(logged.stream_leader.take());
            }
        }
    }

    fn log_slow_consumers(&self, logged: &mut Logged, measured: &Measured) {
        let Some(load) = measured.load else { return };
        // A server that was started again counts from zero.
        let before = if load.slow_consumers < logged.slow_consumers { 0 } else { logged.slow_consumers };
        let more = load.slow_consumers - before;
        logged.slow_consumers = load.slow_consumers;
        if more > 0 {
            self.counters.slow_consumers().inc_by(more);
            tracing::warn!(clients = more, "nats-server has disconnected clients that read too slowly");
        }
    }

    fn log_writer(&self, logged: &mut Logged, writer: Result<u64, NoLeader>) {
        match writer {
            Ok(id) => {
                // The node logs the begin and the end of an epoch of this instance.
                if id != self.member && (logged.writer != Some(id) || logged.has_no_writer) {
                    let name = self.members.all().get(&id).map(|member| member.name.clone());
                    let epoch = self.status.known_epoch();
                    tracing::info!(name, member = format!("{id:x}"), epoch, "another instance writes");
                }
                (logged.writer, logged.has_no_writer) = (Some(id), false);
            }
            Err(NoLeader(reason)) => {
                if !logged.has_no_writer && logged.writer.is_some_and(|writer| writer != self.member) {
                    tracing::warn!(reason, "no instance writes");
                }
                logged.has_no_writer = logged.writer.is_some();
            }
        }
    }
}
