//! The engine: carries calls out.
//!
//! ```text
//! call -> Calls -> node: follow -> Courier -> the writer
//!                        write  -> Planner -> log::Pipeline ... acknowledged
//!                                                    |
//!         reader <- applier thread <- entries <------'   (or from a log::Consumer)
//! ```
//!
//! Each part gets only what it uses:
//! - `node` owns the chain, every open call, and the role: `follow` and `write`.
//! - `planner` plans calls on everything that is in flight.
//! - `apply` is the thread that applies, waits for the disk, shows states and sends answers.
//! - `compactor` frees the space of what the floor has hidden; `space` keeps the quota and the alarms; `mark` writes down how far
//!   the store was synced; `hash` makes etcd's checksums.
//! - `proposal` is the language between calls, node and instances.
//!
//! Invariants:
//! - E1: nothing is shown before everything that the log held is applied.
//! - E2: a call whose outcome is not known is never carried out again: the log decides, or the client is told so.
//! - E3: an answer that rests on a state is given only when the state is known to be no older than the call.

mod apply;
mod compactor;
mod counters;
mod follow;
mod hash;
mod integrity;
mod mark;
mod node;
mod planner;
mod proposal;
mod space;
mod status;
mod write;

pub use counters::Counters;
pub use hash::KvHash;
pub use mark::MarkError;
pub use proposal::AuthChange;
pub use status::Phase;

use crate::applier::{Applier, Tables};
use crate::auth::{self, Auth, AuthStore, Caller, Credentials, TokenSettings};
use crate::core::{Reader, State};
use crate::durability::{Gate, Level, RewriteLock, StreamFiles};
use crate::error::EtcdError;
use crate::log::{Courier, Endpoint, Log, OpenError};
use crate::primitive::Notify;
use crate::record::{Alarm, Chain, Member};
use crate::telemetry::write_histogram;
use crate::txn::{self, Request, Response};
use crate::types::{LeaseId, LogIndex, Revision};
use hash::HashCache;
use node::{Command, Node, NodeSettings};
use prometheus::{Histogram, IntCounter};
use proposal::{Answer, Outcome, Proposal};
use space::Space;
use status::Status;
use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a call may wait for the writer, as etcd bounds a proposal: 5 s and two election timeouts.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
/// Writes that may be open at once. etcd refuses more when that many are committed and not applied.
const MOST_OPEN: usize = 10_000;
/// Entries that may wait for the applier.
const AHEAD: usize = 1024;
/// How long the removal from the member list may take at a stop.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a resignation may take.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(6);

/// How a read is made linearizable where other instances may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinearizableReads {
    /// By a committed message, which proves who writes.
    #[default]
    Quorum,
    /// By the word of the instance that believes to write; can be stale for about a second around a partition.
    Leader,
}

/// What the engine needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// NATS and the bucket.
    pub endpoint: Endpoint,
    /// No other instance can reach the bucket: the embedded server admits only this one.
    pub is_alone: bool,
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
    /// This instance in the member list.
    pub member: Member,
    /// How often the writer says that it lives.
    pub heartbeat_interval: Duration,
    /// Silence of the writer after which another instance takes over.
    pub election_timeout: Duration,
    /// Messages that are missing from the log are given up.
    pub accepts_loss: bool,
    /// For users and their tokens.
    pub auth: auth::AuthSettings,
}

/// The engine could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// NATS or the bucket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The subscriptions.
    #[error("cannot subscribe: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The mark beside the store.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The thread that applies.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Bytes of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Of the messages there are.
    pub in_use: u64,
    /// Of the files that hold them, where they are ours to see.
    pub allocated: u64,
}

/// A new call, for the node.
#[derive(Debug)]
struct NewCall {
    proposal: Proposal,
    caller: Caller,
    deadline: Instant,
    answer: Option<oneshot::Sender<Result<Answer, EtcdError>>>,
}

/// Hands calls to the node.
#[derive(Clone, Debug)]
struct Calls {
    sender: mpsc::UnboundedSender<NewCall>,
    /// Writes that are not answered. Relaxed: a number by itself.
    open: Arc<AtomicUsize>,
}

/// Counts an open write until it is dropped.
struct OpenWrite<'a>(&'a AtomicUsize);

impl Drop for OpenWrite<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Calls {
    async fn ask(&self, proposal: Proposal) -> Result<Answer, EtcdError> {
        self.ask_as(proposal, &Caller::default()).await
    }

    async fn ask_as(&self, proposal: Proposal, caller: &Caller) -> Result<Answer, EtcdError> {
        let (sender, receiver) = oneshot::channel();
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let call = NewCall { proposal, caller: caller.clone(), deadline, answer: Some(sender) };
        self.sender.send(call).map_err(|_| EtcdError::Stopped)?;
        receiver.await.map_err(|_| EtcdError::Stopped)?
    }

    fn open_write(&self) -> Result<OpenWrite<'_>, EtcdError> {
        let open = OpenWrite(&self.open);
        if self.open.fetch_add(1, Ordering::Relaxed) >= MOST_OPEN {
            Err(EtcdError::TooManyRequests)
        } else {
            Ok(open)
        }
    }
}

/// A handle on the engine; clones share it.
#[derive(Clone, Debug)]
pub struct Engine {
    parts: Arc<Parts>,
}

/// The parts of the engine that calls use.
#[derive(Debug)]
pub struct Parts {
    reader: Reader,
    tables: Tables,
    calls: Calls,
    space: Arc<Space>,
    status: Arc<Status>,
    counters: Counters,
    hashes: Arc<HashCache>,
    log: Arc<Log>,
    member: u64,
    is_alone: bool,
    durability: Level,
    store_dir: Option<std::path::PathBuf>,
    sync_durations: Histogram,
    applied_durations: Histogram,
    failed_writes: IntCounter,
    commands: mpsc::Sender<Command>,
    failure: watch::Sender<Option<String>>,
    store_failed: watch::Sender<Option<String>>,
    stop: CancellationToken,
}

impl Deref for Engine {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Engine {
    /// Connects, sets the bucket up and starts to load it. `published` is notified after each publication. Calls may
    /// come at once; they wait until all is loaded.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        settings: Settings,
        (writer, reader): (crate::core::Writer, Reader),
        published: Arc<Notify>,
    ) -> Result<Engine, StartError> {
        let store = settings.store_dir.clone();
        let store = store.map(|dir| crate::log::Store { dir, accepts_loss: settings.accepts_loss });
        let log = Arc::new(Log::open(&settings.endpoint, store.as_ref()).await?);
        let start: u64 = rand::random();
        let stop = CancellationToken::new();
        let tables = Tables::new(settings.auth.clone());
        let status = Arc::new(Status::new());
        let counters = Counters::new();
        let (call_sender, new_calls) = mpsc::unbounded_channel();
        let calls = Calls { sender: call_sender, open: Arc::default() };
        let (entries, entry_receiver) = mpsc::channel(AHEAD);
        let (report_sender, reports) = mpsc::unbounded_channel();
        let (job_sender, jobs) = mpsc::unbounded_channel();
        let (answers, answered) = mpsc::unbounded_channel();
        let (commands, command_receiver) = mpsc::channel(4);
        let (courier, incoming) = if settings.is_alone {
            (None, mpsc::channel(1).1)
        } else {
            let (courier, incoming) = Courier::open(log.connection(), &log.bucket().name, start).await?;
            (Some(courier), incoming)
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
        let known_mark = match &mark_file {
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
            failure: failure.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(integrity.run());
        tokio::spawn(Arc::clone(&space).watch(settings.store_error.clone(), stop.clone()));
        let node = Node {
            log: Arc::clone(&log),
            settings: NodeSettings {
                is_alone: settings.is_alone,
                member: settings.member.clone(),
                heartbeat_interval: settings.heartbeat_interval,
                election_timeout: settings.election_timeout,
                reads: settings.linearizable_reads,
                quota_bytes: settings.quota_bytes,
                accepts_loss: settings.accepts_loss,
                mark: known_mark,
            },
            start,
            counter: 0,
            new_calls,
            courier,
            incoming,
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
            told_refusal: None,
            is_leaving: false,
            store_durations: settings.synced_store.is_none().then(|| sync_durations.clone()),
            void_trims: Vec::new(),
            doubt: None,
            longest_timeout: Duration::ZERO,
        };
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
                member: settings.member.id,
                is_alone: settings.is_alone,
                durability: settings.durability,
                store_dir: settings.store_dir,
                sync_durations,
                applied_durations: write_histogram(
                    "etcd_disk_backend_commit_duration_seconds",
                    "Time from a write's call until it was visible.",
                ),
                failed_writes: IntCounter::new(
                    "etcd_server_proposals_failed_total",
                    "Writes that were not carried out.",
                )
                .expect("a legal name"),
                commands,
                failure,
                store_failed,
                stop,
            }),
        })
    }

    /// Carries out a request that may write. The answer is given when its revision is visible, or when a state no older than
    /// this call shows that nothing is to be written. The writer checks whether the caller may do it.
    ///
    /// # Errors
    /// etcd's own.
    pub async fn execute(&self, request: Request, caller: &Caller) -> Result<Response, EtcdError> {
        let _open = self.calls.open_write()?;
        let timer = self.applied_durations.start_timer();
        // A copy shares keys and values.
        let asked = self.calls.ask_as(Proposal::Write(request.clone()), caller).await;
        timer.observe_duration();
        let Answer { outcome, response, state } = asked.inspect_err(|_| self.failed_writes.inc())?;
        if let Some(response) = response {
            return Ok(response);
        }
        match outcome {
            Outcome::Written(revision) => txn::evaluate(&state, revision.prev(), &request),
            Outcome::Unwritten(revision) => txn::evaluate(&state, revision, &request),
            other => Err(mixed_up(&other)),
        }
    }

    /// Answers a request that writes nothing from a state.
    ///
    /// # Errors
    /// etcd's own.
    pub fn answer_from(
        &self,
        state: &State,
        request: &Request,
        caller: &Caller,
    ) -> Result<Response, EtcdError> {
        let access = self.tables.auth.access(caller);
        auth::check_request(&access, request, &|_| Ok(()))?;
        txn::answer_reads(state, request)
    }

    /// A state no older than this call: it holds every write answered before, through any instance.
    ///
    /// # Errors
    /// [`EtcdError::Unavailable`], [`EtcdError::Timeout`] or [`EtcdError::Stopped`].
    pub async fn linearizable(&self) -> Result<Arc<State>, EtcdError> {
        if self.status.is_linearizable() {
            return Ok(self.reader.snapshot());
        }
        let begun = Instant::now();
        let state = self.calls.ask(Proposal::ReadIndex).await.map(|answer| answer.state);
        self.counters.read_index(begun.elapsed(), state.is_ok());
        state
    }

    /// A state as it is here and now, once there is one.
    ///
    /// # Errors
    /// [`EtcdError::Unavailable`] or [`EtcdError::Stopped`].
    pub async fn serializable(&self) -> Result<Arc<State>, EtcdError> {
        let mut phase = self.status.phase();
        if *phase.borrow() != Phase::Serving {
            let settled = phase.wait_for(|phase| !matches!(phase, Phase::Loading { .. }));
            match tokio::time::timeout(REQUEST_TIMEOUT, settled).await {
                Ok(Ok(phase)) if *phase == Phase::Serving => {}
                Ok(_) => return Err(EtcdError::Stopped),
                Err(_) => {
                    let phase = self.status.phase().borrow().clone();
                    let cause = self.status.known_leader().err().unwrap_or_default();
                    return Err(EtcdError::Unavailable(format!("{phase} ({cause})")));
                }
            }
        }
        Ok(self.reader.snapshot())
    }

    /// Grants a lease; id 0 lets the server choose. Returns id and effective TTL.
    ///
    /// # Errors
    /// [`EtcdError::LeaseExists`], [`EtcdError::LeaseTtlTooLarge`] and those of every call to the writer.
    pub async fn grant_lease(&self, id: i64, ttl: i64) -> Result<(LeaseId, i64), EtcdError> {
        match self.calls.ask(Proposal::Grant { id, ttl }).await?.outcome {
            Outcome::Lease { id, ttl } => {
                self.counters.granted(ttl);
                Ok((id, ttl))
            }
            other => Err(mixed_up(&other)),
        }
    }

    /// Ends a lease and deletes its keys, all of which the caller must be allowed to write; returns the revision that did so, the
    /// current one where the lease has no keys.
    ///
    /// # Errors
    /// [`EtcdError::LeaseNotFound`], [`EtcdError::PermissionDenied`] and those of every call to the writer.
    pub async fn revoke_lease(&self, id: LeaseId, caller: &Caller) -> Result<Revision, EtcdError> {
        match self.calls.ask_as(Proposal::Revoke(id), caller).await?.outcome {
            Outcome::Written(revision) => {
                self.counters.revoked();
                Ok(revision)
            }
            other => Err(mixed_up(&other)),
        }
    }

    /// Renews a lease; returns its TTL, `None` for a lease that is gone.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub async fn keep_lease_alive(&self, id: LeaseId) -> Result<Option<i64>, EtcdError> {
        match self.calls.ask(Proposal::KeepAlive(id)).await?.outcome {
            Outcome::Lease { ttl: 0, .. } => Ok(None),
            Outcome::Lease { ttl, .. } => {
                self.counters.renewed();
                Ok(Some(ttl))
            }
            other => Err(mixed_up(&other)),
        }
    }

    /// The seconds that a lease has left and was granted, `None` for one that is gone, and a state of that moment.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub async fn lease_time_left(&self, id: LeaseId) -> Result<(Option<(i64, i64)>, Arc<State>), EtcdError> {
        let answer = self.calls.ask(Proposal::TimeToLive(id)).await?;
        match answer.outcome {
            Outcome::TimeLeft(left) => Ok((left, answer.state)),
            other => Err(mixed_up(&other)),
        }
    }

    /// All leases, those that end first in front.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub async fn all_leases(&self) -> Result<Vec<LeaseId>, EtcdError> {
        match self.calls.ask(Proposal::Leases).await?.outcome {
            Outcome::Leases(leases) => Ok(leases),
            other => Err(mixed_up(&other)),
        }
    }

    /// Raises the compaction floor; returns the state in which reads below it are refused. With `physical` it also waits until
    /// the space is free.
    ///
    /// # Errors
    /// [`EtcdError::Compacted`], [`EtcdError::FutureRevision`] and those of every call to the writer.
    pub async fn compact(&self, revision: Revision, physical: bool) -> Result<Arc<State>, EtcdError> {
        Ok(self.calls.ask(Proposal::Compact { revision, physical }).await?.state)
    }

    /// Waits until the messages that compactions have left so far are removed, and their room is known to be free.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub async fn finish_removals(&self) -> Result<(), EtcdError> {
        self.calls.ask(Proposal::FinishRemovals).await?;
        self.space.measure().await;
        Ok(())
    }

    /// Refuses a write as the alarms want it. `cost` is about how many bytes the write adds, 0 for one that adds none.
    ///
    /// # Errors
    /// [`EtcdError::Corrupt`], [`EtcdError::NoSpace`].
    pub fn admit(&self, cost: u64) -> Result<(), EtcdError> {
        self.space.admit(cost)
    }

    /// Refuses a write of about `cost` bytes where there is no room for it, and raises the NOSPACE alarm.
    ///
    /// # Errors
    /// [`EtcdError::NoSpace`].
    pub async fn claim_space(&self, cost: u64) -> Result<(), EtcdError> {
        self.space.claim(cost).await
    }

    /// Alarms that are raised.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.space.alarms()
    }

    /// Raises or lowers an alarm.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub async fn set_alarm(&self, alarm: Alarm, raised: bool) -> Result<(), EtcdError> {
        self.space.set_alarm(alarm, raised).await
    }

    /// The members that this instance knows, ascending by id.
    pub fn members(&self) -> Vec<Member> {
        self.tables.members.all().values().cloned().collect()
    }

    /// Changes or removes a member.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub async fn set_member(&self, id: u64, member: Option<Member>) -> Result<(), EtcdError> {
        self.calls.ask(Proposal::Member { id, member }).await.map(drop)
    }

    /// Lets another member write.
    ///
    /// # Errors
    /// [`EtcdError::NotLeader`], [`EtcdError::BadLeaderTransferee`], [`EtcdError::LeaderTransferTimeout`].
    pub async fn move_leader(&self, target: u64) -> Result<(), EtcdError> {
        self.calls.ask(Proposal::MoveLeader { target }).await.map(drop)
    }

    /// The user of a request; none while auth is off.
    ///
    /// # Errors
    /// [`EtcdError::InvalidAuthToken`].
    pub async fn identify(&self, credentials: &Credentials) -> Result<Caller, EtcdError> {
        let auth = &self.tables.auth;
        if !auth.is_enabled() {
            return Ok(Caller::default());
        }
        if let Some(token) = &credentials.token {
            // Another instance may have issued it a moment ago.
            if !self.is_alone && !auth.tokens().is_settled(token) {
                self.linearizable().await?;
            }
        }
        let caller = auth.identify(credentials)?;
        if let Some(hash) = credentials.token.as_ref().and_then(|token| auth.tokens().use_to_report(token)) {
            let call = NewCall {
                proposal: Proposal::TokenUsed { hash },
                caller: Caller::default(),
                deadline: Instant::now() + REQUEST_TIMEOUT,
                answer: None,
            };
            // Nobody waits for it: a token that is lost with its last uses is asked for again.
            drop(self.calls.sender.send(call));
        }
        Ok(caller)
    }

    /// Users and roles, no older than this call.
    ///
    /// # Errors
    /// Those of a linearizable read.
    pub async fn auth_store(&self) -> Result<Arc<AuthStore>, EtcdError> {
        self.linearizable().await?;
        Ok(self.tables.auth.store())
    }

    /// Changes users or roles, which only an administrator may while auth is on.
    ///
    /// # Errors
    /// Those of [`AuthStore`]'s methods and of every call to the writer.
    pub async fn change_auth(&self, caller: &Caller, change: AuthChange) -> Result<(), EtcdError> {
        self.calls.ask_as(Proposal::Users(change), caller).await.map(drop)
    }

    /// A token for a user, who proves to be the one by the password.
    ///
    /// # Errors
    /// [`EtcdError::AuthFailed`], [`EtcdError::AuthNotEnabled`], [`EtcdError::NoPasswordUser`] and those of every call to the
    /// writer.
    pub async fn authenticate(&self, name: &str, password: &str) -> Result<String, EtcdError> {
        loop {
            let store = self.auth_store().await?;
            let hash = store.password_hash(name)?.to_owned();
            if !auth::fits(password.to_owned(), hash).await? {
                return Err(EtcdError::AuthFailed);
            }
            match self.tables.auth.tokens().kind() {
                TokenSettings::None => return Err(EtcdError::AuthFailed),
                TokenSettings::Jwt(jwt) => {
                    if self.tables.auth.store().revision() == store.revision() {
                        return jwt.sign(name, store.revision());
                    }
                }
                TokenSettings::Simple => {
                    let token = auth::SimpleToken::invent(self.reader.snapshot().log_index.0);
                    let (hash, user) = (auth::token_hash(&token), name.to_owned());
                    let revision = store.revision();
                    match self.calls.ask(Proposal::IssueToken { hash, user, revision }).await {
                        Ok(_) => return Ok(token),
                        // The password may be another one by now.
                        Err(EtcdError::AuthOldRevision) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Whether a caller may end or renew a lease: it must be allowed to write every key on it.
    ///
    /// # Errors
    /// [`EtcdError::PermissionDenied`] and the like.
    pub fn check_lease_write(&self, caller: &Caller, lease: LeaseId) -> Result<(), EtcdError> {
        if self.tables.auth.check_admin(caller).is_ok() {
            return Ok(());
        }
        let access = self.tables.auth.access(caller);
        self.tables.attachments.keys(lease).iter().try_for_each(|key| access.write(key, &[]))
    }

    /// Whether a caller may see the keys of leases.
    ///
    /// # Errors
    /// [`EtcdError::PermissionDenied`] and the like.
    pub fn check_leases_read(
        &self,
        caller: &Caller,
        leases: impl Iterator<Item = LeaseId>,
    ) -> Result<(), EtcdError> {
        if self.tables.auth.check_admin(caller).is_ok() {
            return Ok(());
        }
        let access = self.tables.auth.access(caller);
        let mut keys = leases.flat_map(|lease| self.tables.attachments.keys(lease));
        keys.try_for_each(|key| access.read(&key, &[]))
    }

    /// The metrics.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Reads of what is published, without asking how fresh it is.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// How far the engine is.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.status.phase()
    }

    /// The number of leases.
    pub fn lease_count(&self) -> usize {
        self.tables.leases.len()
    }

    /// The keys on a lease, ascending.
    pub fn keys_of(&self, lease: LeaseId) -> Vec<bytes::Bytes> {
        self.tables.attachments.keys(lease)
    }

    /// Users, roles and what they may do.
    pub fn auth(&self) -> &Auth {
        &self.tables.auth
    }

    /// The member that writes, the reason where none is known.
    ///
    /// # Errors
    /// The reason.
    pub fn leader(&self) -> Result<u64, String> {
        self.status.known_leader()
    }

    /// Whether this instance writes.
    pub fn is_leader(&self) -> bool {
        self.status.is_writer()
    }

    /// The epoch in force, which is etcd's Raft term.
    pub fn epoch(&self) -> Arc<AtomicU64> {
        self.status.epoch()
    }

    /// Whether there is a writer.
    pub fn has_leader(&self) -> watch::Receiver<bool> {
        let mut leader = self.status.leader();
        let (has_leader, receiver) = watch::channel(leader.borrow().is_ok());
        tokio::spawn(async move {
            while leader.changed().await.is_ok() {
                if has_leader.send(leader.borrow_and_update().is_ok()).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// How much is stored: the last known figures where NATS does not answer now.
    pub async fn size(&self) -> Size {
        let in_use = self.space.measure().await;
        let store = self.store_dir.clone();
        let on_disk = tokio::task::spawn_blocking(move || store.map(|dir| crate::disk::usage(&dir)))
            .await
            .ok()
            .flatten();
        Size { in_use, allocated: on_disk.unwrap_or(in_use).max(in_use) }
    }

    /// When an answered write is on stable storage.
    pub fn durability(&self) -> Level {
        self.durability
    }

    /// Time of each sync that writes share; where they share none, until a write was known to be stored.
    pub fn sync_durations(&self) -> &Histogram {
        &self.sync_durations
    }

    /// Time until a write was visible.
    pub fn applied_durations(&self) -> &Histogram {
        &self.applied_durations
    }

    /// Writes that were not carried out.
    pub fn failed_writes(&self) -> &IntCounter {
        &self.failed_writes
    }

    /// Writes that are not answered yet.
    pub fn pending_writes(&self) -> usize {
        self.calls.open.load(Ordering::Relaxed)
    }

    /// An id that all instances on the bucket share, made when the bucket was.
    pub fn cluster_id(&self) -> u64 {
        self.log.facts().cluster_id
    }

    /// The id of this instance in the member list.
    pub fn member_id(&self) -> u64 {
        self.member
    }

    /// Resolves, with the reason, when the data can no longer be served: a sync failed, so that only a new start tells what is
    /// there, or the log is damaged.
    pub async fn failed(&self) -> String {
        let mut store_failed = self.store_failed.subscribe();
        let mut failure = self.failure.subscribe();
        let reason = tokio::select! {
            Ok(reason) = store_failed.wait_for(Option::is_some) => reason.clone(),
            Ok(reason) = failure.wait_for(Option::is_some) => reason.clone(),
            else => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Lets another instance write before this one stops, or notes that the log ends here.
    pub async fn resign(&self) {
        let (done, resigned) = oneshot::channel();
        if self.commands.send(Command::Resign(done)).await.is_ok() {
            // One that does not answer in time has nothing to hand over.
            drop(tokio::time::timeout(RESIGN_TIMEOUT, resigned).await);
        }
        if !self.is_alone {
            // A member that does not leave is removed after ten minutes of silence.
            drop(tokio::time::timeout(LEAVE_TIMEOUT, self.set_member(self.member, None)).await);
        }
    }

    /// Refuses further calls and lets go of NATS.
    pub fn stop(&self) {
        self.status.set_phase(Phase::Stopped);
        self.stop.cancel();
    }
}

fn mixed_up(outcome: &Outcome) -> EtcdError {
    EtcdError::Unknown(format!("jetway: the answer does not fit the call: {outcome:?}"))
}

impl From<crate::log::KeyTooLong> for EtcdError {
    fn from(error: crate::log::KeyTooLong) -> EtcdError {
        EtcdError::KeyTooLong { size: error.0, limit: crate::log::MAX_SUBJECT_BYTES }
    }
}
