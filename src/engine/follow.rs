//! The two followers of an engine, and what applies what they bring.
//!
//! That has a thread of its own, which also waits for the disk: between an acknowledgement and the answer that it allows there
//! is no other thread to be woken, and no read, however large, stands in the way of a write.

use super::{Inner, Phase, compactor, meta};
use crate::applier::Applier;
use crate::auth::AuthStore;
use crate::core::{ChangeKind, Writer};
use crate::durability::{self, Gate, NotDurable};
use crate::jetstream::record::{self, Body, Record};
use crate::jetstream::{Connection, Followed, Follower, Guard, OwnMessages, RawMessage, RevisionMap, Start};
use crate::memory;
use crate::types::Sequence;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Reports a follower may be ahead of the applier; each holds up to 4096 messages.
const AHEAD: usize = 16;
/// An unfinished transaction at the end of the stream is given up when nothing has followed it for so long.
const TORN_AFTER: Duration = Duration::from_secs(5);
const CLUSTER_ID_RETRY: Duration = Duration::from_secs(1);
/// Distance of the lines in the log about a load that lasts.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
const FILL_RETRY: Duration = Duration::from_millis(100);
/// Versions that a compaction looks at in one turn, with all writes waiting: half a millisecond's work.
const SWEEP: usize = 512;
/// The least that a lease still lives after a start or an outage: its holder had nobody to renew it with meanwhile.
const LEASE_GRACE: Duration = Duration::from_secs(5);

/// Asks the applier for its map, which only a compaction needs.
pub(super) type MapRequest = oneshot::Sender<RevisionMap>;

pub(super) fn spawn(
    inner: &Arc<Inner>,
    writer: Writer,
    keys: Connection,
    meta: Connection,
    maps: mpsc::Receiver<MapRequest>,
) -> io::Result<()> {
    let task = Task {
        inner: Arc::clone(inner),
        pool: Handle::current(),
        keys_connection: keys,
        meta: follow_meta(inner, &meta),
        meta_connection: meta,
        meta_target: None,
        meta_position: Sequence::NONE,
        applier: None,
        keys_target: None,
        progress: Progress::default(),
        is_up: false,
        is_loaded: false,
        is_filling: false,
        torn_since: None,
    };
    // Its timers are its own, so that it may outlive the runtime it was started on by a moment.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let applier = std::thread::Builder::new().name("applier".to_owned());
    applier.spawn(move || runtime.block_on(task.run(writer, maps)))?;
    Ok(())
}

fn follow_meta(inner: &Inner, connection: &Connection) -> mpsc::Receiver<Followed> {
    let (stream, prefix) = (&inner.bucket.meta, &inner.bucket.meta_prefix);
    let reports = Follower::spawn(connection.clone(), stream, prefix, Start::default(), AHEAD, None);
    match gate_of(inner, stream) {
        Some(gate) => durability::gate(reports, gate, AHEAD),
        None => reports,
    }
}

/// Where it is on us to make messages durable, they are before anybody sees them.
fn gate_of(inner: &Inner, stream: &str) -> Option<Gate> {
    let store = inner.settings.synced_store.as_ref()?;
    let files = durability::StreamFiles::new(store, stream, inner.quiet.clone());
    Some(Gate::new(files, inner.store_failed.clone(), inner.sync_durations.clone()))
}

/// What is reported is not durable yet.
fn follow_keys(inner: &Inner, connection: &Connection) -> mpsc::Receiver<Followed> {
    let (stream, prefix) = (&inner.bucket.keys, &inner.bucket.keys_prefix);
    let own = inner.settings.sole_writer.then(|| {
        let (own, messages) = OwnMessages::new();
        inner.own.store(Some(Arc::new(own)));
        messages
    });
    let start = Start { is_decoded: true, ..Start::default() };
    Follower::spawn(connection.clone(), stream, prefix, start, AHEAD, own)
}

/// The key stream is loaded and followed: calls may go on. Holders of leases could renew nothing until now.
fn serve(inner: &Inner) {
    inner.leases.leave_at_least(LEASE_GRACE);
    drop(inner.following.send_replace(Ok(())));
}

/// Lengthens the key stream to `floor` with messages that mean nothing. Several instances may do so at once.
async fn fill(inner: Arc<Inner>, floor: Sequence) {
    let epoch = inner.epoch();
    let (mut last, mut failed) = (None, false);
    while inner.epoch() == epoch && !inner.stop.is_cancelled() {
        if failed {
            tokio::time::sleep(FILL_RETRY).await;
        }
        let end = match last {
            Some(last) => last,
            None => match inner.api.stream_info(&inner.bucket.keys).await {
                Ok(info) => info.last(),
                Err(error) => {
                    tracing::warn!(%error, "the stream cannot be lengthened to the compaction floor yet");
                    failed = true;
                    continue;
                }
            },
        };
        if end >= floor {
            return;
        }
        if last.is_none() {
            tracing::warn!(%end, %floor, "the key stream ends below the compaction floor: its tail is lost");
        }
        let published = inner.publisher.publish(inner.barrier(Some(Guard::Stream(end)))).await;
        failed = published.is_err();
        last = published.ok();
    }
}

/// Why following ended.
enum End {
    /// Nobody needs it any more.
    Closed,
    /// One of the streams is not what it was.
    Lost(String),
}

/// How far the load of the key stream is.
#[derive(Debug, Default)]
struct Progress {
    /// Messages taken.
    messages: u64,
    /// How many there were at first.
    of: Option<u64>,
    begun: Option<Instant>,
    told: Option<Instant>,
}

impl Progress {
    /// Tells the log, now and then.
    fn tell(&mut self) {
        let Some(of) = self.of else { return };
        if self.told.or(self.begun).is_some_and(|told| told.elapsed() >= PROGRESS_INTERVAL) {
            self.told = Some(Instant::now());
            tracing::info!(messages = self.messages, of, "still loading the key stream");
        }
    }
}

struct Task {
    inner: Arc<Inner>,
    /// Where everything else runs.
    pool: Handle,
    keys_connection: Connection,
    meta_connection: Connection,
    meta: mpsc::Receiver<Followed>,
    meta_target: Option<Sequence>,
    meta_position: Sequence,
    applier: Option<Applier>,
    keys_target: Option<Sequence>,
    progress: Progress,
    /// Whether the key stream has a consumer now.
    is_up: bool,
    is_loaded: bool,
    /// Whether the stream is being lengthened to the floor.
    is_filling: bool,
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
        let mut writer = Some(writer);
        loop {
            match self.follow_until_lost(&mut writer, &mut maps).await {
                Err(End::Closed) => return,
                Err(End::Lost(reason)) => self.forget(reason),
                Ok(never) => match never {},
            }
        }
    }

    async fn follow_until_lost(
        &mut self,
        writer: &mut Option<Writer>,
        maps: &mut mpsc::Receiver<MapRequest>,
    ) -> Result<Infallible, End> {
        // The floor comes from the meta stream, so that one goes first.
        while self.meta_target.is_none_or(|target| self.meta_position < target) {
            let report = self.meta.recv().await.ok_or(End::Closed)?;
            self.take_meta(report)?;
            self.inner.meta_positions.reach(self.meta_position);
        }
        // Users that were known before are kept until here: nobody may do more while they are read again.
        if self.inner.meta.entry(meta::AUTH) == Sequence::NONE {
            self.inner.auth.replace(AuthStore::default());
        }
        while self.inner.meta.cluster_id() == 0 {
            if let Err(error) = self.inner.ensure_cluster_id().await {
                tracing::warn!(%error, "no cluster id could be recorded yet");
            }
            match tokio::time::timeout(CLUSTER_ID_RETRY, self.meta.recv()).await {
                Ok(Some(report)) => self.take_meta(report)?,
                Ok(None) => return Err(End::Closed),
                Err(_) => {}
            }
        }
        let floor = self.inner.meta.floor();
        match (&mut self.applier, writer.take()) {
            (Some(applier), _) => applier.reset(floor),
            (None, Some(writer)) => {
                self.applier = Some(Applier::new(writer, self.inner.attachments.clone(), floor));
            }
            (None, None) => unreachable!("the writer is taken for the applier, which stays"),
        }
        let mut keys = {
            let _pool = self.pool.enter();
            follow_keys(&self.inner, &self.keys_connection)
        };
        let mut gate = gate_of(&self.inner, &self.inner.bucket.keys);
        let mut reports = Vec::with_capacity(AHEAD);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut is_sweeping = false;
        loop {
            tokio::select! {
                // Whatever is there already goes into the same sync and the same publication.
                count = keys.recv_many(&mut reports, AHEAD) => {
                    if count == 0 {
                        return Err(End::Closed);
                    }
                    if let Some(gate) = &mut gate {
                        gate.pass(&reports).await.map_err(|NotDurable| End::Closed)?;
                    }
                    for report in reports.drain(..) {
                        self.take_keys(report)?;
                    }
                }
                report = self.meta.recv() => self.take_meta(report.ok_or(End::Closed)?)?,
                asked = maps.recv() => if let (Some(asked), Some(applier)) = (asked, &self.applier) {
                    drop(asked.send(applier.map().clone()));
                },
                _ = tick.tick() => {
                    self.look_for_torn_tail();
                    if !self.is_loaded {
                        self.progress.tell();
                    } else if self.inner.has_let_go.swap(false, Ordering::Relaxed) {
                        memory::give_back();
                    }
                }
                // Turns alternate: what has come in meanwhile is shown before the next one.
                () = tokio::task::yield_now(), if is_sweeping => {}
            }
            self.publish();
            // Between the publication, which hands the garbage of a finished sweep over, and the position: who waits for
            // a floor's entry and then for the sweep, and then for the removals, has waited for all of them.
            is_sweeping = self.applier.as_ref().is_some_and(Applier::is_sweeping);
            self.inner
                .sweeping
                .send_if_modified(|known| std::mem::replace(known, is_sweeping) != is_sweeping);
            // After the publication: who waits for a floor's entry wants to see it in force.
            self.inner.meta_positions.reach(self.meta_position);
            self.sweep();
        }
    }

    /// Goes back to the beginning. Both streams do, whichever of them is not what it was: the floor in the one says
    /// how to read the other. Nothing is shown until all is loaded again.
    fn forget(&mut self, reason: String) {
        tracing::error!(reason, "the bucket is loaded afresh, and every watch ends");
        let inner = &self.inner;
        drop(inner.following.send_replace(Err(reason)));
        inner.phase.send_if_modified(|phase| {
            let is_serving = !matches!(phase, Phase::Stopped);
            if is_serving {
                *phase = Phase::LOADING;
            }
            is_serving
        });
        // Release: a remover that sees the new epoch must not go on with sequences of the old one. It looks only while
        // the stream is followed, and `following` has a lock of its own; this is for the jobs still queued.
        inner.epoch.fetch_add(1, Ordering::Release);
        inner.meta.clear();
        inner.leases.clear();
        inner.hashes.clear();
        inner.sweeping.send_replace(false);
        // Whoever waits for a position waits for it in the streams that come now.
        inner.positions.reach(Sequence::NONE);
        inner.meta_positions.reach(Sequence::NONE);
        self.meta = {
            let _pool = self.pool.enter();
            follow_meta(inner, &self.meta_connection)
        };
        self.meta_target = None;
        self.meta_position = Sequence::NONE;
        self.keys_target = None;
        self.progress = Progress::default();
        self.is_up = false;
        self.is_loaded = false;
        self.is_filling = false;
        self.torn_since = None;
    }

    fn take_meta(&mut self, report: Followed) -> Result<(), End> {
        match report {
            Followed::Up { last, .. } => {
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
                        let begun = Instant::now();
                        applier.raise_floor(floor);
                        if self.is_loaded {
                            self.inner.counters.floor_rose(begun.elapsed());
                        }
                    }
                    self.meta_position = message.sequence;
                }
            }
            // Nobody is the only writer of this one, and what it holds is not decoded elsewhere.
            Followed::Records(_) => {}
            Followed::Position(position) => self.meta_position = position,
            Followed::Lost(reason) => return Err(End::Lost(reason)),
            Followed::Down(cause) => tracing::debug!(cause, "the meta stream is not followed"),
        }
        Ok(())
    }

    /// How long ago a meta message was stored. While following live it is taken for new: the clocks of two machines do
    /// not matter then.
    fn age(&self, message: &RawMessage) -> Duration {
        let is_replay = self.meta_target.is_none_or(|target| message.sequence <= target);
        if !is_replay {
            return Duration::ZERO;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_nanos(u64::try_from(message.time).unwrap_or_default()))
    }

    fn take_keys(&mut self, report: Followed) -> Result<(), End> {
        match report {
            Followed::Up { last, messages } => {
                self.is_up = true;
                if self.is_loaded {
                    serve(&self.inner);
                } else {
                    self.keys_target = Some(last);
                    self.progress.of = Some(messages);
                    self.progress.begun.get_or_insert_with(Instant::now);
                    tracing::info!(messages, %last, "loading the key stream");
                }
            }
            Followed::Messages(messages) => {
                for message in messages {
                    let body = record::decode(&message.subject, message.headers.as_ref(), &message.payload);
                    self.take_record(Record { sequence: message.sequence, time: message.time, body });
                }
            }
            Followed::Records(records) => {
                for record in records {
                    self.take_record(record);
                }
            }
            Followed::Position(position) => {
                if let Some(applier) = &mut self.applier {
                    applier.advance(position);
                }
            }
            Followed::Lost(reason) => return Err(End::Lost(reason)),
            Followed::Down(cause) => {
                self.is_up = false;
                drop(self.inner.following.send_replace(Err(cause)));
            }
        }
        Ok(())
    }

    fn take_record(&mut self, record: Record) {
        let Some(applier) = &mut self.applier else { return };
        if !self.is_loaded {
            self.progress.messages += 1;
        } else if let Body::Change { key, kind: ChangeKind::Put { value, .. }, .. } = &record.body {
            self.inner.counters.put(key.len() + value.len());
        }
        applier.take(record);
    }

    /// Gives a compaction a turn to free what it has left. Each loop has one, however busy it is.
    fn sweep(&mut self) {
        let Some(applier) = self.applier.as_mut().filter(|applier| applier.is_sweeping()) else { return };
        let begun = Instant::now();
        applier.sweep(SWEEP);
        if self.is_loaded {
            self.inner.counters.swept(begun.elapsed());
        }
    }

    /// At the end of the load, and whenever nothing has followed it for long, an unfinished transaction is one that
    /// its writer did not live to finish.
    fn look_for_torn_tail(&mut self) {
        let Some(applier) = &mut self.applier else { return };
        // While NATS is away the rest cannot come; when it is back it may complete the transaction itself.
        let Some(last) = applier.waiting_for_more().filter(|_| self.is_up) else {
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
            inner.queue_removal(compactor::Job::Torn(sequence));
        }
        for (before, floor) in applier.take_compactions() {
            // What was compacted before this instance was there is no longer there to be hashed.
            if self.is_loaded {
                inner.queue_removal(compactor::Job::Compacted(Arc::new(before), floor));
            }
        }
        let garbage = applier.take_garbage();
        if !garbage.is_empty() {
            if self.is_loaded {
                inner.counters.compacted(garbage.len());
            }
            inner.queue_removal(compactor::Job::Garbage(garbage));
        }
        if !self.is_loaded {
            let position = applier.reached();
            inner.phase.send_if_modified(|phase| {
                let Progress { messages, of, .. } = self.progress;
                let progress = Phase::Loading { messages, of };
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
            // The stream has lost what the floor was made of. Nothing that comes may have a revision below the floor.
            if let Some(floor) = applier.floor().map(|floor| floor.sequence).filter(|floor| position < *floor)
            {
                if !self.is_filling {
                    self.is_filling = true;
                    self.pool.spawn(fill(Arc::clone(inner), floor));
                }
                return;
            }
        }
        applier.publish();
        let position = applier.position();
        let state = inner.reader.snapshot();
        if !self.is_loaded {
            self.is_loaded = true;
            let took = self.progress.begun.map(|begun| begun.elapsed()).unwrap_or_default();
            tracing::info!(revision = %state.revision, keys = state.index.live(), ?took, "everything is loaded");
            inner.phase.send_if_modified(|phase| {
                let starting = !matches!(phase, Phase::Stopped);
                if starting {
                    *phase = Phase::Serving;
                }
                starting
            });
            if self.is_up {
                serve(inner);
            }
            memory::give_back();
        }
        inner.published.notify_one();
        // Before the position: whoever finds a write missing at a position that is reached takes it for not there.
        let own = applier.take_done().into_iter().filter(|done| done.operation.writer == inner.writer_id);
        inner.pending.complete(own.map(|done| (done.operation.operation, done.revision)), &state);
        inner.positions.reach(position);
    }
}
