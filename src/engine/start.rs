//! Starts the engine: connects, and gives each part what it uses.

use super::apply::{self, Entry, Report};
use super::calls::{Calls, NewCall};
use super::changes::Changes;
use super::compactor::{Compactor, Job};
use super::handle::Parts;
use super::integrity::Integrity;
use super::mark::{Mark, Marks};
use super::node::Command;
use super::read_only::{self, ReadOnlyCheck};
use super::server_group::Reconciler;
use super::stream_leader::StreamLeader;
use super::{Counters, Engine, EngineSettings, MarkError, mark};
use crate::applier::{Applier, Tables};
use crate::core::{self, Reader};
use crate::durability::{Gate, RewriteLock, StreamFiles};
use crate::engine::damaged_copies::DamagedCopies;
use crate::engine::failure::{Failure, NameTaken};
use crate::engine::hash::HashCache;
use crate::engine::mode::Mode;
use crate::engine::node::{Node, NodeSettings, PeerLinks};
use crate::engine::one_copy::OneCopy;
use crate::engine::space::Space;
use crate::engine::status::Status;
use crate::log::{Demand, Log, OpenError, Purpose, ReadOnly, Store};
use crate::memory;
use crate::primitive::Notify;
use crate::record::Chain;
use crate::telemetry::write_histogram;
use crate::types::{Epoch, LogIndex};
use prometheus::Histogram;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Entries that may wait for the applier.
const MAX_WAITING_ENTRIES: usize = 1024;

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

/// The parts that several tasks use. They are made before the first task is started.
struct Shared {
    log: Arc<Log>,
    /// The reason why nothing may be written, if there is one.
    read_only: watch::Sender<Option<ReadOnly>>,
    reader: Reader,
    tables: Tables,
    calls: Calls,
    counters: Counters,
    status: Arc<Status>,
    mode: Arc<Mode>,
    one_copy: Arc<OneCopy>,
    damaged_copies: Arc<DamagedCopies>,
    space: Arc<Space>,
    hashes: Arc<HashCache>,
    failure: Failure,
    store_failed: watch::Sender<Option<Arc<std::io::Error>>>,
    /// Keeps removals and syncs of the store's folder apart.
    rewrites: RewriteLock,
    /// A compaction has freed much.
    has_freed: Arc<AtomicBool>,
    sync_durations: Histogram,
    /// The start of this instance, a random number.
    start: u64,
    stop: CancellationToken,
}

/// The ends of channels that the node holds.
struct NodeChannels {
    new_calls: mpsc::UnboundedReceiver<NewCall>,
    entries: mpsc::Sender<Entry>,
    reports: mpsc::UnboundedReceiver<Report>,
    commands: mpsc::Receiver<Command>,
}

impl Engine {
    /// Connects, sets the bucket up and starts to load it. `published` is notified after each publication.
    /// Calls may come at once; they wait until all is loaded.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) async fn start(
        settings: EngineSettings,
        (writer, reader): (core::Writer, Reader),
        published: Arc<Notify>,
    ) -> Result<Engine, StartError> {
        let log = open_log(&settings).await?;
        let (call_sender, new_calls) = mpsc::unbounded_channel();
        let has_only_copy = has_only_copy(&settings, &log).await;
        let shared = Shared::new(&settings, log, reader, call_sender, has_only_copy);
        let links = shared.open_links(&settings).await?;
        let (known_mark, marks) = shared.open_mark(&settings, has_only_copy)?;
        let (entries, entry_receiver) = mpsc::channel(MAX_WAITING_ENTRIES);
        let (report_sender, reports) = mpsc::unbounded_channel();
        let (job_sender, jobs) = mpsc::unbounded_channel();
        let (command_sender, commands) = mpsc::channel(4);
        spawn_applier(apply::Task {
            entries: entry_receiver,
            reports: report_sender,
            applier: Applier::new(writer, shared.tables.clone()),
            reader: shared.reader.clone(),
            published,
            gate: shared.gate(&settings),
            mode: Arc::clone(&shared.mode),
            read_only: shared.read_only.subscribe(),
            marks,
            jobs: job_sender,
            counters: shared.counters.clone(),
            has_freed: Arc::clone(&shared.has_freed),
            state: apply::Progress::default(),
        })?;
        shared.spawn_compactor(&settings, jobs);
        shared.spawn_checks(&settings, entries.clone());
        shared.spawn_server_group(&settings, command_sender.clone());
        shared.spawn_stream_leader(&settings, command_sender.clone());
        let weak_entries = entries.downgrade();
        let node =
            shared.node(&settings, NodeChannels { new_calls, entries, reports, commands }, links, known_mark);
        tokio::spawn(node.run());
        Ok(shared.into_engine(settings, command_sender, weak_entries))
    }
}

async fn open_log(settings: &EngineSettings) -> Result<Arc<Log>, StartError> {
    // In a cluster a stream that this server does not load is on the other members.
    let store = settings.store_dir.clone().filter(|_| settings.is_alone);
    let store = store.map(|dir| Store { dir, accepts_loss: settings.accepts_loss });
    let demand = Demand { quota: settings.quota_bytes, message_bytes: settings.largest_message };
    let purpose = if settings.is_being_filled { Purpose::ServeRestored } else { Purpose::Serve };
    let log = Arc::new(Log::open_for(&settings.endpoint, store.as_ref(), purpose, demand).await?);
    // An account of embedded servers has no limits.
    if !settings.is_alone && settings.endpoint.own_cluster.is_none() {
        log.report_limits(demand).await;
    }
    if let Some(reason) = log.read_only() {
        tracing::warn!(reason = reason.to_string(), "nothing is written");
    }
    Ok(log)
}

fn spawn_applier(task: apply::Task) -> Result<(), StartError> {
    // Its timers are its own, so that it may outlive the runtime that it was started on by a moment.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .on_thread_park(memory::give_back_if_asked)
        .build()
        .map_err(StartError::Thread)?;
    let thread = std::thread::Builder::new().name("applier".to_owned());
    thread.spawn(move || runtime.block_on(task.run())).map_err(StartError::Thread)?;
    Ok(())
}

impl Shared {
    fn new(
        settings: &EngineSettings,
        log: Arc<Log>,
        reader: Reader,
        call_sender: mpsc::UnboundedSender<NewCall>,
        has_only_copy: bool,
    ) -> Shared {
        let tables = Tables::new(settings.auth.clone());
        let counters = Counters::new();
        let read_only = watch::Sender::new(log.read_only().cloned());
        let calls = Calls {
            sender: call_sender,
            open: Arc::default(),
            counters: counters.clone(),
            read_only: read_only.subscribe(),
        };
        let mode = Mode::new(settings.is_alone, settings.founders.is_some());
        let can_sync = settings.synced_store.is_some();
        let mode = if can_sync { mode.with_sync(has_only_copy) } else { mode };
        let space = Space::new(
            Arc::clone(&log),
            calls.clone(),
            Arc::clone(&tables.alarms),
            settings.store_dir.clone(),
            settings.quota_bytes,
            settings.member.id,
        );
        Shared {
            log,
            read_only,
            reader,
            tables,
            calls,
            status: Arc::new(Status::new(counters.leader_changes())),
            counters,
            mode: Arc::new(mode),
            one_copy: Arc::default(),
            damaged_copies: Arc::default(),
            space: Arc::new(space),
            hashes: Arc::default(),
            failure: watch::Sender::new(None),
            store_failed: watch::Sender::new(None),
            rewrites: RewriteLock::default(),
            has_freed: Arc::default(),
            sync_durations: write_histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "Time of a sync that writes share; where they share none, until a write was known to be stored.",
            ),
            start: rand::random(),
            stop: CancellationToken::new(),
        }
    }

    /// The links to other instances, if any can reach the bucket.
    async fn open_links(&self, settings: &EngineSettings) -> Result<Option<PeerLinks>, StartError> {
        if settings.is_alone {
            return Ok(None);
        }
        let members = settings.founders.as_ref().map(|_| &self.tables.members);
        let links = PeerLinks::open(&self.log, &settings.member, self.start, members).await?;
        Ok(Some(links))
    }

    /// The mark of an earlier start, and the task that writes new ones, where this process syncs the store.
    fn open_mark(
        &self,
        settings: &EngineSettings,
        has_only_copy: bool,
    ) -> Result<(Option<Mark>, Option<Marks>), StartError> {
        let store = settings.synced_store.as_deref();
        let Some(file) = store.and_then(|store| mark::file(store, &self.log.bucket().name)) else {
            return Ok((None, None));
        };
        let cluster = self.log.facts().cluster_id;
        // With several copies, or one elsewhere, the mark is an old one, and other members may know of a loss
        // that was accepted.
        let known = if has_only_copy {
            match mark::read(&file, cluster) {
                Err(error) if settings.accepts_loss => {
                    tracing::error!(%error, "the mark of the synced index is given up");
                    self.counters.lost(1);
                    None
                }
                mark => mark?,
            }
        } else {
            None
        };
        Ok((known, Some(Marks::keep(file, cluster, self.stop.clone()))))
    }

    /// Syncs the store's files, where this process does.
    fn gate(&self, settings: &EngineSettings) -> Option<Gate> {
        settings.synced_store.as_ref().map(|store| {
            let files = StreamFiles::new(store, &self.log.bucket().stream, self.rewrites.clone());
            Gate::new(files, self.store_failed.clone(), self.sync_durations.clone())
        })
    }

    fn spawn_compactor(&self, settings: &EngineSettings, jobs: mpsc::UnboundedReceiver<Job>) {
        let compactor = Compactor {
            log: Arc::clone(&self.log),
            calls: self.calls.clone(),
            reader: self.reader.clone(),
            counters: self.counters.clone(),
            hashes: Arc::clone(&self.hashes),
            store: settings.synced_store.clone(),
            mode: Arc::clone(&self.mode),
            rewrites: self.rewrites.clone(),
            has_freed: Arc::clone(&self.has_freed),
            stop: self.stop.clone(),
        };
        tokio::spawn(compactor.run(jobs));
    }

    /// Starts the tasks that compare the log with the state, measure NATS, and log changes.
    fn spawn_checks(&self, settings: &EngineSettings, entries: mpsc::Sender<Entry>) {
        let integrity = Integrity {
            log: Arc::clone(&self.log),
            calls: self.calls.clone(),
            entries,
            status: Arc::clone(&self.status),
            mode: Arc::clone(&self.mode),
            damaged_copies: Arc::clone(&self.damaged_copies),
            failure: self.failure.clone(),
            stop: self.stop.clone(),
        };
        tokio::spawn(integrity.run());
        tokio::spawn(Arc::clone(&self.space).watch(settings.store_error.clone(), self.stop.clone()));
        let check = ReadOnlyCheck {
            log: Arc::clone(&self.log),
            measured: self.space.measured(),
            read_only: self.read_only.clone(),
            stop: self.stop.clone(),
        };
        tokio::spawn(check.run());
        let replaced = (Arc::clone(&self.log), self.space.measured(), self.read_only.subscribe());
        tokio::spawn(read_only::fence_replaced(replaced, self.stop.clone()));
        let changes = Changes {
            log: Arc::clone(&self.log),
            space: Arc::clone(&self.space),
            status: Arc::clone(&self.status),
            members: Arc::clone(&self.tables.members),
            member: settings.member.id,
            counters: self.counters.clone(),
            stop: self.stop.clone(),
        };
        tokio::spawn(changes.run());
    }

    /// Starts the task that keeps the servers of a cluster like its members.
    fn spawn_server_group(&self, settings: &EngineSettings, commands: mpsc::Sender<Command>) {
        let Some(system) = &settings.system else { return };
        let reconciler = Reconciler {
            log: Arc::clone(&self.log),
            members: Arc::clone(&self.tables.members),
            status: Arc::clone(&self.status),
            mode: Arc::clone(&self.mode),
            one_copy: Arc::clone(&self.one_copy),
            measured: self.space.measured(),
            commands,
            own: settings.member.name.clone(),
            login: system.clone(),
            stop: self.stop.clone(),
        };
        tokio::spawn(reconciler.run());
    }

    /// Starts the task that moves the stream's leader to the writer's server.
    fn spawn_stream_leader(&self, settings: &EngineSettings, commands: mpsc::Sender<Command>) {
        let Some(system) = &settings.system else { return };
        let stream_leader = StreamLeader {
            log: Arc::clone(&self.log),
            status: Arc::clone(&self.status),
            mode: Arc::clone(&self.mode),
            one_copy: Arc::clone(&self.one_copy),
            damaged_copies: Arc::clone(&self.damaged_copies),
            commands,
            rewrites: self.rewrites.clone(),
            login: system.clone(),
            account: settings.account,
            stop: self.stop.clone(),
        };
        tokio::spawn(stream_leader.run());
    }

    /// A node that has read nothing yet.
    fn node(
        &self,
        settings: &EngineSettings,
        channels: NodeChannels,
        links: Option<PeerLinks>,
        mark: Option<Mark>,
    ) -> Node {
        let (answers, answered) = mpsc::unbounded_channel();
        let mut node = Node {
            log: Arc::clone(&self.log),
            read_only: self.read_only.subscribe(),
            settings: NodeSettings {
                member: settings.member.clone(),
                founders: settings.founders.clone().unwrap_or_default(),
                change_rules: settings.change_rules,
                is_joining: settings.is_joining,
                heartbeat_interval: settings.heartbeat_interval,
                election_timeout: settings.election_timeout,
                reads: settings.linearizable_reads,
                quota_bytes: settings.quota_bytes,
                accepts_loss: settings.accepts_loss,
                mark,
            },
            mode: Arc::clone(&self.mode),
            one_copy: Arc::clone(&self.one_copy),
            damaged_copies: Arc::clone(&self.damaged_copies),
            start: self.start,
            counter: 0,
            new_calls: channels.new_calls,
            messenger: None,
            incoming: mpsc::channel(1).1,
            duplicate_check: None,
            answering_newcomers: None,
            answers,
            answered,
            entries: channels.entries,
            reports: channels.reports,
            commands: channels.commands,
            tables: self.tables.clone(),
            reader: self.reader.clone(),
            status: Arc::clone(&self.status),
            counters: self.counters.clone(),
            space: Arc::clone(&self.space),
            failure: self.failure.clone(),
            stop: self.stop.clone(),
            chain: Chain::new(None),
            trim_to: LogIndex::NONE,
            epoch: None,
            is_ready: false,
            is_loaded: false,
            loaded_messages: 0,
            nonces: Vec::new(),
            early_calls: Vec::new(),
            promised: Epoch(0),
            open: BTreeMap::new(),
            reads: Vec::new(),
            reads_sent: BTreeMap::new(),
            by_index: BTreeMap::new(),
            peers: HashMap::new(),
            last_alive: None,
            reported_refusal: None,
            is_leaving: false,
            store_durations: self.sync_durations.clone(),
            void_trims: Vec::new(),
            suspected: None,
            longest_timeout: Duration::ZERO,
        };
        if let Some(links) = links {
            node.set_links(links);
        }
        node
    }

    fn into_engine(
        self,
        settings: EngineSettings,
        commands: mpsc::Sender<Command>,
        entries: mpsc::WeakSender<Entry>,
    ) -> Engine {
        Engine {
            parts: Arc::new(Parts {
                reader: self.reader,
                tables: self.tables,
                calls: self.calls,
                space: self.space,
                status: self.status,
                counters: self.counters,
                hashes: self.hashes,
                read_only: self.read_only.subscribe(),
                log: self.log,
                member: settings.member.id,
                mode: self.mode,
                start: self.start,
                own: settings.member,
                system: settings.system.map(|login| (login, settings.account)),
                durability: settings.durability,
                store_dir: settings.store_dir,
                sync_durations: self.sync_durations,
                applied_durations: write_histogram(
                    "etcd_disk_backend_commit_duration_seconds",
                    "Time from a write's call until it was visible.",
                ),
                commands,
                entries,
                failure: self.failure,
                store_failed: self.store_failed,
                stop: self.stop,
            }),
        }
    }
}

/// Whether there is one copy of the stream, on the server of this instance, as far as that is known.
async fn has_only_copy(settings: &EngineSettings, log: &Log) -> bool {
    if settings.is_alone {
        return true;
    }
    if settings.founders.is_none() || log.facts().replicas != 1 {
        return false;
    }
    // A member that has just joined one that was alone has a server, too.
    let info = log.info().await.ok();
    info.is_none_or(|info| info.leader().is_none_or(|holder| holder == settings.member.name))
}
