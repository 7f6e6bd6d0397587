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

/// The state that the log has told of.
#[derive(Default)]
struct Told {
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
        let mut told = Told::default();
        loop {
            let now = link.borrow_and_update().clone();
            self.tell_link(&mut told, &now);
            let now = leader.borrow_and_update().clone();
            self.tell_writer(&mut told, now);
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = link.changed() => if changed.is_err() { return },
                changed = leader.changed() => if changed.is_err() { return },
                changed = measured.changed() => {
                    if changed.is_err() { return }
                    let now = measured.borrow_and_update().clone();
                    self.tell_stream(&mut told, &now);
                    self.tell_slow_consumers(&mut told, &now);
                }
            }
        }
    }

    fn tell_link(&self, told: &mut Told, link: &Link) {
        let is_first = told.generation == 0;
        if link.generation > told.generation {
            // The first connection is that of the start.
            self.counters.reconnected(link.generation - told.generation.max(1));
            told.generation = link.generation;
            if let Some(since) = told.lost.take() {
                tracing::info!(after = ?since.elapsed(), "NATS is connected again");
            } else if !is_first && link.connected {
                tracing::info!("the connection to NATS was lost for a moment");
            }
        }
        if !link.connected && !is_first && told.lost.is_none() {
            told.lost = Some(Instant::now());
            let cause = link.cause.as_deref().unwrap_or_default();
            tracing::warn!(cause, "the connection to NATS is lost; jetway tries to connect again");
        }
    }

    fn tell_stream(&self, told: &mut Told, measured: &Measured) {
        let stream = self.log.stream();
        match measured.has_leader() {
            None => told.absent = None,
            Some(false) => {
                let since = *told.absent.get_or_insert_with(Instant::now);
                if since.elapsed() >= ABSENCE && !told.has_no_stream_leader {
                    told.has_no_stream_leader = true;
                    tracing::warn!(
                        stream,
                        last = told.stream_leader,
                        "the stream has no leader, or JetStream does not answer; writes wait. Look at the servers of the \
                         cluster: most replicas must run"
                    );
                }
            }
            Some(true) => {
                told.absent = None;
                let leader = measured.leader().map(str::to_owned);
                let is_other = told.stream_leader.is_some() && leader != told.stream_leader;
                if is_other {
                    self.counters.stream_leader_changed();
                }
                if is_other || told.has_no_stream_leader {
                    tracing::info!(
                        stream,
                        leader,
                        before = told.stream_leader,
                        "the stream has a new leader"
                    );
                }
                told.has_no_stream_leader = false;
                told.stream_leader = leader.or(told.stream_leader.take());
            }
        }
    }

    fn tell_slow_consumers(&self, told: &mut Told, measured: &Measured) {
        let Some(load) = measured.load else { return };
        // A server that was started again counts from zero.
        let before = if load.slow_consumers < told.slow_consumers { 0 } else { told.slow_consumers };
        let more = load.slow_consumers - before;
        told.slow_consumers = load.slow_consumers;
        if more > 0 {
            self.counters.slow_consumers().inc_by(more);
            tracing::warn!(clients = more, "nats-server has disconnected clients that read too slowly");
        }
    }

    fn tell_writer(&self, told: &mut Told, writer: Result<u64, NoLeader>) {
        match writer {
            Ok(id) => {
                // This instance tells of its own epochs, and of their ends, when they begin and end.
                if id != self.member && (told.writer != Some(id) || told.has_no_writer) {
                    let name = self.members.all().get(&id).map(|member| member.name.clone());
                    let epoch = self.status.known_epoch();
                    tracing::info!(name, member = format!("{id:x}"), epoch, "another instance writes");
                }
                (told.writer, told.has_no_writer) = (Some(id), false);
            }
            Err(NoLeader(reason)) => {
                if !told.has_no_writer && told.writer.is_some_and(|writer| writer != self.member) {
                    tracing::warn!(reason, "no instance writes");
                }
                told.has_no_writer = told.writer.is_some();
            }
        }
    }
}
