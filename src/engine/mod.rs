//! The engine: carries calls out.
//!
//! ```text
//! call -> Calls -> node: follow -> Messenger -> the writer
//!                        write  -> Planner -> log::Pipeline ... acknowledged
//!                                                    |
//!         reader <- applier thread <- entries <------'   (or from a log::Consumer)
//! ```
//!
//! Each part gets only what it uses:
//! - `node` owns the chain, every open call, and the role: `follow` and `write`.
//! - `planner` plans calls on everything that is in flight.
//! - `apply` is the thread that waits for the disk, applies, publishes states and sends answers.
//! - `compactor` frees the space of what the floor has hidden; `space` keeps the quota and the alarms; `mark`
//!   writes down how far the store was synced; `hash` makes etcd's checksums.
//! - `standing` watches whether the stream may be written: a mirror may not, and neither may a primary whose
//!   mirror was promoted.
//! - `measured` is the last look at NATS, for `space`, for `nats_gauges`, and for `changes`, which logs each
//!   change of state.
//! - `membership` lists and changes members; `server_group` keeps the servers of NATS' cluster like them.
//! - `proposal` has the types of calls and answers, between the parts and between instances; `namesake` finds
//!   other processes with this member's id; `join` answers newcomers with the members; `start` puts all
//!   together.
//!
//! Invariants:
//! - E1: nothing is shown before everything that the log held is applied.
//! - E2: a call whose outcome is not known is never carried out again: the log decides, or the client gets an
//!   error for an unknown outcome.
//! - E3: an answer that rests on a state is given only when the state is known to be no older than the call.

mod access;
mod apply;
mod calls;
mod changes;
mod compactor;
mod counters;
mod failure;
mod figures;
mod follow;
mod gauges;
mod handover;
mod hash;
mod integrity;
mod join;
mod leases;
mod mark;
mod measured;
mod membership;
mod mode;
mod namesake;
mod nats_gauges;
mod node;
mod one_copy;
mod planner;
mod proposal;
mod regroup;
mod server_group;
mod space;
mod standing;
mod start;
mod status;
mod write;

pub(crate) use counters::Counters;
pub(crate) use failure::DataError;
pub(crate) use mark::MarkError;
pub(crate) use mode::Mode;
pub(crate) use proposal::AuthChange;
pub(crate) use start::StartError;
pub(crate) use status::{NoLeader, Phase};

use calls::{Calls, NewCall};

use crate::applier::{Picture, Tables};
use crate::auth::{self, Caller};
use crate::core::{Reader, State};
use crate::durability::Level;
use crate::error::EtcdError;
use crate::log::{Auth, Endpoint, Log, ReadOnly};
use crate::record::{Alarm, Member};
use crate::txn::{self, Request, Response};
use crate::types::Revision;
use apply::Entry;
use failure::Failure;
use hash::HashCache;
pub(crate) use join::Observer;
pub(crate) use membership::{ChangeRules, MemberChange};
use node::Command;
use prometheus::Histogram;
use proposal::{Answer, Outcome, Proposal};
use space::Space;
use standing::Standing;
use status::Status;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a call may wait for the writer, as etcd bounds a proposal: 5 s and two election timeouts.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
/// How long the removal from the member list may take at a stop.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a resignation may take.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(6);

/// How a read is made linearizable where other instances may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinearizableReads {
    /// By a committed message, which proves that its sender still writes.
    #[default]
    Quorum,
    /// Without a message: the instance that last became the writer answers. A read can be stale for about a
    /// second around a partition.
    Leader,
}

/// The settings of the engine.
#[derive(Clone, Debug)]
pub(crate) struct EngineSettings {
    /// NATS and the bucket.
    pub endpoint: Endpoint,
    /// No other instance can reach the bucket: the embedded server admits only this one.
    pub is_alone: bool,
    /// For reads where others may write.
    pub linearizable_reads: LinearizableReads,
    /// The store's directory where it is on this machine, for its size on disk.
    pub store_dir: Option<std::path::PathBuf>,
    /// When an answered write is on stable storage.
    pub durability: Level,
    /// The JetStream store, where its messages are made durable from here (see [`crate::durability`]).
    pub synced_store: Option<std::path::PathBuf>,
    /// Why the embedded server's store refuses writes, while it does.
    pub store_error: Option<watch::Receiver<Option<String>>>,
    /// Bytes above which the NOSPACE alarm is raised; negative for no limit.
    pub quota_bytes: i64,
    /// Largest write request in bytes, and so about the largest message.
    pub largest_message: usize,
    /// This instance in the member list.
    pub member: Member,
    /// The founding members of a cluster, whose members change by calls of the API alone; empty for one whose
    /// members are listed. `None` if each instance that serves the bucket is a member.
    pub founders: Option<Vec<Member>>,
    /// The credentials of the embedded server's system account, which it has in a cluster.
    pub system: Option<Auth>,
    /// Rules for changes of the members of a cluster.
    pub change_rules: ChangeRules,
    /// The time between two heartbeats of the writer.
    pub heartbeat_interval: Duration,
    /// Silence of the writer after which another instance takes over.
    pub election_timeout: Duration,
    /// Messages that are missing from the log are given up.
    pub accepts_loss: bool,
    /// For users and their tokens.
    pub auth: auth::AuthSettings,
}

/// A handle on the engine; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    parts: Arc<Parts>,
}

/// The parts of the engine that calls use.
#[derive(Debug)]
pub(crate) struct Parts {
    reader: Reader,
    tables: Tables,
    calls: Calls,
    space: Arc<Space>,
    status: Arc<Status>,
    counters: Counters,
    hashes: Arc<HashCache>,
    log: Arc<Log>,
    standing: Standing,
    member: u64,
    mode: Arc<Mode>,
    start: u64,
    own: Member,
    durability: Level,
    store_dir: Option<std::path::PathBuf>,
    sync_durations: Histogram,
    applied_durations: Histogram,
    commands: mpsc::Sender<Command>,
    /// Weak, since the thread that applies ends with the node.
    entries: mpsc::WeakSender<Entry>,
    failure: Failure,
    store_failed: watch::Sender<Option<Arc<std::io::Error>>>,
    stop: CancellationToken,
}

impl Deref for Engine {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Engine {
    /// Carries out a request that may write. The answer is given when its revision is visible, or when a
    /// state no older than this call shows that nothing is to be written. The writer checks whether the
    /// caller may do it.
    ///
    /// # Errors
    /// etcd's own.
    pub(crate) async fn execute(&self, request: Request, caller: &Caller) -> Result<Response, EtcdError> {
        let _open = self.calls.open_write()?;
        let timer = self.applied_durations.start_timer();
        // A copy shares keys and values.
        let asked = self.calls.ask_as(Proposal::Write(request.clone()), caller).await;
        timer.observe_duration();
        let Answer { outcome, response, state } = asked?;
        if let Some(response) = response {
            return Ok(response);
        }
        match outcome {
            Outcome::Written(revision) => txn::evaluate(&state, revision.prev(), &request),
            Outcome::Unwritten(revision) => txn::evaluate(&state, revision, &request),
            other => Err(unexpected(&other)),
        }
    }

    /// Answers a request that writes nothing from a state.
    ///
    /// # Errors
    /// etcd's own.
    pub(crate) fn answer_from(
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
    pub(crate) async fn linearizable(&self) -> Result<Arc<State>, EtcdError> {
        if self.status.is_linearizable() {
            return Ok(self.reader.snapshot());
        }
        let begun = Instant::now();
        let state = self.calls.ask(Proposal::ReadIndex).await.map(|answer| answer.state);
        self.counters.read_index(begun.elapsed(), state.is_ok());
        state
    }

    /// The newest state that is published here, which may be stale. Waits until the log is loaded.
    ///
    /// # Errors
    /// [`EtcdError::Unavailable`] or [`EtcdError::Stopped`].
    pub(crate) async fn serializable(&self) -> Result<Arc<State>, EtcdError> {
        let mut phase = self.status.phase();
        if *phase.borrow() != Phase::Serving {
            let settled = phase.wait_for(|phase| !matches!(phase, Phase::Loading { .. }));
            match tokio::time::timeout(REQUEST_TIMEOUT, settled).await {
                Ok(Ok(phase)) if *phase == Phase::Serving => {}
                Ok(_) => return Err(EtcdError::Stopped),
                Err(_) => {
                    let phase = self.status.phase().borrow().clone();
                    let cause =
                        self.status.known_leader().err().map(|NoLeader(reason)| reason).unwrap_or_default();
                    return Err(EtcdError::Unavailable(format!("{phase} ({cause})")));
                }
            }
        }
        Ok(self.reader.snapshot())
    }

    /// The state that is published here, which may be stale, with its tables. Waits until the log is loaded.
    ///
    /// # Errors
    /// [`EtcdError::Unavailable`] or [`EtcdError::Stopped`].
    pub(crate) async fn picture(&self) -> Result<Picture, EtcdError> {
        self.serializable().await?;
        let (sender, picture) = oneshot::channel();
        let entries = self.entries.upgrade().ok_or(EtcdError::Stopped)?;
        entries.send(Entry::Picture(sender)).await.map_err(|_| EtcdError::Stopped)?;
        drop(entries);
        picture.await.map_err(|_| EtcdError::Unavailable("the log is loaded afresh".into()))
    }

    /// Raises the compaction floor; returns the state in which reads below it are refused. With `physical` it
    /// also waits until the space is free.
    ///
    /// # Errors
    /// [`EtcdError::Compacted`], [`EtcdError::FutureRevision`] and those of every call to the writer.
    pub(crate) async fn compact(&self, revision: Revision, physical: bool) -> Result<Arc<State>, EtcdError> {
        Ok(self.calls.ask(Proposal::Compact { revision, physical }).await?.state)
    }

    /// Waits until the messages that compactions have left so far are removed, and their room is known to be
    /// free.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub(crate) async fn finish_removals(&self) -> Result<(), EtcdError> {
        self.calls.ask(Proposal::FinishRemovals).await?;
        self.space.measure().await;
        Ok(())
    }

    /// Refuses a write as the alarms want it. `cost` is about how many bytes the write adds, 0 for one that
    /// adds none.
    ///
    /// # Errors
    /// [`EtcdError::Corrupt`], [`EtcdError::NoSpace`].
    pub(crate) fn admit(&self, cost: u64) -> Result<(), EtcdError> {
        self.space.admit(cost)
    }

    /// Refuses a write of about `cost` bytes where there is no room for it, and raises the NOSPACE alarm.
    ///
    /// # Errors
    /// [`EtcdError::NoSpace`].
    pub(crate) async fn claim_space(&self, cost: u64) -> Result<(), EtcdError> {
        self.space.claim(cost).await
    }

    /// Alarms that are raised.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        self.space.alarms()
    }

    /// Raises or lowers an alarm.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub(crate) async fn set_alarm(&self, alarm: Alarm, raised: bool) -> Result<(), EtcdError> {
        self.space.set_alarm(alarm, raised).await
    }

    /// The reason why nothing can be written, on a mirror and behind a fence.
    pub(crate) fn read_only(&self) -> Option<ReadOnly> {
        self.standing.borrow().clone()
    }

    /// How the bucket is shared.
    pub(crate) fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The log.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Lets another member write.
    ///
    /// # Errors
    /// [`EtcdError::NotLeader`], [`EtcdError::BadLeaderTransferee`], [`EtcdError::LeaderTransferTimeout`].
    pub(crate) async fn move_leader(&self, target: u64) -> Result<(), EtcdError> {
        self.calls.ask(Proposal::MoveLeader { target }).await.map(drop)
    }

    /// Reads of what is published, without asking how fresh it is.
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// How far the engine is.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.status.phase()
    }

    /// The member that writes.
    ///
    /// # Errors
    /// [`NoLeader`] where none is known.
    pub(crate) fn leader(&self) -> Result<u64, NoLeader> {
        self.status.known_leader()
    }

    /// Whether this instance writes.
    pub(crate) fn is_leader(&self) -> bool {
        self.status.is_writer()
    }

    /// The epoch in force, which is etcd's Raft term.
    pub(crate) fn epoch(&self) -> Arc<AtomicU64> {
        self.status.epoch()
    }

    /// Whether there is a writer.
    pub(crate) fn has_leader(&self) -> watch::Receiver<bool> {
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

    /// Resolves, with the reason, when the data can no longer be served: a sync failed, so that only a new
    /// start can find out what is stored, or the log is damaged.
    pub(crate) async fn failed(&self) -> DataError {
        let mut store_failed = self.store_failed.subscribe();
        let mut failure = self.failure.subscribe();
        let reason = tokio::select! {
            Ok(error) = store_failed.wait_for(Option::is_some) => error.clone().map(DataError::Sync),
            Ok(error) = failure.wait_for(Option::is_some) => error.clone(),
            else => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Lets another instance write before this one stops, or notes that the log ends here.
    pub(crate) async fn resign(&self) {
        let (done, resigned) = oneshot::channel();
        if self.commands.send(Command::Resign(done)).await.is_ok() {
            // One that does not answer in time has nothing to hand over.
            drop(tokio::time::timeout(RESIGN_TIMEOUT, resigned).await);
        }
        if !self.mode.is_alone() && !self.mode.is_clustered() {
            // A member that does not leave is removed after ten minutes of silence.
            drop(tokio::time::timeout(LEAVE_TIMEOUT, self.set_member(self.member, None)).await);
        }
    }

    /// Refuses further calls and lets go of NATS.
    pub(crate) fn stop(&self) {
        self.status.set_phase(Phase::Stopped);
        self.stop.cancel();
    }
}

fn unexpected(outcome: &Outcome) -> EtcdError {
    EtcdError::Unknown(format!("jetway: the answer does not fit the call: {outcome:?}"))
}

impl From<crate::log::KeyTooLong> for EtcdError {
    fn from(error: crate::log::KeyTooLong) -> EtcdError {
        EtcdError::KeyTooLong { size: error.0, limit: crate::log::MAX_SUBJECT_BYTES }
    }
}
