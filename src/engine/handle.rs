//! The handle on the engine: the calls of the API.

use super::REQUEST_TIMEOUT;
use super::apply::Entry;
use super::calls::Calls;
use super::counters::Counters;
use super::failure::{DataError, Failure};
use super::hash::HashCache;
use super::mode::Mode;
use super::node::Command;
use super::proposal::{Answer, Outcome, Proposal};
use super::read_only::ReadOnlyState;
use super::space::Space;
use super::status::{NoLeader, Phase, Status};
use crate::applier::{FullState, Tables};
use crate::auth::{self, Caller};
use crate::core::{Reader, State};
use crate::durability::Level;
use crate::error::EtcdError;
use crate::log::{Auth, Log, ReadOnly};
use crate::planted::{Fault, planted};
use crate::record::{Alarm, Member};
use crate::txn::{self, Request, Response};
use crate::types::Revision;
use prometheus::Histogram;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the removal from the member list may take at a stop.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a resignation may take.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(6);

/// A handle on the engine; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(super) parts: Arc<Parts>,
}

/// The parts of the engine that calls use.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(super) reader: Reader,
    pub(super) tables: Tables,
    pub(super) calls: Calls,
    pub(super) space: Arc<Space>,
    pub(super) status: Arc<Status>,
    pub(super) counters: Counters,
    pub(super) hashes: Arc<HashCache>,
    pub(super) log: Arc<Log>,
    pub(super) read_only: ReadOnlyState,
    pub(super) member: u64,
    pub(super) mode: Arc<Mode>,
    pub(super) start: u64,
    pub(super) own: Member,
    /// In a cluster of its own, the login of the server's system account, and the account of the stream.
    pub(super) system: Option<(Auth, &'static str)>,
    pub(super) durability: Level,
    pub(super) store_dir: Option<std::path::PathBuf>,
    pub(super) sync_durations: Histogram,
    pub(super) applied_durations: Histogram,
    pub(super) commands: mpsc::Sender<Command>,
    /// Weak, since the thread that applies ends with the node.
    pub(super) entries: mpsc::WeakSender<Entry>,
    pub(super) failure: Failure,
    pub(super) store_failed: watch::Sender<Option<Arc<std::io::Error>>>,
    pub(super) stop: CancellationToken,
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
        if self.status.is_linearizable() || planted(Fault::StaleFollower) {
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
    pub(crate) async fn full_state(&self) -> Result<FullState, EtcdError> {
        self.serializable().await?;
        let (sender, full_state) = oneshot::channel();
        let entries = self.entries.upgrade().ok_or(EtcdError::Stopped)?;
        entries.send(Entry::FullState(sender)).await.map_err(|_| EtcdError::Stopped)?;
        drop(entries);
        full_state.await.map_err(|_| EtcdError::Unavailable("the log is loaded afresh".into()))
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
        self.read_only.borrow().clone()
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
        if !self.mode.is_alone() && !self.mode.has_fixed_members() {
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

/// The error for an answer of another kind than the call's.
pub(super) fn unexpected(outcome: &Outcome) -> EtcdError {
    EtcdError::Unknown(format!("jetway: the answer does not fit the call: {outcome:?}"))
}
