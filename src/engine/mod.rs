//! The engine: what turns a planned request into messages, and messages into the state that answers it.
//!
//! - `follow` runs the two followers. The meta stream is loaded first (it holds the compaction floor, without which
//!   the key stream cannot be read), then the key stream; only when both are complete is anything published.
//! - `write` plans, publishes and waits for the message to come back through the log: a write is answered when its
//!   revision is visible here, so a client reads its own writes and a watch never runs behind an answer. `acknowledge`
//!   watches over the writes under way, and shortens their way back where nobody else writes.
//! - `read_index` makes reads linearizable.
//! - `compactor` frees the space of what the floor has hidden; `leases` ends leases.
//!
//! Invariants:
//! - E1: nothing is published while a part of either stream is missing.
//! - E2: a write whose acknowledgement did not come is never published again: the log decides, or the client is told
//!   that the outcome is unknown.
//! - E3: an answer that rests on a snapshot (a failed compare included) is given only when the snapshot is known to
//!   be no older than the request.

mod acknowledge;
mod auth;
mod compactor;
mod counters;
mod follow;
mod hash;
mod leases;
mod locks;
mod meta;
mod read_index;
mod renewals;
mod space;
mod waiters;
mod watermark;
mod write;

pub use counters::Counters;
pub use hash::KvHash;
#[cfg(any(fuzzing, test))]
pub(crate) use meta::fuzz as fuzz_meta;
pub use meta::{Alarm, AlarmKind};

use crate::auth::Auth;
use crate::core::{Reader, State};
use crate::durability::{Level, Quiet};
use crate::error::EtcdError;
use crate::jetstream::{Api, Bucket, Connection, Endpoint, Link, OwnMessages, Publisher, SetupError};
use crate::lease::{Attachments, LeaseTable};
use crate::primitive::Notify;
use crate::telemetry::write_histogram;
use arc_swap::ArcSwapOption;
use prometheus::{Histogram, IntCounter};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How long a call may wait for NATS, as etcd bounds a proposal: 5 s and two election timeouts.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

/// How a read is made linearizable where other instances may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinearizableReads {
    /// By a committed entry, which proves who leads.
    #[default]
    Quorum,
    /// By the word of whoever believes to lead; can be stale for about a second around a partition.
    Leader,
}

/// What the engine needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// NATS and the bucket.
    pub endpoint: Endpoint,
    /// Nobody else can write to the bucket: the embedded server admits only us. What is visible here is then all
    /// there is, and reads need no round trip.
    pub sole_writer: bool,
    /// For reads where others may write.
    pub linearizable_reads: LinearizableReads,
    /// The store's directory where it is on this machine, to tell its size on disk.
    pub store_dir: Option<std::path::PathBuf>,
    /// When an answered write is on stable storage.
    pub durability: Level,
    /// The JetStream store, where its messages are made durable from here (see [`crate::durability`]).
    pub synced_store: Option<std::path::PathBuf>,
    /// Why the embedded server's store refuses writes, while it does.
    pub store_error: Option<watch::Receiver<Option<String>>>,
    /// Bytes above which the NOSPACE alarm is raised; negative for no limit.
    pub quota_bytes: i64,
    /// Who raises it.
    pub member_id: u64,
    /// For users and their tokens.
    pub auth: crate::auth::Settings,
}

/// The engine could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// NATS.
    #[error(transparent)]
    Connect(#[from] crate::jetstream::ConnectError),
    /// The bucket.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The thread that applies.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// How far the engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Loading what the streams hold.
    Loading {
        /// Messages of the key stream that are applied.
        messages: u64,
        /// How many there were when it began, once known.
        of: Option<u64>,
    },
    /// Everything is loaded.
    Serving,
    /// No more calls.
    Stopped,
}

impl Phase {
    const LOADING: Phase = Phase::Loading { messages: 0, of: None };
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Loading { messages, of: Some(of) } => {
                write!(f, "loading the key stream: {messages} of {of} messages")
            }
            Phase::Loading { of: None, .. } => f.write_str("loading the bucket"),
            Phase::Serving => f.write_str("serving"),
            Phase::Stopped => f.write_str("stopped"),
        }
    }
}

/// Bytes of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Of the messages there are.
    pub in_use: u64,
    /// Of the files that hold them, where they are ours to see.
    pub allocated: u64,
}

/// A handle on the engine; clones share it.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    settings: Settings,
    reader: Reader,
    published: Arc<Notify>,
    bucket: Bucket,
    api: Api,
    publisher: Publisher,
    /// Where writes go that are to be applied from their acknowledgements, if this is the only writer.
    own: ArcSwapOption<OwnMessages>,
    link: watch::Receiver<Link>,
    phase: watch::Sender<Phase>,
    /// Whether the key stream is being followed now; the cause where not.
    following: watch::Sender<Result<(), String>>,
    writer_id: u64,
    next_operation: AtomicU64,
    /// One permit for each write.
    under_way: tokio::sync::Semaphore,
    pending: waiters::PendingWrites,
    positions: waiters::PositionWaiters,
    meta_positions: waiters::PositionWaiters,
    meta: meta::MetaTable,
    locks: locks::WriteLocks,
    renewals: renewals::Renewals,
    leases: LeaseTable,
    attachments: Attachments,
    auth: Auth,
    maps: mpsc::Sender<follow::MapRequest>,
    read_index: mpsc::Sender<read_index::Waiter>,
    compaction: tokio::sync::Mutex<()>,
    hashes: hash::HashCache,
    /// Whether a compaction whose floor is in force still has garbage to find.
    sweeping: watch::Sender<bool>,
    garbage: mpsc::UnboundedSender<(u64, compactor::Job)>,
    /// Jobs for messages of torn transactions that are not removed yet.
    torn: AtomicUsize,
    /// Grows when the streams turn out to be others than they were; sequences from before mean nothing then.
    epoch: AtomicU64,
    room: space::Room,
    sync_durations: Histogram,
    applied_durations: Histogram,
    failed_writes: IntCounter,
    /// Why the store could not be brought to the disk; nothing can be answered after that.
    store_failed: watch::Sender<Option<String>>,
    /// Keeps removals and certain syncs apart.
    quiet: Quiet,
    counters: Counters,
    /// A compaction has freed what there may be much of. Orders nothing: what was freed is found by the allocator.
    has_let_go: AtomicBool,
    stop: CancellationToken,
}

impl Engine {
    /// Connects, sets the bucket up and starts to load it. `published` is notified after each publication. Calls may
    /// come at once; they wait until all is loaded.
    pub async fn start(
        settings: Settings,
        reader_writer: (crate::core::Writer, Reader),
        published: Arc<Notify>,
    ) -> Result<Engine, StartError> {
        let (writer, reader) = reader_writer;
        // One connection for calls, one for each replay: a long replay must not stand in the way of an ack.
        let (calls, follow_keys, follow_meta) = tokio::try_join!(
            Connection::open(&settings.endpoint, "jetway calls"),
            Connection::open(&settings.endpoint, "jetway keys"),
            Connection::open(&settings.endpoint, "jetway meta"),
        )?;
        let bucket = Bucket::new(&settings.endpoint.bucket);
        let api = Api::new(calls.client.clone());
        bucket.set_up(&api, settings.endpoint.replicas).await?;
        let (read_index, read_index_requests) = mpsc::channel(64 * 1024);
        let (garbage, garbage_jobs) = mpsc::unbounded_channel();
        let (maps, map_requests) = mpsc::channel(16);
        let attachments = Attachments::default();
        let sync_durations = write_histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "Time of a sync that writes share; where they share none, until a write was known to be stored.",
        );
        let only_writer_of = settings.sole_writer.then_some(&bucket);
        let (publisher, acknowledgements) = Publisher::open(&calls, REQUEST_TIMEOUT, only_writer_of).await;
        let inner = Arc::new(Inner {
            reader,
            published,
            bucket,
            api,
            publisher,
            own: ArcSwapOption::empty(),
            link: calls.link.clone(),
            phase: watch::Sender::new(Phase::LOADING),
            following: watch::Sender::new(Err("still starting".into())),
            writer_id: rand::random(),
            next_operation: AtomicU64::new(1),
            under_way: tokio::sync::Semaphore::new(write::MOST_UNDER_WAY),
            // Where we do not sync, the server does before it acknowledges, if anybody does.
            pending: waiters::PendingWrites::new(
                settings.synced_store.is_none().then(|| sync_durations.clone()),
            ),
            positions: waiters::PositionWaiters::default(),
            meta_positions: waiters::PositionWaiters::default(),
            meta: meta::MetaTable::default(),
            locks: locks::WriteLocks::default(),
            renewals: renewals::Renewals::default(),
            leases: LeaseTable::default(),
            attachments: attachments.clone(),
            auth: Auth::new(settings.auth.clone()),
            maps,
            read_index,
            compaction: tokio::sync::Mutex::default(),
            hashes: hash::HashCache::default(),
            sweeping: watch::Sender::new(false),
            garbage,
            torn: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            room: space::Room::default(),
            sync_durations,
            applied_durations: write_histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "Time from the publication of a write until it was visible.",
            ),
            failed_writes: IntCounter::new(
                "etcd_server_proposals_failed_total",
                "Writes that were not carried out.",
            )
            .expect("a legal name"),
            store_failed: watch::Sender::new(None),
            quiet: Quiet::default(),
            counters: Counters::new(),
            has_let_go: AtomicBool::new(false),
            stop: CancellationToken::new(),
            settings,
        });
        follow::spawn(&inner, writer, follow_keys, follow_meta, map_requests).map_err(StartError::Thread)?;
        acknowledge::spawn(&inner, acknowledgements);
        read_index::spawn(&inner, read_index_requests);
        compactor::spawn(&inner, garbage_jobs);
        leases::spawn(&inner);
        space::spawn(&inner);
        watermark::spawn(&inner);
        Ok(Engine { inner })
    }

    /// What it has counted.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Reads of what is published, without asking how fresh it is.
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    /// How far the engine is.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.inner.phase.subscribe()
    }

    /// The leases there are.
    pub fn leases(&self) -> &LeaseTable {
        &self.inner.leases
    }

    /// The keys on each lease.
    pub fn attachments(&self) -> &Attachments {
        &self.inner.attachments
    }

    /// Users, roles and what they may do.
    pub fn auth(&self) -> &Auth {
        &self.inner.auth
    }

    /// A state no older than this call: it holds every write answered before, through any instance.
    pub async fn linearizable(&self) -> Result<Arc<State>, EtcdError> {
        self.inner.linearizable().await
    }

    /// A state as it is here and now, once there is one.
    pub async fn serializable(&self) -> Result<Arc<State>, EtcdError> {
        self.inner.wait_loaded().await?;
        Ok(self.inner.reader.snapshot())
    }

    /// How much is stored. Answers the last known figures where NATS does not answer now.
    pub async fn size(&self) -> Size {
        let inner = &self.inner;
        let in_use = inner.measure().await;
        let store = inner.settings.store_dir.clone();
        let on_disk = tokio::task::spawn_blocking(move || store.map(|dir| crate::disk::usage(&dir)))
            .await
            .ok()
            .flatten();
        Size { in_use, allocated: on_disk.unwrap_or(in_use).max(in_use) }
    }

    /// Whether NATS can be reached and the stream is followed; why not otherwise.
    pub fn health(&self) -> Result<(), String> {
        self.inner.following.borrow().clone()
    }

    /// Whether there is, in etcd's terms, a leader: whether the stream is followed now.
    pub fn has_leader(&self) -> watch::Receiver<bool> {
        let mut following = self.inner.following.subscribe();
        let (has_leader, receiver) = watch::channel(following.borrow().is_ok());
        tokio::spawn(async move {
            while following.changed().await.is_ok() {
                if has_leader.send(following.borrow_and_update().is_ok()).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// When an answered write is on stable storage.
    pub fn durability(&self) -> Level {
        self.inner.settings.durability
    }

    /// Of each sync that writes share; where they share none, until a write was known to be stored.
    pub fn sync_durations(&self) -> &Histogram {
        &self.inner.sync_durations
    }

    /// Until a write was visible.
    pub fn applied_durations(&self) -> &Histogram {
        &self.inner.applied_durations
    }

    /// Writes that NATS did not take or did not confirm.
    pub fn failed_writes(&self) -> &IntCounter {
        &self.inner.failed_writes
    }

    /// Writes that are published and not visible yet.
    pub fn pending_writes(&self) -> usize {
        self.inner.pending.len()
    }

    /// Waits until the messages that compactions have left so far are removed, and their room is known to be free.
    pub async fn finish_removals(&self) -> Result<(), EtcdError> {
        self.inner.finish_removals().await?;
        self.inner.measure().await;
        Ok(())
    }

    /// An id that all instances on the bucket share, made when the bucket was.
    pub fn cluster_id(&self) -> u64 {
        self.inner.meta.cluster_id()
    }

    /// Resolves, with the reason, when the store can no longer be made durable: what the kernel failed to write is gone, and
    /// only a new start from the disk tells what is there.
    pub async fn failed(&self) -> String {
        let mut failed = self.inner.store_failed.subscribe();
        if let Ok(reason) = failed.wait_for(Option::is_some).await
            && let Some(reason) = reason.clone()
        {
            return reason;
        }
        std::future::pending().await
    }

    /// Refuses further calls and lets go of NATS.
    pub fn stop(&self) {
        self.inner.phase.send_replace(Phase::Stopped);
        self.inner.stop.cancel();
    }
}

impl Inner {
    /// Waits until everything is loaded, but not for ever.
    async fn wait_loaded(&self) -> Result<(), EtcdError> {
        if *self.phase.borrow() == Phase::Serving {
            return Ok(());
        }
        let mut phase = self.phase.subscribe();
        let settled = phase.wait_for(|phase| !matches!(phase, Phase::Loading { .. }));
        match tokio::time::timeout(REQUEST_TIMEOUT, settled).await {
            Ok(Ok(phase)) if *phase == Phase::Serving => Ok(()),
            Ok(_) => Err(EtcdError::Stopped),
            Err(_) => Err(self.not_loaded()),
        }
    }

    fn not_loaded(&self) -> EtcdError {
        let phase = self.phase.borrow().clone();
        let cause = self.following.borrow().as_ref().err().cloned().unwrap_or_default();
        EtcdError::Unavailable(format!("{phase} ({cause})"))
    }

    /// Waits until the key stream is followed, no longer than until `deadline`.
    async fn wait_following(&self, deadline: tokio::time::Instant) -> Result<(), EtcdError> {
        if self.following.borrow().is_ok() {
            return Ok(());
        }
        let mut following = self.following.subscribe();
        let up = following.wait_for(Result::is_ok);
        match tokio::time::timeout_at(deadline, up).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(EtcdError::Stopped),
            Err(_) => Err(self.unavailable()),
        }
    }

    /// Why nothing works at the moment.
    fn unavailable(&self) -> EtcdError {
        let link = self.link.borrow().clone();
        match (&*self.following.borrow(), link) {
            (_, Link { connected: false, cause, .. }) => {
                EtcdError::Unavailable(format!("NATS is unreachable: {}", cause.unwrap_or_default()))
            }
            (Err(cause), _) => EtcdError::Unavailable(format!("the stream cannot be followed: {cause}")),
            (Ok(()), _) => EtcdError::Timeout,
        }
    }

    async fn linearizable(&self) -> Result<Arc<State>, EtcdError> {
        self.wait_loaded().await?;
        if self.settings.sole_writer {
            // Whatever has been answered was visible here before it was answered, and nobody else writes.
            self.wait_following(tokio::time::Instant::now() + REQUEST_TIMEOUT).await?;
            return Ok(self.reader.snapshot());
        }
        self.read_index().await
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn next_operation(&self) -> u64 {
        // Relaxed: the numbers only have to differ.
        self.next_operation.fetch_add(1, Ordering::Relaxed)
    }
}
