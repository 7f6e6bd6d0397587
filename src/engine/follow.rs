//! The two followers of an engine, and the one task that applies what they bring.

use super::{Inner, Phase, compactor};
use crate::applier::Applier;
use crate::core::Writer;
use crate::jetstream::record::{self, Record};
use crate::jetstream::{Connection, Followed, Follower, RawMessage, RevisionMap, Start};
use crate::types::Sequence;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Reports a follower may be ahead of the applier; each holds up to 4096 messages.
const AHEAD: usize = 16;
/// An unfinished transaction at the end of the stream is given up when nothing has followed it for so long.
const TORN_AFTER: Duration = Duration::from_secs(5);
const CLUSTER_ID_RETRY: Duration = Duration::from_secs(1);
/// The least that a lease found at start still lives: its holder had nobody to renew it with meanwhile.
const LEASE_GRACE: Duration = Duration::from_secs(5);

/// Asks the applier for its map, which only a compaction needs.
pub(super) type MapRequest = oneshot::Sender<RevisionMap>;

pub(super) fn spawn(
    inner: &Arc<Inner>,
    writer: Writer,
    keys: Connection,
    meta: Connection,
    maps: mpsc::Receiver<MapRequest>,
) {
    let task = Task {
        inner: Arc::clone(inner),
        keys_connection: keys,
        meta: Follower::spawn(meta, &inner.bucket.meta, &inner.bucket.meta_prefix, Start::default(), AHEAD),
        meta_target: None,
        meta_position: Sequence::NONE,
        applier: None,
        keys_target: None,
        is_loaded: false,
        torn_since: None,
    };
    tokio::spawn(task.run(writer, maps));
}

struct Task {
    inner: Arc<Inner>,
    keys_connection: Connection,
    meta: mpsc::Receiver<Followed>,
    meta_target: Option<Sequence>,
    meta_position: Sequence,
    applier: Option<Applier>,
    keys_target: Option<Sequence>,
    is_loaded: bool,
    torn_since: Option<(Sequence, Instant)>,
}

impl Task {
    async fn run(mut self, writer: Writer, maps: mpsc::Receiver<MapRequest>) {
        let stop = self.inner.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(writer, maps) => {}
        }
    }

    async fn follow(&mut self, writer: Writer, mut maps: mpsc::Receiver<MapRequest>) {
        // The floor comes from the meta stream, so that one goes first.
        while self.meta_target.is_none_or(|target| self.meta_position < target) {
            let Some(report) = self.meta.recv().await else { return };
            self.take_meta(report);
            self.inner.meta_positions.reach(self.meta_position);
        }
        while self.inner.meta.cluster_id() == 0 {
            if let Err(error) = self.inner.ensure_cluster_id().await {
                tracing::warn!(%error, "no cluster id could be recorded yet");
            }
            match tokio::time::timeout(CLUSTER_ID_RETRY, self.meta.recv()).await {
                Ok(Some(report)) => self.take_meta(report),
                Ok(None) => return,
                Err(_) => {}
            }
        }
        let applier = Applier::new(writer, self.inner.attachments.clone(), self.inner.meta.floor());
        self.applier = Some(applier);
        let inner = Arc::clone(&self.inner);
        let mut keys = Follower::spawn(
            self.keys_connection.clone(),
            &inner.bucket.keys,
            &inner.bucket.keys_prefix,
            Start::default(),
            AHEAD,
        );
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                report = keys.recv() => match report {
                    Some(report) => {
                        self.take_keys(report);
                        // Whatever else is there already goes into the same publication.
                        while let Ok(report) = keys.try_recv() {
                            self.take_keys(report);
                        }
                    }
                    None => return,
                },
                report = self.meta.recv() => match report {
                    Some(report) => self.take_meta(report),
                    None => return,
                },
                asked = maps.recv() => if let (Some(asked), Some(applier)) = (asked, &self.applier) {
                    drop(asked.send(applier.map().clone()));
                },
                _ = tick.tick() => self.look_for_torn_tail(),
            }
            self.publish();
            // After the publication: who waits for a floor's entry wants to see it in force.
            self.inner.meta_positions.reach(self.meta_position);
        }
    }

    fn take_meta(&mut self, report: Followed) {
        match report {
            Followed::Up { last } => {
                self.meta_target = Some(last);
                // An empty stream has nothing to wait for.
                if last.0 == 0 {
                    self.meta_position = last;
                }
            }
            Followed::Messages(messages) => {
                for message in messages {
                    let floor = self.inner.take_meta(&message, self.age(&message));
                    if let (Some(floor), Some(applier)) = (floor, &mut self.applier) {
                        applier.raise_floor(floor);
                    }
                    self.meta_position = message.sequence;
                }
            }
            Followed::Position(position) => self.meta_position = position,
            Followed::Lost(reason) => {
                tracing::error!(reason, "the meta stream is loaded afresh");
                self.meta_position = Sequence::NONE;
                self.meta_target = None;
                self.inner.meta.clear();
                self.inner.leases.clear();
            }
            Followed::Down(cause) => tracing::debug!(cause, "the meta stream is not followed"),
        }
    }

    /// How long ago a meta message was stored, as far as it counts against a lease. While following live it is taken
    /// for new: the clocks of two machines do not matter then. In a replay at least [`LEASE_GRACE`] is left to it,
    /// by never counting more than what a lease has beyond it.
    fn age(&self, message: &RawMessage) -> Duration {
        let is_replay = self.meta_target.is_none_or(|target| message.sequence <= target);
        if !is_replay {
            return Duration::ZERO;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = now.saturating_sub(Duration::from_nanos(u64::try_from(message.time).unwrap_or_default()));
        age.saturating_sub(LEASE_GRACE)
    }

    fn take_keys(&mut self, report: Followed) {
        let Some(applier) = &mut self.applier else { return };
        match report {
            Followed::Up { last } => {
                if !self.is_loaded {
                    self.keys_target = Some(last);
                    tracing::info!(messages_to = %last, "loading the key stream");
                }
                drop(self.inner.following.send_replace(Ok(())));
            }
            Followed::Messages(messages) => {
                for message in messages {
                    let body = record::decode(&message.subject, message.headers.as_ref(), &message.payload);
                    applier.take(Record { sequence: message.sequence, time: message.time, body });
                }
            }
            Followed::Position(position) => applier.advance(position),
            Followed::Lost(reason) => {
                drop(self.inner.following.send_replace(Err(reason)));
                applier.reset();
                // Whoever waits for a position waits for it in the stream that comes now.
                self.inner.positions.reach(Sequence::NONE);
                self.is_loaded = false;
                self.keys_target = None;
                self.inner.phase.send_replace(Phase::Loading { position: Sequence::NONE, target: None });
            }
            Followed::Down(cause) => {
                drop(self.inner.following.send_replace(Err(cause)));
            }
        }
    }

    /// At the end of the load, and whenever nothing has followed it for long, an unfinished transaction is one that
    /// its writer did not live to finish.
    fn look_for_torn_tail(&mut self) {
        let Some(applier) = &mut self.applier else { return };
        let Some(last) = applier.waiting_for_more() else {
            self.torn_since = None;
            return;
        };
        let at_end_of_load = !self.is_loaded && self.keys_target.is_some_and(|target| last >= target);
        let since = match self.torn_since {
            Some((seen, since)) if seen == last => since,
            _ => self.torn_since.insert((last, Instant::now())).1,
        };
        // The embedded server has just been started by us: nobody is still writing the rest.
        if (at_end_of_load && self.inner.settings.sole_writer) || since.elapsed() >= TORN_AFTER {
            applier.tear();
            self.torn_since = None;
        }
    }

    fn publish(&mut self) {
        let Some(applier) = &mut self.applier else { return };
        let inner = &self.inner;
        for sequence in applier.take_torn() {
            drop(inner.garbage.send(compactor::Job::Torn(sequence)));
        }
        let garbage = applier.take_garbage();
        if !garbage.is_empty() {
            drop(inner.garbage.send(compactor::Job::Garbage(garbage)));
        }
        let position = applier.position();
        if !self.is_loaded {
            inner.phase.send_if_modified(|phase| {
                let progress = Phase::Loading { position, target: self.keys_target };
                let changed = !matches!(phase, Phase::Stopped) && *phase != progress;
                if changed {
                    *phase = progress;
                }
                changed
            });
            // E1: nothing is shown before everything that was there at the start is applied.
            if self.keys_target.is_none_or(|target| position < target) {
                return;
            }
        }
        applier.publish();
        let state = inner.reader.snapshot();
        if !self.is_loaded {
            self.is_loaded = true;
            tracing::info!(revision = %state.revision, keys = state.index.live(), "everything is loaded");
            inner.phase.send_if_modified(|phase| {
                let starting = !matches!(phase, Phase::Stopped);
                if starting {
                    *phase = Phase::Serving;
                }
                starting
            });
        }
        inner.published.notify_one();
        inner.positions.reach(position);
        let own = applier.take_done().into_iter().filter(|done| done.operation.writer == inner.writer_id);
        inner.pending.complete(own.map(|done| (done.operation.operation, done.revision)), &state);
    }
}
