//! Starts the engine: connects, and gives each part what it uses.

use super::calls::Calls;
use super::{
    Counters, Engine, EngineSettings, MarkError, Parts, apply, changes, compactor, integrity, join, mark,
    server_group,
};
use crate::applier::{Applier, Tables};
use crate::core::Reader;
use crate::durability::{Gate, RewriteLock, StreamFiles};
use crate::engine::failure::NameTaken;
use crate::engine::hash::HashCache;
use crate::engine::mode::Mode;
use crate::engine::namesake::Namesakes;
use crate::engine::node::{Node, NodeSettings};
use crate::engine::one_copy::OneCopy;
use crate::engine::space::Space;
use crate::engine::standing;
use crate::engine::status::Status;
use crate::log::{Log, Messenger, OpenError};
use crate::primitive::Notify;
use crate::record::Chain;
use crate::telemetry::write_histogram;
use crate::types::LogIndex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Entries that may wait for the applier.
const AHEAD: usize = 1024;

/// The engine could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// NATS or the bucket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The subscriptions.
    #[error("cannot subscribe: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// Another process of the same member.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
    /// The mark beside the store.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The thread that applies.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl Engine {
    /// Connects, sets the bucket up and starts to load it. `published` is notified after each publication.
    /// Calls may come at once; they wait until all is loaded.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) async fn start(
        settings: EngineSettings,
        (writer, reader): (crate::core::Writer, Reader),
        published: Arc<Notify>,
    ) -> Result<Engine, StartError> {
        // In a cluster a stream that this server does not load is on the other members.
        let store = settings.store_dir.clone().filter(|_| settings.is_alone);
        let store = store.map(|dir| crate::log::Store { dir, accepts_loss: settings.accepts_loss });
        let demand =
            crate::log::Demand { quota: settings.quota_bytes, message_bytes: settings.largest_message };
        let log = Arc::new(Log::open(&settings.endpoint, store.as_ref(), demand).await?);
        // An account of embedded servers has no limits.
        if !settings.is_alone && settings.endpoint.own_cluster.is_none() {
            log.report_limits(demand).await;
        }
        let start: u64 = rand::random();
        let stop = CancellationToken::new();
        let tables = Tables::new(settings.auth.clone());
        let counters = Counters::new();
        let status = Arc::new(Status::new(counters.leader_changes()));
        let (call_sender, new_calls) = mpsc::unbounded_channel();
        if let Some(reason) = log.read_only() {
            tracing::warn!(reason = reason.to_string(), "nothing is written");
        }
        let (standing, standing_receiver) = watch::channel(log.read_only().cloned());
        let calls = Calls {
            sender: call_sender,
            open: Arc::default(),
            counters: counters.clone(),
            standing: standing_receiver.clone(),
        };
        let (entries, entry_receiver) = mpsc::channel(AHEAD);
        let (report_sender, reports) = mpsc::unbounded_channel();
        let (job_sender, jobs) = mpsc::unbounded_channel();
        let (answers, answered) = mpsc::unbounded_channel();
        let (commands, command_receiver) = mpsc::channel(4);
        let is_clustered = settings.founders.is_some();
        let has_only_copy = settings.is_alone || (is_clustered && log.facts().replicas == 1);
        let mode = Mode::new(settings.is_alone, is_clustered);
        let can_sync = settings.synced_store.is_some();
        let mode = Arc::new(if can_sync { mode.with_sync(has_only_copy) } else { mode });
        let one_copy = Arc::new(OneCopy::default());
        let (messenger, incoming, namesakes) = if settings.is_alone {
            (None, mpsc::channel(1).1, None)
        } else {
            let (messenger, incoming) = Messenger::open(log.connection(), &log.instances(), start).await?;
            let namesakes = Namesakes::open(&messenger, &settings.member, start).await?;
            (Some(messenger), incoming, Some(namesakes))
        };
        let answering_newcomers = match &messenger {
            Some(messenger) if settings.founders.is_some() => {
                Some(join::answer(messenger, &tables.members).await?)
            }
            _ => None,
        };
        let sync_durations = write_histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "Time of a sync that writes share; where they share none, until a write was known to be stored.",
        );
        let store_failed = watch::Sender::new(None);
        let failure = watch::Sender::new(None);
        let rewrites = RewriteLock::default();
        let has_freed = Arc::new(AtomicBool::new(false));
        let cluster = log.facts().cluster_id;
        let mark_file =
            settings.synced_store.as_deref().and_then(|store| mark::file(store, &log.bucket().name));
        // With several copies the mark is an old one, and other members may know of a loss that was accepted.
        let known_mark = match mark_file.as_ref().filter(|_| has_only_copy) {
            Some(file) => match mark::read(file, cluster) {
                Err(error) if settings.accepts_loss => {
                    tracing::error!(%error, "the mark of the synced index is given up");
                    counters.lost(1);
                    None
                }
                mark => mark?,
            },
            None => None,
        };
        let marks = mark_file.map(|file| {
            let (sender, receiver) = watch::channel(None);
            tokio::spawn(mark::keep(file, cluster, receiver, stop.clone()));
            sender
        });
        let space = Arc::new(Space::new(
            Arc::clone(&log),
            calls.clone(),
            Arc::clone(&tables.alarms),
            settings.store_dir.clone(),
            settings.quota_bytes,
            settings.member.id,
        ));
        let hashes = Arc::new(HashCache::default());
        let gate = settings.synced_store.as_ref().map(|store| {
            let files = StreamFiles::new(store, &log.bucket().stream, rewrites.clone());
            Gate::new(files, store_failed.clone(), sync_durations.clone())
        });
        let task = apply::Task {
            entries: entry_receiver,
            reports: report_sender,
            applier: Applier::new(writer, tables.clone()),
            reader: reader.clone(),
            published,
            gate,
            mode: Arc::clone(&mode),
            standing: standing_receiver.clone(),
            marks,
            jobs: job_sender,
            counters: counters.clone(),
            has_freed: Arc::clone(&has_freed),
            state: apply::Progress::default(),
        };
        // Its timers are its own, so that it may outlive the runtime that it was started on by a moment.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(StartError::Thread)?;
        let thread = std::thread::Builder::new().name("applier".to_owned());
        thread.spawn(move || runtime.block_on(task.run())).map_err(StartError::Thread)?;
        let compactor = compactor::Compactor {
            log: Arc::clone(&log),
            calls: calls.clone(),
            reader: reader.clone(),
            counters: counters.clone(),
            hashes: Arc::clone(&hashes),
            store: settings.synced_store.clone(),
            mode: Arc::clone(&mode),
            rewrites,
            has_freed,
            stop: stop.clone(),
        };
        tokio::spawn(compactor.run(jobs));
        let integrity = integrity::Integrity {
            log: Arc::clone(&log),
            calls: calls.clone(),
            entries: entries.clone(),
            status: Arc::clone(&status),
            mode: Arc::clone(&mode),
            failure: failure.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(integrity.run());
        tokio::spawn(Arc::clone(&space).watch(settings.store_error.clone(), stop.clone()));
        let keeper = standing::Keeper {
            log: Arc::clone(&log),
            measured: space.measured(),
            standing,
            stop: stop.clone(),
        };
        tokio::spawn(keeper.run());
        let replaced = standing_receiver.clone();
        tokio::spawn(standing::fence_replaced(Arc::clone(&log), space.measured(), replaced, stop.clone()));
        let changes = changes::Changes {
            log: Arc::clone(&log),
            space: Arc::clone(&space),
            status: Arc::clone(&status),
            members: Arc::clone(&tables.members),
            member: settings.member.id,
            counters: counters.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(changes.run());
        if let Some(system) = &settings.system {
            let keeper = server_group::Keeper {
                log: Arc::clone(&log),
                members: Arc::clone(&tables.members),
                status: Arc::clone(&status),
                mode: Arc::clone(&mode),
                one_copy: Arc::clone(&one_copy),
                measured: space.measured(),
                commands: commands.clone(),
                own: settings.member.name.clone(),
                login: system.clone(),
                stop: stop.clone(),
            };
            tokio::spawn(keeper.run());
        }
        let node = Node {
            log: Arc::clone(&log),
            settings: NodeSettings {
                member: settings.member.clone(),
                founders: settings.founders.clone().unwrap_or_default(),
                change_rules: settings.change_rules,
                heartbeat_interval: settings.heartbeat_interval,
                election_timeout: settings.election_timeout,
                reads: settings.linearizable_reads,
                quota_bytes: settings.quota_bytes,
                accepts_loss: settings.accepts_loss,
                mark: known_mark,
            },
            mode: Arc::clone(&mode),
            standing: standing_receiver.clone(),
            one_copy,
            start,
            counter: 0,
            new_calls,
            messenger,
            incoming,
            namesakes,
            answering_newcomers,
            answers,
            answered,
            entries,
            reports,
            commands: command_receiver,
            tables: tables.clone(),
            reader: reader.clone(),
            status: Arc::clone(&status),
            counters: counters.clone(),
            space: Arc::clone(&space),
            failure: failure.clone(),
            stop: stop.clone(),
            chain: Chain::new(None),
            trim_to: LogIndex::NONE,
            epoch: None,
            is_ready: false,
            is_loaded: false,
            loaded_messages: 0,
            nonces: Vec::new(),
            open: BTreeMap::new(),
            reads: Vec::new(),
            reads_sent: BTreeMap::new(),
            by_index: BTreeMap::new(),
            peers: HashMap::new(),
            last_alive: None,
            reported_refusal: None,
            is_leaving: false,
            store_durations: sync_durations.clone(),
            void_trims: Vec::new(),
            doubt: None,
            longest_timeout: Duration::ZERO,
        };
        let entries = node.entries.downgrade();
        tokio::spawn(node.run());
        Ok(Engine {
            parts: Arc::new(Parts {
                reader,
                tables,
                calls,
                space,
                status,
                counters,
                hashes,
                log,
                standing: standing_receiver,
                member: settings.member.id,
                mode,
                start,
                own: settings.member,
                durability: settings.durability,
                store_dir: settings.store_dir,
                sync_durations,
                applied_durations: write_histogram(
                    "etcd_disk_backend_commit_duration_seconds",
                    "Time from a write's call until it was visible.",
                ),
                commands,
                entries,
                failure,
                store_failed,
                stop,
            }),
        })
    }
}
