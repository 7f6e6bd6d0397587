//! The node: one task that owns the chain, every open call, and the role that this instance has.
//!
//! ```text
//!            follow ---- own epoch record is valid ----> write
//!               ^                                          |
//!               '---- any error, or another epoch ---------'
//! ```
//!
//! Every error has the same remedy: the log is read to its end, an instance stores an epoch record, and open
//! calls are answered from the log as it then stands. A call whose records are in the log is answered. A call
//! without records never happened, and is sent again.
//!
//! Invariants:
//! - N1: an instance writes only in an epoch of its own, after everything before that epoch's record was
//!   applied.
//! - N2: a call is sent to another writer only when an epoch record shows that it did not happen. The same
//!   writer may get it twice, and plans it once.
//! - N3: the position moves only by messages that an own consumer or an own acknowledgement has brought.

mod calls;
mod links;
mod peers;
mod records;

pub(in crate::engine) use links::PeerLinks;
pub(in crate::engine) use peers::PEER_CONTACT;

use crate::applier::{Damage, Tables};
use crate::core::Reader;
use crate::engine::apply::{Entry, Report};
use crate::engine::counters::Counters;
use crate::engine::damaged_copies::DamagedCopies;
use crate::engine::duplicate::DuplicateCheck;
use crate::engine::failure::{DataError, Failure, Loss};
use crate::engine::mark::Mark;
use crate::engine::membership::ChangeRules;
use crate::engine::mode::Mode;
use crate::engine::one_copy::OneCopy;
use crate::engine::proposal::{Addressed, Call, Waiter};
use crate::engine::read_only::ReadOnlyState;
use crate::engine::space::Space;
use crate::engine::status::{Phase, Status};
use crate::engine::{LinearizableReads, NewCall};
use crate::error::EtcdError;
use crate::log::{Incoming, Log, Messenger, ReadOnly, Serving};
use crate::record::{Chain, Digest, EpochStart, Member, TrimPoint};
use crate::types::{Epoch, LogIndex, Revision, Sequence};
use prometheus::Histogram;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The settings of a node.
#[derive(Clone, Debug)]
pub(in crate::engine) struct NodeSettings {
    pub(in crate::engine) member: Member,
    /// The members that found a cluster, before they are listed.
    pub(in crate::engine) founders: Vec<Member>,
    pub(in crate::engine) change_rules: ChangeRules,
    pub(in crate::engine) is_joining: bool,
    pub(in crate::engine) heartbeat_interval: Duration,
    pub(in crate::engine) election_timeout: Duration,
    pub(in crate::engine) reads: LinearizableReads,
    pub(in crate::engine) quota_bytes: i64,
    pub(in crate::engine) accepts_loss: bool,
    pub(in crate::engine) mark: Option<Mark>,
}

/// An instruction from outside.
#[derive(Debug)]
pub(in crate::engine) enum Command {
    /// Let another instance write, or note that the log ends here; answered when that is done.
    Resign(oneshot::Sender<()>),
    /// Answer whether each instance that a message has come from has applied the record at an index.
    Reached(LogIndex, oneshot::Sender<bool>),
    /// Append nothing until the answer is dropped or released, if this instance writes.
    Hold(oneshot::Sender<Held>),
    /// Share the log with others, or keep it alone from now on; answered when that is so.
    Share(Option<Box<PeerLinks>>, oneshot::Sender<()>),
}

/// Nothing is in flight, and nothing is appended.
#[derive(Debug)]
pub(in crate::engine) struct Held {
    pub(in crate::engine) at: (LogIndex, Digest),
    pub(in crate::engine) release: oneshot::Sender<(LogIndex, Digest)>,
}

/// Longest wait for the instance to have nothing in flight.
const HOLD_TIMEOUT: Duration = Duration::from_secs(2);

impl Held {
    /// Lets the instance append nothing, until the result is dropped or released.
    pub(in crate::engine) async fn request(commands: &mpsc::Sender<Command>) -> Option<Held> {
        let (sender, held) = oneshot::channel();
        commands.send(Command::Hold(sender)).await.ok()?;
        tokio::time::timeout(HOLD_TIMEOUT, held).await.ok()?.ok()
    }

    /// Lets the writer append again.
    pub(in crate::engine) fn release(self) {
        self.release.send(self.at).ok();
    }
}

/// An open call of this instance while another one writes.
#[derive(Debug)]
pub(in crate::engine) struct Open {
    pub(in crate::engine) call: Call,
    /// The nonce of the epoch whose writer it was sent to, and when. None while it is to be sent.
    pub(in crate::engine) sent: Option<(u64, Instant)>,
    /// The nonce of the epoch whose writer has left it unanswered, before it is sent again.
    pub(in crate::engine) unanswered: Option<u64>,
    /// It was refused for want of room, unless the log holds it.
    pub(in crate::engine) has_no_room: bool,
}

impl Open {
    /// Whether the log may hold it. An epoch record of a later writer decides that.
    pub(in crate::engine) fn may_be_logged(&self) -> bool {
        self.sent.is_some() || self.unanswered.is_some()
    }

    /// Whether it was sent to the writer of another epoch than that of a nonce.
    pub(in crate::engine) fn is_of_other_epoch(&self, nonce: u64) -> bool {
        let is_other = |to: u64| to != nonce;
        self.sent.is_some_and(|(to, _)| is_other(to)) || self.unanswered.is_some_and(is_other)
    }
}

/// Another instance.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Peer {
    pub(in crate::engine) member: Member,
    pub(in crate::engine) index: LogIndex,
    pub(in crate::engine) is_ready: bool,
    pub(in crate::engine) heard: Instant,
}

impl Peer {
    /// Whether it has been heard of within [`PEER_CONTACT`].
    pub(in crate::engine) fn is_live(&self) -> bool {
        self.heard.elapsed() < PEER_CONTACT
    }
}

/// The node.
pub(in crate::engine) struct Node {
    pub(in crate::engine) log: Arc<Log>,
    pub(in crate::engine) settings: NodeSettings,
    pub(in crate::engine) mode: Arc<Mode>,
    pub(in crate::engine) read_only: ReadOnlyState,
    pub(in crate::engine) one_copy: Arc<OneCopy>,
    pub(in crate::engine) damaged_copies: Arc<DamagedCopies>,
    /// The start of this instance, a random number.
    pub(in crate::engine) start: u64,
    pub(in crate::engine) counter: u64,
    pub(in crate::engine) new_calls: mpsc::UnboundedReceiver<NewCall>,
    pub(in crate::engine) messenger: Option<Messenger>,
    pub(in crate::engine) incoming: mpsc::Receiver<Incoming>,
    pub(in crate::engine) duplicate_check: Option<DuplicateCheck>,
    /// Answers newcomers for as long as the node lives.
    pub(in crate::engine) answering_newcomers: Option<Serving>,
    pub(in crate::engine) answers: mpsc::UnboundedSender<Addressed>,
    pub(in crate::engine) answered: mpsc::UnboundedReceiver<Addressed>,
    pub(in crate::engine) entries: mpsc::Sender<Entry>,
    pub(in crate::engine) reports: mpsc::UnboundedReceiver<Report>,
    pub(in crate::engine) commands: mpsc::Receiver<Command>,
    pub(in crate::engine) tables: Tables,
    pub(in crate::engine) reader: Reader,
    pub(in crate::engine) status: Arc<Status>,
    pub(in crate::engine) counters: Counters,
    pub(in crate::engine) space: Arc<Space>,
    pub(in crate::engine) failure: Failure,
    pub(in crate::engine) stop: CancellationToken,
    pub(in crate::engine) chain: Chain,
    /// Up to this index records may have been missing when the load began.
    pub(in crate::engine) trim_to: LogIndex,
    pub(in crate::engine) epoch: Option<EpochStart>,
    /// This instance votes for the writer of no older epoch.
    pub(in crate::engine) promised: Epoch,
    pub(in crate::engine) is_ready: bool,
    pub(in crate::engine) is_loaded: bool,
    pub(in crate::engine) loaded_messages: u64,
    /// Nonces of this instance's epoch records.
    pub(in crate::engine) nonces: Vec<u64>,
    /// Calls to this instance as the writer of an own epoch record, which others have applied first.
    pub(in crate::engine) early_calls: Vec<Incoming>,
    pub(in crate::engine) open: BTreeMap<u64, Open>,
    pub(in crate::engine) reads: Vec<Call>,
    /// Reads that share a read index, by its counter.
    pub(in crate::engine) reads_sent: BTreeMap<u64, (Vec<Call>, u64, Instant)>,
    /// Answers that wait until the chain has reached an index.
    pub(in crate::engine) by_index: BTreeMap<LogIndex, Vec<Waiter>>,
    pub(in crate::engine) peers: HashMap<u64, Peer>,
    pub(in crate::engine) last_alive: Option<Instant>,
    /// The last refusal of NATS that was logged.
    pub(in crate::engine) reported_refusal: Option<String>,
    /// This instance is stopping, and does not write again.
    pub(in crate::engine) is_leaving: bool,
    /// Times until records were acknowledged, where this process does not sync them.
    pub(in crate::engine) store_durations: Histogram,
    /// Trim records that a load found void.
    pub(in crate::engine) void_trims: Vec<Sequence>,
    /// The damage that the last load found, and how many messages had been removed from the stream by then.
    pub(in crate::engine) suspected: Option<(SuspectedDamage, u64)>,
    /// The longest election timeout of all epochs: a writer of an older one may answer keepalives for so
    /// long.
    pub(in crate::engine) longest_timeout: Duration,
}

/// A load has found this, or has read half of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) enum SuspectedDamage {
    /// The log is damaged.
    Damaged(Damage),
    /// A message behind this position is missing.
    Missing(Sequence),
    /// The trim record at this sequence is another program's.
    ForeignTrim(Sequence),
}

/// The log cannot be followed as it is.
#[derive(Debug)]
pub(in crate::engine) enum NodeError {
    /// A message is missing where none may be: it is reloaded from its start.
    Missing,
    /// The state here is not the writer's: the log is reloaded from its start.
    Differs,
    /// A load has found damage, unless messages were removed beside it.
    Suspected(Damage),
    /// It is damaged, or of a newer format: this instance must not serve it.
    Fatal(DataError),
}

impl Node {
    /// Follows and writes until it is stopped.
    pub(in crate::engine) async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            error = self.work() => {
                let reason = error.to_string();
                tracing::error!(reason, "this instance cannot serve its data");
                self.status.set_no_leader(reason);
                self.status.set_linearizable(false);
                self.failure.send_replace(Some(error));
            }
        }
        for (_, open) in std::mem::take(&mut self.open) {
            open.call.refuse(EtcdError::Stopped);
        }
    }

    /// Loads, follows and writes; returns the reason why this instance can serve nothing any more.
    async fn work(&mut self) -> DataError {
        self.begin().await;
        loop {
            let outcome = match self.follow().await {
                Ok(elected) => self.write(elected).await,
                Err(error) => Err(error),
            };
            let outcome = match outcome {
                Err(NodeError::Missing) => self.reload().await,
                other => other,
            };
            match outcome {
                Ok(()) => {}
                Err(NodeError::Missing | NodeError::Differs) => self.begin().await,
                Err(NodeError::Suspected(damage)) => {
                    tracing::warn!(%damage, "the log seems to be damaged; it is read once more");
                    if self.mode.is_alone() || self.is_certain(SuspectedDamage::Damaged(damage.clone())).await
                    {
                        let position = self.chain.position();
                        if !self.leaves_copy(position).await {
                            return Loss::Damage(damage).into();
                        }
                    }
                    self.begin().await;
                }
                Err(NodeError::Fatal(error)) => return error,
            }
        }
    }

    /// Whether the log is read from another copy from now on, because the stream's leader has lost what
    /// stands behind `position`.
    async fn leaves_copy(&self, position: Sequence) -> bool {
        self.mode.is_in_cluster() && self.damaged_copies.leave(&self.log, position).await
    }

    /// Whether two loads in a row found the same, and nothing was removed from the stream between them.
    async fn is_certain(&mut self, suspected: SuspectedDamage) -> bool {
        let Ok(info) = self.log.info().await else { return false };
        let suspected = (suspected, info.state.last_seq.saturating_sub(info.state.messages));
        let is_certain = self.suspected.as_ref() == Some(&suspected);
        self.suspected = Some(suspected);
        is_certain
    }

    /// Refuses the calls that may be in the log: a trim may have taken their records away, so a load does not
    /// show their outcome.
    fn refuse_uncertain(&mut self) {
        for waiter in std::mem::take(&mut self.by_index).into_values().flatten() {
            waiter.call.refuse(EtcdError::Timeout);
        }
        for (_, open) in self.open.extract_if(.., |_, open| open.may_be_logged()) {
            open.call.refuse(EtcdError::Timeout);
        }
    }

    /// Starts to read the log from its first message.
    async fn begin(&mut self) {
        self.refuse_uncertain();
        let trim = self.trim_point().await;
        let floor = trim.as_ref().and_then(|(_, floor)| *floor).map(Revision);
        let trim = trim.map(|(trim, _)| trim);
        if let Some(trim) = trim.as_ref().filter(|trim| trim.is_lossy) {
            tracing::warn!(index = %trim.to, "records of this log were lost at or below this index, and given up");
            self.counters.lost(1);
        }
        let before_first = self.log.facts().before_first;
        if self.settings.accepts_loss && !self.is_loaded {
            tracing::warn!("records that are missing from the log are accepted as lost");
            self.trim_to = LogIndex(u64::MAX);
            let earlier = trim.and_then(|trim| trim.loss);
            self.chain = Chain::accepting(earlier, self.chain.beginnings());
        } else {
            self.trim_to = trim.as_ref().map_or(LogIndex::NONE, |trim| trim.to);
            self.chain = Chain::new(trim).behind(before_first);
        }
        self.epoch = None;
        self.nonces.clear();
        (self.is_ready, self.is_loaded, self.loaded_messages) = (false, false, 0);
        self.status.set_linearizable(false);
        self.status.set_phase(Phase::Loading { messages: 0, of: None });
        // Each load compares the mark, until one has ended.
        let (mark, accepts_loss) = (self.settings.mark, self.settings.accepts_loss);
        self.entry(Entry::Begin { floor, mark, accepts_loss }).await;
    }

    async fn trim_point(&mut self) -> Option<(TrimPoint, Option<i64>)> {
        loop {
            match self.log.trim_point(&self.void_trims).await {
                Ok(trim) => return trim,
                Err(error) => {
                    tracing::debug!(%error, "the last trim record is not known yet");
                    self.keep_deadlines();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Begins again, because the log was trimmed while it was read. Fails if no newer trim record explains
    /// the gap.
    async fn reload(&mut self) -> Result<(), NodeError> {
        let (position, index) = (self.chain.position(), self.chain.index());
        let was_loaded = self.is_loaded;
        let before = self.trim_to;
        self.refuse_uncertain();
        // It is another program's, unless the load has read half of a removal.
        if self.chain.has_lost_its_trim() {
            let trim = self.chain.trim_sequence();
            if self.mode.is_alone() || self.is_certain(SuspectedDamage::ForeignTrim(trim)).await {
                self.void_trims.push(trim);
            }
        }
        // A load whose trim record proved void or is gone begins with another one.
        let known = (before, self.chain.trim_sequence());
        let mut is_newer = self.chain.has_lost_its_trim();
        loop {
            let is_last_look = !self.may_come_by_the_mirror().await;
            let trim = self.trim_point().await;
            is_newer |= trim.is_some_and(|(trim, _)| (trim.to, trim.sequence) > known);
            if is_newer || self.settings.accepts_loss || is_last_look {
                break;
            }
        }
        if !is_newer && !self.settings.accepts_loss {
            // Other instances may remove messages beside the load.
            let is_certain =
                self.mode.is_alone() || self.is_certain(SuspectedDamage::Missing(position)).await;
            if is_certain && !self.leaves_copy(position).await {
                return Err(NodeError::Fatal(Loss::Messages { position, index }.into()));
            }
        }
        if was_loaded {
            tracing::error!(%position, "the log is loaded afresh, and every watch ends");
        }
        self.begin().await;
        Ok(())
    }

    /// Whether the trim record that explains a missing message may still come. The origin has stored it
    /// before it removed the message, so a mirror that lags may have the gap without it.
    async fn may_come_by_the_mirror(&mut self) -> bool {
        if !matches!(self.read_only(), Some(ReadOnly::Mirror { .. })) {
            return false;
        }
        let is_level = async |log: &Log| log.info().await.ok()?.lag().map(|lag| lag.is_level());
        let reason = "a compaction of the primary has come to this mirror in part only";
        self.status.set_no_leader(reason.to_owned());
        tracing::debug!(position = %self.chain.position(), "{reason}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        is_level(&self.log).await != Some(true)
    }

    /// The reason why this instance may not write, on a mirror and behind a fence.
    pub(in crate::engine) fn read_only(&self) -> Option<ReadOnly> {
        self.read_only.borrow().clone()
    }

    pub(in crate::engine) async fn entry(&self, entry: Entry) {
        // The receiver goes away only with the applier's thread, whose end the engine reports.
        drop(self.entries.send(entry).await);
    }

    /// Answers calls whose answers rest on everything up to an index. If that is visible, no other thread is
    /// woken for it: a read through three members costs 71 us of CPU so, and 76 by way of the applier
    /// (medians of six rounds on two busy cores).
    pub(in crate::engine) async fn complete(
        &self,
        waiters: impl IntoIterator<Item = Waiter>,
        index: LogIndex,
    ) {
        let mut state = self.reader.snapshot();
        for waiter in waiters {
            if state.log_index < index {
                state = self.reader.snapshot();
            }
            if state.log_index < index {
                self.entry(Entry::Complete(waiter)).await;
            } else {
                waiter.complete(&state);
            }
        }
    }

    /// The digest of the state with everything that was sent to the applier.
    pub(in crate::engine) async fn digest(&self) -> Option<(LogIndex, Digest)> {
        let (sender, receiver) = oneshot::channel();
        self.entry(Entry::Digest(sender)).await;
        receiver.await.ok()
    }

    /// The reason why the applier answers nothing any more.
    pub(in crate::engine) async fn end_of_applier(&mut self) -> NodeError {
        match self.reports.recv().await {
            Some(report) => end_of(report),
            // The engine reports a disk that does not sync.
            None => std::future::pending().await,
        }
    }

    /// Whether each other instance that has been heard of of late has applied what stands at an index.
    pub(in crate::engine) fn is_reached(&self, index: LogIndex) -> bool {
        self.peers.values().filter(|peer| peer.is_live()).all(|peer| peer.index >= index)
    }

    /// Whether an epoch is this instance's own.
    pub(in crate::engine) fn is_own(&self, nonce: u64) -> bool {
        self.nonces.contains(&nonce)
    }

    /// Whether the epoch in force is one of this instance's, whose writer has ended if it does not write.
    pub(in crate::engine) fn is_of_this_instance(&self) -> bool {
        self.epoch.as_ref().is_some_and(|epoch| epoch.instance == self.start)
    }
}

/// The end that a report of the applier leads to.
pub(in crate::engine) fn end_of(report: Report) -> NodeError {
    match report {
        Report::Lost(loss) => NodeError::Fatal(loss.into()),
        Report::Suspected(damage) => NodeError::Suspected(damage),
        Report::Differs { index, here, writer } => {
            tracing::error!(%index, %here, %writer, "the state here differs from the writer's; it is loaded afresh");
            NodeError::Differs
        }
    }
}
