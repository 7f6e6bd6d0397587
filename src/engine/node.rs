//! The node: one task that owns the chain, every open call, and the role that this instance has.
//!
//! ```text
//!            follow ---- own epoch record is valid ----> write
//!               ^                                          |
//!               '---- any trouble, or another epoch -------'
//! ```
//!
//! There is one way back from every trouble: the log is read to its end, somebody stores an epoch record, and open calls are
//! answered from the log as it then stands. A call whose records are in the log is answered; one whose are not never happened,
//! and is sent again.
//!
//! Invariants:
//! - N1: an instance writes only in an epoch of its own, after everything before that epoch's record was applied.
//! - N2: a call is sent again only when an epoch record shows that it did not happen.
//! - N3: the position moves only by messages that an own consumer or an own acknowledgement has brought.

use super::apply::{Entry, Report};
use super::counters::Counters;
use super::mark::Mark;
use super::namesake::Namesakes;
use super::proposal::{
    Addressed, Call, Origin, Outcome, Proposal, Waiter, WireAnswer, WireAnswers, WireLife,
};
use super::space::Space;
use super::status::{Phase, Status};
use super::{LinearizableReads, NewCall};
use crate::applier::Tables;
use crate::core::Reader;
use crate::error::EtcdError;
use crate::log::{Courier, Incoming, Log};
use crate::record::{
    Body, Chain, Digest, EpochStart, FORMAT, Member, OperationId, Outcome as Read, Record, TrimPoint,
};
use crate::types::{LogIndex, Revision, Sequence};
use prometheus::Histogram;
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// An instance that has not been heard of for so long is not live.
const PEER_SILENCE: Duration = Duration::from_secs(10);

/// The remedies for a log that is not whole.
pub(super) const WAYS_OUT: &str = "Restore a copy, or accept the loss with --accept-data-loss";

/// The settings of a node.
#[derive(Clone, Debug)]
pub(super) struct NodeSettings {
    /// No other instance can reach the log: the embedded server admits this one alone.
    pub(super) is_alone: bool,
    pub(super) member: Member,
    pub(super) heartbeat_interval: Duration,
    pub(super) election_timeout: Duration,
    pub(super) reads: LinearizableReads,
    pub(super) quota_bytes: i64,
    pub(super) accepts_loss: bool,
    pub(super) mark: Option<Mark>,
}

/// An instruction from outside.
#[derive(Debug)]
pub(super) enum Command {
    /// Let another instance write, or note that the log ends here; answered when that is done.
    Resign(oneshot::Sender<()>),
}

/// Why the node ends, in words.
pub(super) type Failure = watch::Sender<Option<String>>;

/// An open call of this instance while another one writes.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) call: Call,
    /// The nonce of the epoch whose writer it was sent to, and when.
    pub(super) sent: Option<(u64, Instant)>,
    /// It was refused for want of room, unless the log says otherwise.
    pub(super) has_no_room: bool,
}

/// Another instance.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) member: Member,
    pub(super) index: LogIndex,
    pub(super) is_ready: bool,
    pub(super) heard: Instant,
}

/// The node.
pub(super) struct Node {
    pub(super) log: Arc<Log>,
    pub(super) settings: NodeSettings,
    /// The start of this instance, a random number.
    pub(super) start: u64,
    pub(super) counter: u64,
    pub(super) new_calls: mpsc::UnboundedReceiver<NewCall>,
    pub(super) courier: Option<Courier>,
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) namesakes: Option<Namesakes>,
    pub(super) answers: mpsc::UnboundedSender<Addressed>,
    pub(super) answered: mpsc::UnboundedReceiver<Addressed>,
    pub(super) entries: mpsc::Sender<Entry>,
    pub(super) reports: mpsc::UnboundedReceiver<Report>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) tables: Tables,
    pub(super) reader: Reader,
    pub(super) status: Arc<Status>,
    pub(super) counters: Counters,
    pub(super) space: Arc<Space>,
    pub(super) failure: Failure,
    pub(super) stop: CancellationToken,
    pub(super) chain: Chain,
    /// Up to this index records may have been missing when the load began.
    pub(super) trim_to: LogIndex,
    pub(super) epoch: Option<EpochStart>,
    pub(super) is_ready: bool,
    pub(super) is_loaded: bool,
    pub(super) loaded_messages: u64,
    /// Nonces of this instance's epoch records.
    pub(super) nonces: Vec<u64>,
    pub(super) open: BTreeMap<u64, Open>,
    pub(super) reads: Vec<Call>,
    /// Reads that share a read index, by its counter.
    pub(super) reads_sent: BTreeMap<u64, (Vec<Call>, u64, Instant)>,
    /// Answers that wait until the chain has reached an index.
    pub(super) by_index: BTreeMap<LogIndex, Vec<Waiter>>,
    pub(super) peers: HashMap<u64, Peer>,
    pub(super) last_alive: Option<Instant>,
    /// The last refusal of NATS that was told.
    pub(super) told_refusal: Option<String>,
    /// This instance is stopping, and does not write again.
    pub(super) is_leaving: bool,
    /// Times until records were acknowledged, where this process does not sync them.
    pub(super) store_durations: Option<Histogram>,
    /// Trim records that a load found void.
    pub(super) void_trims: Vec<Sequence>,
    /// The damage that the last load found, and how many messages had been removed from the stream by then.
    pub(super) doubt: Option<(String, u64)>,
    /// The longest election timeout of all epochs: a writer of an older one may answer keepalives for so long.
    pub(super) longest_timeout: Duration,
}

/// The log cannot be followed as it is.
#[derive(Debug)]
pub(super) enum Break {
    /// A message is missing where none may be: it is reloaded from its start.
    Missing,
    /// The state here is not the writer's: the log is reloaded from its start.
    Differs,
    /// A load has found damage, unless messages were removed beside it.
    Doubtful(String),
    /// It is damaged, or of a newer format: this instance must not serve it.
    Fatal(String),
}

impl Node {
    /// Follows and writes until it is told to stop.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            reason = self.work() => {
                tracing::error!(reason, "this instance cannot serve its data");
                self.status.set_leader(Err(reason.clone()));
                self.status.set_linearizable(false);
                self.failure.send_replace(Some(reason));
            }
        }
        for (_, open) in std::mem::take(&mut self.open) {
            open.call.refuse(EtcdError::Stopped);
        }
    }

    async fn work(&mut self) -> String {
        if let Err(reason) = self.begin().await {
            return reason;
        }
        loop {
            let outcome = match self.follow().await {
                Ok(elected) => self.write(elected).await,
                Err(broken) => Err(broken),
            };
            match outcome {
                Ok(()) => {}
                Err(Break::Missing) => {
                    if let Err(reason) = self.reload().await {
                        return reason;
                    }
                }
                Err(Break::Differs) => {
                    if let Err(reason) = self.begin().await {
                        return reason;
                    }
                }
                Err(Break::Doubtful(damage)) => {
                    if self.settings.is_alone || self.is_certain(&damage).await {
                        return format!("{damage}. {WAYS_OUT}");
                    }
                    if let Err(reason) = self.begin().await {
                        return reason;
                    }
                }
                Err(Break::Fatal(reason)) => return reason,
            }
        }
    }

    /// Whether two loads in a row found the same damage, and nothing was removed from the stream between them.
    async fn is_certain(&mut self, damage: &str) -> bool {
        let Ok(info) = self.log.info().await else { return false };
        let doubt = (damage.to_owned(), info.state.last_seq.saturating_sub(info.state.messages));
        let is_certain = self.doubt.as_ref() == Some(&doubt);
        self.doubt = Some(doubt);
        is_certain
    }

    /// Starts to read the log from its first message.
    async fn begin(&mut self) -> Result<(), String> {
        let trim = self.trim_point().await;
        let floor = trim.and_then(|(_, floor)| floor).map(Revision);
        let trim = trim.map(|(trim, _)| trim);
        if let Some(trim) = trim.filter(|trim| trim.is_lossy) {
            tracing::warn!(index = %trim.to, "records of this log were lost at or below this index, and given up");
            self.counters.lost(1);
        }
        let before_first = self.log.facts().before_first;
        self.chain = if self.settings.accepts_loss && !self.is_loaded {
            tracing::warn!("records that are missing from the log are accepted as lost");
            Chain::lenient()
        } else {
            Chain::new(trim).behind(before_first)
        };
        self.trim_to = if self.settings.accepts_loss && !self.is_loaded {
            LogIndex(u64::MAX)
        } else {
            trim.map_or(LogIndex::NONE, |trim| trim.to)
        };
        self.epoch = None;
        self.nonces.clear();
        (self.is_ready, self.is_loaded, self.loaded_messages) = (false, false, 0);
        self.status.set_linearizable(false);
        self.status.set_phase(Phase::Loading { messages: 0, of: None });
        // Until it was compared once.
        let (mark, accepts_loss) = (self.settings.mark, self.settings.accepts_loss);
        self.entry(Entry::Begin { floor, mark, accepts_loss }).await;
        Ok(())
    }

    async fn trim_point(&self) -> Option<(TrimPoint, Option<i64>)> {
        loop {
            match self.log.trim_point(&self.void_trims).await {
                Ok(trim) => return trim,
                Err(error) => {
                    tracing::debug!(%error, "the last trim record is not known yet");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Begins again: the log was trimmed while it was read, or it is not what it was.
    async fn reload(&mut self) -> Result<(), String> {
        let (position, index) = (self.chain.position(), self.chain.index());
        let was_loaded = self.is_loaded;
        let before = self.trim_to;
        for (_, waiters) in std::mem::take(&mut self.by_index) {
            for waiter in waiters {
                waiter.call.refuse(EtcdError::Timeout);
            }
        }
        // Their records may be among those that a trim takes away.
        for (_, open) in std::mem::take(&mut self.open) {
            if open.sent.is_some() {
                open.call.refuse(EtcdError::Timeout);
            } else {
                self.open.insert(open.call.operation.counter, open);
            }
        }
        if self.chain.has_lost_its_trim() {
            self.void_trims.push(self.chain.trim_sequence());
        }
        let trim = self.trim_point().await;
        // A load whose trim record proved void or is gone begins with another one.
        let known = (before, self.chain.trim_sequence());
        let is_newer =
            self.chain.has_lost_its_trim() || trim.is_some_and(|(trim, _)| (trim.to, trim.sequence) > known);
        if !is_newer && !self.settings.accepts_loss {
            return Err(format!(
                "the log has lost messages behind sequence {position} (index {index}): a message is missing where none may be. \
                 It was purged, edited, or its store is damaged. {WAYS_OUT}"
            ));
        }
        if was_loaded {
            tracing::error!(%position, "the log is loaded afresh, and every watch ends");
        }
        self.begin().await
    }

    pub(super) async fn entry(&self, entry: Entry) {
        // The other end goes with the thread, whose end the engine reports.
        drop(self.entries.send(entry).await);
    }

    /// The digest of the state with everything that was sent to the applier.
    pub(super) async fn digest(&self) -> Option<(LogIndex, Digest)> {
        let (sender, receiver) = oneshot::channel();
        self.entry(Entry::Digest(sender)).await;
        receiver.await.ok()
    }

    /// The reason why the applier answers nothing any more.
    pub(super) async fn end_of_applier(&mut self) -> Break {
        match self.reports.recv().await {
            Some(report) => end_of(report),
            // The engine reports a disk that does not sync.
            None => std::future::pending().await,
        }
    }

    pub(super) fn next_operation(&mut self) -> OperationId {
        self.counter += 1;
        OperationId { instance: self.start, counter: self.counter }
    }

    pub(super) fn call_of(&mut self, new: NewCall) -> Call {
        let NewCall { proposal, caller, deadline, answer } = new;
        let origin = answer.map_or(Origin::Internal, Origin::Local);
        Call { operation: self.next_operation(), proposal, caller, deadline, origin }
    }

    /// Whether an epoch is this instance's own.
    pub(super) fn is_own(&self, nonce: u64) -> bool {
        self.nonces.contains(&nonce)
    }

    /// Whether the epoch in force is one of this instance's, whose writer has ended if it does not write.
    pub(super) fn is_of_this_instance(&self) -> bool {
        self.epoch.as_ref().is_some_and(|epoch| epoch.instance == self.start)
    }

    /// Takes messages that a consumer has brought.
    pub(super) async fn take(
        &mut self,
        messages: Vec<(Sequence, Option<Record>)>,
    ) -> Result<Vec<OperationId>, Break> {
        let (mut valid, mut void, mut waiters) = (Vec::with_capacity(messages.len()), Vec::new(), Vec::new());
        let mut barriers = Vec::new();
        let mut outcome = Ok(());
        let is_whole = self.chain.is_whole();
        for (sequence, record) in messages {
            let operation = record.as_ref().map(|record| record.operation);
            let known = valid.len();
            match self.chain.take(sequence, record, &mut valid, &mut void) {
                Read::Valid => {
                    for placed in &valid[known..] {
                        if let Err(broken) = self.note(&placed.record, &mut waiters) {
                            outcome = Err(broken);
                        }
                    }
                    if outcome.is_err() {
                        break;
                    }
                }
                Read::Barrier => {
                    barriers.extend(operation);
                    self.entry(Entry::Barrier(sequence, self.chain.index())).await;
                }
                Read::Nothing => {}
                Read::Missing => {
                    outcome = Err(Break::Missing);
                    break;
                }
            }
        }
        self.counters.void(void.len());
        if !void.is_empty() {
            tracing::debug!(messages = void.len(), "messages of the stream that are no valid records");
            self.entry(Entry::Void(void)).await;
        }
        if !valid.is_empty() {
            waiters.append(&mut self.reached());
            let trim_to = self.trim_to;
            // As on etcd, a compaction is physical when the instance that was asked has ended it.
            let when_swept: Vec<Waiter> =
                waiters.extract_if(.., |waiter| waiter.call.is_physical()).collect();
            self.entry(Entry::Records { records: valid, waiters, trim_to, is_whole, is_own: false }).await;
            for waiter in when_swept {
                self.entry(Entry::WhenSwept(waiter)).await;
            }
        }
        outcome?;
        if self.chain.has_lost_its_trim() {
            return Err(Break::Missing);
        }
        Ok(barriers)
    }

    /// Takes note of a valid record: of an epoch, and of calls of this instance.
    fn note(&mut self, record: &Record, waiters: &mut Vec<Waiter>) -> Result<(), Break> {
        if record.operation.instance == self.start
            && record.place == record.count
            && let Some(open) = self.open.remove(&record.operation.counter)
        {
            let outcome = outcome_of(&open.call.proposal, record);
            waiters.push(Waiter::new(open.call, Ok(outcome)));
        }
        if let Body::Epoch(start) = &record.body {
            if start.format > FORMAT {
                return Err(Break::Fatal(format!(
                    "the log is of format {}, which a newer jetway has written; this one knows {FORMAT}",
                    start.format
                )));
            }
            self.note_epoch(record.nonce, start);
        }
        Ok(())
    }

    fn note_epoch(&mut self, nonce: u64, start: &EpochStart) {
        if self.epoch.as_ref().is_some_and(|known| known.instance != start.instance) {
            self.counters.leader_changed();
        }
        self.longest_timeout = self.longest_timeout.max(Duration::from_millis(start.election_timeout_ms));
        self.epoch = Some(start.clone());
        self.status.set_epoch(self.chain.epoch().0);
        if self.is_ready && start.instance != self.start {
            self.status.set_leader(Ok(start.member.id));
        }
        // A call that was sent to another writer and is not in the log by now never will be.
        let resolved: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.has_no_room || open.sent.is_some_and(|(to, _)| to != nonce))
            .map(|(counter, _)| *counter)
            .collect();
        for counter in resolved {
            let Some(open) = self.open.get_mut(&counter) else { continue };
            open.sent = None;
            if open.has_no_room
                && let Some(open) = self.open.remove(&counter)
            {
                open.call.refuse(EtcdError::NoSpace);
            }
        }
        let reads = std::mem::take(&mut self.reads_sent);
        self.reads.extend(reads.into_values().flat_map(|(calls, ..)| calls));
    }

    /// Answers whose index the chain has reached.
    pub(super) fn reached(&mut self) -> Vec<Waiter> {
        let later = self.by_index.split_off(&self.chain.index().next());
        std::mem::replace(&mut self.by_index, later).into_values().flatten().collect()
    }

    /// Refuses calls whose time is over.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let over: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.call.deadline <= now)
            .map(|(counter, _)| *counter)
            .collect();
        let error = self.unavailable();
        for counter in over {
            if let Some(open) = self.open.remove(&counter) {
                open.call.refuse(if open.sent.is_some() { EtcdError::Timeout } else { error.clone() });
            }
        }
        for call in self.reads.extract_if(.., |call| call.deadline <= now || call.is_abandoned()) {
            call.refuse(error.clone());
        }
        for (calls, ..) in self.reads_sent.values_mut() {
            for call in calls.extract_if(.., |call| call.deadline <= now) {
                call.refuse(EtcdError::Timeout);
            }
        }
        self.peers.retain(|_, peer| peer.heard.elapsed() < PEER_SILENCE);
    }

    /// The error for calls that wait for a writer.
    pub(super) fn unavailable(&self) -> EtcdError {
        let link = self.log.connection().link.borrow().clone();
        if !link.connected {
            return EtcdError::Unavailable(format!(
                "NATS is unreachable: {}",
                link.cause.unwrap_or_default()
            ));
        }
        match self.status.known_leader() {
            Ok(_) => EtcdError::Timeout,
            Err(cause) => EtcdError::Unavailable(format!("the log cannot be followed: {cause}")),
        }
    }

    /// This instance's sign of life.
    pub(super) fn life(&self, index: LogIndex, digest: Digest) -> WireLife {
        WireLife {
            nonce: self.chain.nonce(),
            instance: self.start,
            member: serde_json::to_vec(&self.settings.member).expect("plain data"),
            index: index.0,
            digest: digest.0,
            is_ready: self.is_ready,
        }
    }

    /// Takes note of another instance.
    pub(super) fn hear_of(&mut self, life: &WireLife) {
        if life.instance == self.start {
            return;
        }
        if let Ok(member) = serde_json::from_slice::<Member>(&life.member) {
            if member.id == self.settings.member.id
                && let Some(namesakes) = &mut self.namesakes
            {
                namesakes.heard(&self.failure);
                return;
            }
            // An earlier process of the same member has ended.
            self.peers.retain(|instance, peer| *instance == life.instance || peer.member.id != member.id);
            let (index, is_ready) = (LogIndex(life.index), life.is_ready);
            self.peers.insert(life.instance, Peer { member, index, is_ready, heard: Instant::now() });
        }
    }

    /// Sends answers to other instances, those of one message together.
    pub(super) async fn send_answers(&self, answers: Vec<Addressed>) {
        let Some(courier) = &self.courier else { return };
        let mut by_reply: HashMap<String, Vec<WireAnswer>> = HashMap::new();
        for Addressed { reply, answer, .. } in answers {
            by_reply.entry(reply).or_default().push(answer);
        }
        for (reply, answers) in by_reply {
            courier.answer(reply, WireAnswers { answers }.encode_to_vec()).await;
        }
    }
}

/// The end that a report of the applier leads to.
pub(super) fn end_of(report: Report) -> Break {
    match report {
        Report::Damaged(what) => Break::Fatal(format!("{what}. {WAYS_OUT}")),
        Report::Doubtful(damage) => Break::Doubtful(damage),
        Report::Differs { index, here, writer } => {
            tracing::error!(%index, %here, %writer, "the state here differs from the writer's; it is loaded afresh");
            Break::Differs
        }
    }
}

/// The outcome of a call whose last record this is.
fn outcome_of(proposal: &Proposal, record: &Record) -> Outcome {
    match (proposal, &record.body) {
        (Proposal::Write(_) | Proposal::Revoke(_), _) => Outcome::Written(record.revision),
        (Proposal::Grant { .. }, Body::Lease(id, Some(ttl))) => Outcome::Lease { id: *id, ttl: *ttl },
        (Proposal::KeepAlive(id), _) => Outcome::Lease { id: *id, ttl: 0 },
        _ => Outcome::Done,
    }
}
