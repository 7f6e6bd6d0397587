//! The role of the writer: plans calls, appends their records, and answers when these have proved valid.
//!
//! An answer that rests on no record of its own (a failed compare, a refusal, a read index, the time that a lease has left) waits
//! until a record or a barrier that was sent after the call came has proved valid: a writer that was deposed without knowing it
//! never sees that. Where no other instance can write, the records in flight when the call came are enough.

use super::LinearizableReads;
use super::apply::Entry;
use super::node::{Break, Command, Node, Open, Peer, end_of};
use super::planner::{Plan, Planner};
use super::proposal::{Addressed, Call, Origin, Outcome, Proposal, Waiter, WireAnswer, WireCalls, WireLife};
use crate::auth::Caller;
use crate::core::{Change, State};
use crate::error::EtcdError;
use crate::log::{Acknowledged, AppendError, ConsumeError, Consumer, Incoming, Log, Pipeline, Serving};
use crate::record::{Body, Digest, Member, OperationId, Record, Trim};
use crate::txn::Response;
use crate::types::{LeaseId, LogIndex, Revision, Sequence};
use bytes::Bytes;
use prost::Message as _;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Calls that are planned in one turn.
const AT_ONCE: usize = 512;
/// Records that wait to be sent, above which no call is planned.
const WAITING: usize = 64 * 1024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often leases and tokens are looked at.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// Leases ended at one look, so that a flood of them does not crowd out everything else.
const ENDED_AT_ONCE: usize = 500;
/// Barriers in flight at once.
const BARRIERS: usize = 2;
/// The time from one barrier that several answers waited for to the next one. A barrier is a message of its own for three
/// nats-servers, and more answers share it so: a read by one of 100 clients through three instances costs 57 to 62 us of CPU
/// with 2 ms and 80 to 105 us without the pause. A client that reads alone never waits for it.
const BARRIER_PAUSE: Duration = Duration::from_millis(2);
/// The least time that an acknowledgement may take where no other instance waits for the writer.
const PATIENCE_ALONE: Duration = Duration::from_secs(5);
/// How long a successor may take.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which a member is removed.
const MEMBER_SILENCE: Duration = Duration::from_mins(10);
/// Calls of another instance that are remembered without one of a later message.
const REMEMBERED: usize = 100_000;

/// The action once nothing is in flight and everything is visible.
enum Then {
    /// Planning goes on.
    Resume,
    /// A trim record for this index and floor is appended.
    Trim(LogIndex, Option<Revision>, Waiter),
    /// Another instance is told to take over.
    HandOver(u64, Option<Waiter>),
    /// A stop record is appended.
    Stop(oneshot::Sender<()>),
}

struct Quiesce {
    then: Then,
    fence: Option<oneshot::Receiver<(LogIndex, Digest)>>,
}

/// Calls of another instance.
#[derive(Default)]
struct Remote {
    lowest_open: u64,
    /// Calls that were planned, with their answers once they are known.
    known: BTreeMap<u64, Option<WireAnswer>>,
    /// Parts of calls that are not whole.
    parts: HashMap<u64, Vec<Option<Bytes>>>,
}

/// The writer's own.
struct Writing {
    pipeline: Pipeline<Waiter>,
    planner: Planner,
    /// Keeps the subscription for calls.
    _serving: Option<Serving>,
    epochs: Epochs,
    /// Answers that wait for a proof.
    unproved: Vec<Waiter>,
    /// Answers that wait for the message at a sequence.
    proofs: VecDeque<(Sequence, Waiter)>,
    barriers: usize,
    /// No barrier is sent before this, as several answers waited for the last one.
    next_barrier: Instant,
    /// When the last record that proved valid was sent.
    proved: Option<Instant>,
    /// Whether a record was appended in this turn, so that it is sent after every call of the turn came.
    has_appended: bool,
    /// Calls whose plan has to wait.
    deferred: Vec<Call>,
    quiesce: Option<Quiesce>,
    handover: Option<(Instant, Option<Waiter>)>,
    stopping: Vec<oneshot::Sender<()>>,
    members_heard: HashMap<u64, Instant>,
    remotes: HashMap<u64, Remote>,
    heartbeat: Interval,
    expiry: Interval,
}

/// The consumer of epoch records, by which a writer learns of another one.
enum Epochs {
    None,
    Opening(JoinHandle<Result<Consumer, ConsumeError>>),
    Reading(Box<Consumer>),
}

/// Why this instance does not write any more.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("another instance writes now")]
    Deposed,
    #[error("the log does not hold what was acknowledged")]
    Invalid,
    #[error("{0}")]
    Damaged(String),
}

enum Event {
    Acknowledged(Result<(), AppendError>),
    Calls,
    Incoming(Incoming),
    Epoch(Option<u64>),
    Fenced(Option<(LogIndex, Digest)>),
    Answered(Addressed),
    Report(super::apply::Report),
    Command(Command),
    Heartbeat,
    Expiry,
    Tick,
    /// The pause between two barriers is over, and answers wait for the next one.
    BarrierDue,
}

impl Writing {
    /// Whether answers wait for a barrier, and another one may be in flight.
    fn is_barrier_due(&self) -> bool {
        !self.unproved.is_empty() && !self.has_appended && self.barriers < BARRIERS
    }
}

impl Node {
    /// Writes until another instance does, or something goes wrong.
    pub(super) async fn write(&mut self, elected: super::follow::Elected) -> Result<(), Break> {
        self.is_ready = true;
        self.loaded().await?;
        // Everything before the epoch record is applied when the first of these is answered, and visible with the second.
        for _ in 0..2 {
            if self.digest().await.is_none() {
                return Err(self.end_of_applier().await);
            }
        }
        let mut writing = self.begin_writing(elected);
        if self.trim_to == LogIndex(u64::MAX) {
            self.accept_loss(&mut writing);
        }
        tracing::info!(epoch = %self.chain.epoch(), index = %self.chain.index(), "this instance writes");
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut acknowledged, mut calls) = (Vec::new(), Vec::new());
        for call in std::mem::take(&mut writing.deferred) {
            self.admit(&mut writing, call).await;
        }
        self.end_turn(&mut writing);
        let trouble = loop {
            let can_plan = writing.quiesce.is_none()
                && writing.handover.is_none()
                && writing.pipeline.unacknowledged() < WAITING;
            let event = tokio::select! {
                outcome = writing.pipeline.next(&mut acknowledged) => Event::Acknowledged(outcome),
                count = self.new_calls.recv_many(&mut calls, AT_ONCE), if can_plan => {
                    if count == 0 { pending::<()>().await }
                    Event::Calls
                }
                Some(answer) = self.answered.recv() => Event::Answered(answer),
                Some(incoming) = self.incoming.recv(), if can_plan => Event::Incoming(incoming),
                fenced = fenced(&mut writing.quiesce) => Event::Fenced(fenced),
                nonce = writing.epochs.next(&self.log, self.chain.position()) => Event::Epoch(nonce),
                Some(report) = self.reports.recv() => Event::Report(report),
                Some(command) = self.commands.recv() => Event::Command(command),
                _ = writing.heartbeat.tick(), if self.courier.is_some() => Event::Heartbeat,
                _ = writing.expiry.tick() => Event::Expiry,
                _ = tick.tick() => Event::Tick,
                () = tokio::time::sleep_until(writing.next_barrier), if writing.is_barrier_due() => Event::BarrierDue,
            };
            let outcome = match event {
                Event::Acknowledged(outcome) => match outcome {
                    Ok(()) => self.emit(&mut writing, &mut acknowledged).await,
                    Err(error) => Err(error.into()),
                },
                Event::Calls => {
                    for call in calls.drain(..) {
                        let call = self.call_of(call);
                        self.admit(&mut writing, call).await;
                    }
                    self.end_turn(&mut writing);
                    Ok(())
                }
                event => self.act(&mut writing, event).await,
            };
            if let Err(trouble) = outcome {
                break trouble;
            }
            self.quiesce(&mut writing).await;
        };
        self.end_writing(writing, trouble).await;
        Ok(())
    }

    fn begin_writing(&mut self, elected: super::follow::Elected) -> Writing {
        let super::follow::Elected { pipeline, serving } = elected;
        let state = self.reader.snapshot();
        let planner = Planner::new(
            Arc::clone(&self.log),
            self.tables.clone(),
            &state,
            self.longest_timeout.max(self.settings.election_timeout),
            pipeline.max_record_bytes(),
        );
        self.tables.auth.tokens().keep_time(true);
        self.status.set_writer(true);
        self.status.set_leader(Ok(self.settings.member.id));
        self.status.set_linearizable(self.settings.is_alone);
        let interval = |period: Duration| {
            let mut interval = tokio::time::interval(period.max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let mut writing = Writing {
            pipeline,
            planner,
            _serving: serving,
            epochs: if self.courier.is_some() {
                Epochs::open(&self.log, self.chain.position())
            } else {
                Epochs::None
            },
            unproved: Vec::new(),
            proofs: VecDeque::new(),
            barriers: 0,
            next_barrier: Instant::now(),
            proved: None,
            has_appended: false,
            deferred: Vec::new(),
            quiesce: None,
            handover: None,
            stopping: Vec::new(),
            members_heard: HashMap::new(),
            remotes: HashMap::new(),
            heartbeat: interval(self.settings.heartbeat_interval),
            expiry: interval(EXPIRY_INTERVAL),
        };
        // Nothing of these is in the log, as the own epoch record shows.
        let reads = std::mem::take(&mut self.reads);
        let sent = std::mem::take(&mut self.reads_sent);
        writing.deferred.extend(std::mem::take(&mut self.open).into_values().map(|open| open.call));
        writing.deferred.extend(reads.into_iter().chain(sent.into_values().flat_map(|(calls, ..)| calls)));
        let member = self.settings.member.clone();
        writing.deferred.push(Call {
            operation: self.next_operation(),
            proposal: Proposal::Member { id: member.id, member: Some(member) },
            caller: Caller::default(),
            deadline: Instant::now() + super::REQUEST_TIMEOUT,
            origin: Origin::Internal,
        });
        writing
    }

    /// Writes down that everything that is missing so far may be missing.
    fn accept_loss(&mut self, writing: &mut Writing) {
        self.chain.settle();
        self.trim_to = self.chain.index();
        let (to, floor) = (self.chain.index(), self.reader.snapshot().compacted);
        let call = Call {
            operation: self.next_operation(),
            proposal: Proposal::Trim { to, floor },
            caller: Caller::default(),
            deadline: Instant::now() + super::REQUEST_TIMEOUT,
            origin: Origin::Internal,
        };
        let then = Then::Trim(to, floor, Waiter::new(call, Ok(Outcome::Done)));
        writing.quiesce = Some(Quiesce { then, fence: None });
        self.counters.lost(1);
        tracing::error!(index = %to, "records that were missing from the log are given up");
    }

    async fn act(&mut self, writing: &mut Writing, event: Event) -> Result<(), Trouble> {
        match event {
            Event::Acknowledged(_) | Event::Calls => {}
            Event::Incoming(incoming) => self.hear_as_writer(writing, incoming).await,
            Event::Epoch(nonce) => {
                if nonce.is_some_and(|nonce| !self.is_own(nonce)) {
                    return Err(Trouble::Deposed);
                }
            }
            Event::Fenced(fenced) => self.fenced(writing, fenced).await,
            Event::Answered(answer) => {
                let mut answers = vec![answer];
                while let Ok(answer) = self.answered.try_recv() {
                    answers.push(answer);
                }
                remember(&mut writing.remotes, &answers);
                self.send_answers(answers).await;
            }
            Event::Report(report) => {
                return Err(match end_of(report) {
                    Break::Fatal(what) => Trouble::Damaged(what),
                    _ => Trouble::Invalid,
                });
            }
            Event::Command(Command::Resign(done)) => self.resign(writing, done),
            Event::Heartbeat => {
                if let (Some(courier), Some((index, digest))) = (self.courier.clone(), self.digest().await) {
                    courier.heartbeat(self.life(index, digest).encode_to_vec()).await;
                }
            }
            Event::Expiry => {
                self.end_leases(writing);
                self.keep_members(writing).await;
            }
            Event::Tick => return self.write_tick(writing).await,
            Event::BarrierDue => self.end_turn(writing),
        }
        Ok(())
    }

    async fn write_tick(&mut self, writing: &mut Writing) -> Result<(), Trouble> {
        let patience = if self.settings.is_alone {
            self.settings.election_timeout.max(PATIENCE_ALONE)
        } else {
            self.settings.election_timeout
        };
        if writing.pipeline.oldest().is_some_and(|sent| sent.elapsed() > patience) {
            return Err(AppendError::Late.into());
        }
        if let Some((until, _)) = &writing.handover
            && Instant::now() >= *until
        {
            let (_, waiter) = writing.handover.take().expect("it is there");
            tracing::warn!("no other instance has taken over in time; this one goes on");
            if let Some(waiter) = waiter {
                waiter.call.refuse(EtcdError::LeaderTransferTimeout);
            }
            writing.stopping.drain(..).for_each(|done| done.send(()).unwrap_or_default());
        }
        if writing.quiesce.is_none() && writing.handover.is_none() && !writing.deferred.is_empty() {
            for call in std::mem::take(&mut writing.deferred) {
                self.admit(writing, call).await;
            }
            self.end_turn(writing);
        }
        Ok(())
    }

    /// Plans a call, or acts on it.
    async fn admit(&mut self, writing: &mut Writing, call: Call) {
        if call.is_abandoned() {
            return;
        }
        if writing.quiesce.is_some() || writing.handover.is_some() {
            writing.deferred.push(call);
            return;
        }
        match &call.proposal {
            Proposal::ReadIndex => {
                let waiter = Waiter::new(call, Ok(Outcome::Done));
                if self.settings.reads == LinearizableReads::Leader {
                    self.entry(Entry::Complete(waiter)).await;
                } else {
                    self.answer_when_proved(writing, waiter).await;
                }
            }
            Proposal::Barrier => {
                let operation = call.operation;
                self.barrier(writing, operation, Some(Waiter::new(call, Ok(Outcome::Done))));
            }
            Proposal::FinishRemovals => {
                self.entry(Entry::WhenSwept(Waiter::new(call, Ok(Outcome::Done)))).await;
            }
            Proposal::Trim { to, floor } => {
                let (to, floor) = (*to, *floor);
                let waiter = Waiter::new(call, Ok(Outcome::Done));
                writing.quiesce = Some(Quiesce { then: Then::Trim(to, floor, waiter), fence: None });
            }
            Proposal::MoveLeader { target } => {
                let target = *target;
                if target == self.settings.member.id {
                    self.entry(Entry::Complete(Waiter::new(call, Ok(Outcome::Done)))).await;
                    return;
                }
                let peer = self.peers.iter().find(|(_, peer)| peer.member.id == target && peer.is_ready);
                match peer.map(|(instance, _)| *instance) {
                    Some(instance) => {
                        let waiter = Waiter::new(call, Ok(Outcome::Done));
                        let then = Then::HandOver(instance, Some(waiter));
                        writing.quiesce = Some(Quiesce { then, fence: None });
                    }
                    None => call.refuse(EtcdError::BadLeaderTransferee),
                }
            }
            _ => self.plan(writing, call).await,
        }
    }

    async fn plan(&mut self, writing: &mut Writing, call: Call) {
        let state = self.reader.snapshot();
        writing.planner.overlay.forget_to(state.log_index);
        let plan = writing.planner.plan(&call, &state);
        let is_exclusive = Planner::is_exclusive(&plan);
        match plan {
            Plan::Wait => writing.deferred.push(call),
            Plan::Answer(outcome, response) => {
                let is_physical = call.is_physical() && outcome == Err(EtcdError::Compacted);
                let is_renewal = matches!(
                    (&call.proposal, &outcome),
                    (Proposal::KeepAlive(_), Ok(Outcome::Lease { ttl: 1.., .. }))
                );
                let waiter = Waiter { call, outcome, response };
                if is_physical {
                    self.entry(Entry::WhenSwept(waiter)).await;
                } else if is_renewal && self.is_proved_of_late(writing) && self.is_granted(&waiter.call) {
                    self.entry(Entry::Complete(waiter)).await;
                } else {
                    self.answer_when_proved(writing, waiter).await;
                }
            }
            Plan::Keys { writes, end, outcome, response } => {
                self.append_keys(writing, Some((call, outcome, response)), writes, end);
            }
            Plan::Reserved { bodies, outcome } => {
                self.append_reserved(writing, Some((call, outcome)), bodies);
            }
        }
        if is_exclusive {
            writing.quiesce = Some(Quiesce { then: Then::Resume, fence: None });
        }
    }

    /// Whether a record that was sent within an election timeout has proved valid: nobody else can write yet.
    fn is_proved_of_late(&self, writing: &Writing) -> bool {
        self.settings.is_alone
            || writing.proved.is_some_and(|sent| sent.elapsed() < self.settings.election_timeout)
    }

    /// Whether the lease that a call renews is visible; its grant may still be in flight.
    fn is_granted(&self, call: &Call) -> bool {
        matches!(call.proposal, Proposal::KeepAlive(id) if self.tables.leases.get(id).is_some())
    }

    fn append_keys(
        &mut self,
        writing: &mut Writing,
        answer: Option<(Call, Outcome, Option<Response>)>,
        writes: Vec<crate::txn::Write>,
        end: Option<LeaseId>,
    ) {
        let operation = answer.as_ref().map_or_else(|| self.next_operation(), |(call, ..)| call.operation);
        let count = (writes.len() + usize::from(end.is_some())) as u32;
        let revision = writing.planner.revision.next();
        let last = LogIndex(writing.planner.index.0 + u64::from(count));
        let mut waiter =
            answer.map(|(call, outcome, response)| Waiter { call, outcome: Ok(outcome), response });
        for (crate::txn::Write { key, kind }, place) in writes.into_iter().zip(1..) {
            let sequence = writing.pipeline.next_sequence();
            let change = Change { key, sequence, place, kind };
            let version = change.version(revision);
            writing.planner.overlay.insert(change.key, last, version.clone());
            let record = self.record(writing, (place, count), operation, revision, Body::Key(version));
            let waiter = if place == count { waiter.take() } else { None };
            writing.pipeline.append(record, waiter);
        }
        if let Some(lease) = end {
            let record = self.record(writing, (count, count), operation, revision, Body::Lease(lease, None));
            writing.pipeline.append(record, waiter.take());
        }
        writing.planner.revision = revision;
        writing.has_appended = true;
    }

    fn append_reserved(&mut self, writing: &mut Writing, answer: Option<(Call, Outcome)>, bodies: Vec<Body>) {
        let operation = answer.as_ref().map_or_else(|| self.next_operation(), |(call, _)| call.operation);
        let count = bodies.len() as u32;
        let revision = writing.planner.revision;
        let mut waiter = answer.map(|(call, outcome)| Waiter::new(call, Ok(outcome)));
        for (body, place) in bodies.into_iter().zip(1..) {
            let record = self.record(writing, (place, count), operation, revision, body);
            let waiter = if place == count { waiter.take() } else { None };
            writing.pipeline.append(record, waiter);
        }
        writing.has_appended = true;
    }

    fn record(
        &self,
        writing: &mut Writing,
        (place, count): (u32, u32),
        operation: OperationId,
        revision: Revision,
        body: Body,
    ) -> Record {
        writing.planner.index = writing.planner.index.next();
        let index = writing.planner.index;
        Record {
            epoch: self.chain.epoch(),
            nonce: self.chain.nonce(),
            index,
            revision,
            place,
            count,
            operation,
            body,
        }
    }

    fn barrier(&mut self, writing: &mut Writing, operation: OperationId, waiter: Option<Waiter>) {
        let record = Record {
            epoch: self.chain.epoch(),
            nonce: self.chain.nonce(),
            index: writing.planner.index,
            revision: writing.planner.revision,
            place: 1,
            count: 1,
            operation,
            body: Body::Barrier,
        };
        writing.pipeline.append(record, waiter);
        writing.barriers += 1;
        writing.has_appended = true;
    }

    /// Lets an answer go out when it is known that this instance still wrote after the call came, and when everything that it
    /// rests on is visible.
    async fn answer_when_proved(&mut self, writing: &mut Writing, waiter: Waiter) {
        if !self.settings.is_alone {
            writing.unproved.push(waiter);
        } else if writing.pipeline.unacknowledged() == 0 {
            self.entry(Entry::Complete(waiter)).await;
        } else {
            let newest = Sequence(writing.pipeline.next_sequence().0 - 1);
            writing.proofs.push_back((newest, waiter));
        }
    }

    /// Ends a turn of planning: whatever was appended in it is sent after all its calls came, and proves them.
    fn end_turn(&mut self, writing: &mut Writing) {
        if !writing.unproved.is_empty() {
            if writing.is_barrier_due() && writing.next_barrier <= Instant::now() {
                if writing.unproved.len() > 1 {
                    writing.next_barrier = Instant::now() + BARRIER_PAUSE;
                }
                let operation = self.next_operation();
                self.barrier(writing, operation, None);
            }
            if writing.has_appended {
                let newest = Sequence(writing.pipeline.next_sequence().0 - 1);
                writing.proofs.extend(writing.unproved.drain(..).map(|waiter| (newest, waiter)));
            }
        }
        writing.has_appended = false;
    }

    /// Takes acknowledged records, in order.
    async fn emit(
        &mut self,
        writing: &mut Writing,
        acknowledged: &mut Vec<Acknowledged<Waiter>>,
    ) -> Result<(), Trouble> {
        let (mut valid, mut void, mut waiters) =
            (Vec::with_capacity(acknowledged.len()), Vec::new(), Vec::new());
        let mut when_swept = Vec::new();
        let mut barriers = Vec::new();
        let mut is_invalid = false;
        if let (Some(durations), Some(first)) = (&self.store_durations, acknowledged.first()) {
            durations.observe(first.sent.elapsed().as_secs_f64());
        }
        for Acknowledged { sequence, record, waiter, sent } in acknowledged.drain(..) {
            let is_barrier = matches!(record.body, Body::Barrier);
            if !is_invalid {
                is_invalid = match self.chain.take(sequence, Some(record), &mut valid, &mut void) {
                    crate::record::Outcome::Missing => true,
                    crate::record::Outcome::Barrier => {
                        barriers.push((sequence, self.chain.index()));
                        false
                    }
                    crate::record::Outcome::Valid => false,
                    crate::record::Outcome::Nothing => is_barrier || !self.chain.is_in_batch(),
                };
            }
            if is_invalid {
                // Stored, and not what the log holds: the next epoch record decides.
                if let Some(waiter) = waiter {
                    self.keep_open(waiter.call, Some((self.chain.nonce(), Instant::now())), false);
                }
                continue;
            }
            writing.barriers -= usize::from(is_barrier);
            writing.proved = Some(sent);
            match waiter {
                Some(waiter) if waiter.call.is_physical() => when_swept.push(waiter),
                waiter => waiters.extend(waiter),
            }
            let is_late = !self.settings.is_alone && sent.elapsed() >= self.settings.election_timeout;
            while let Some((_, waiter)) = writing.proofs.pop_front_if(|(at, _)| *at <= sequence) {
                if is_late && matches!(waiter.call.proposal, Proposal::KeepAlive(_)) {
                    // Another instance may have ended the lease since: only what was sent of late proves the contrary.
                    writing.unproved.push(waiter);
                } else {
                    waiters.push(waiter);
                }
            }
        }
        let (trim_to, is_whole) = (self.trim_to, self.chain.is_whole());
        if valid.is_empty() {
            for waiter in waiters {
                self.entry(Entry::Complete(waiter)).await;
            }
        } else {
            self.entry(Entry::Records { records: valid, waiters, trim_to, is_whole, is_own: true }).await;
        }
        for (sequence, index) in barriers {
            self.entry(Entry::Barrier(sequence, index)).await;
        }
        for waiter in when_swept {
            self.entry(Entry::WhenSwept(waiter)).await;
        }
        if is_invalid || !void.is_empty() {
            self.entry(Entry::Void(void)).await;
            return Err(Trouble::Invalid);
        }
        if !writing.unproved.is_empty() {
            self.end_turn(writing);
        }
        Ok(())
    }

    fn end_leases(&mut self, writing: &mut Writing) {
        if writing.quiesce.is_some() || writing.handover.is_some() {
            return;
        }
        let state: Arc<State> = self.reader.snapshot();
        writing.planner.overlay.forget_to(state.log_index);
        for plan in writing.planner.expire(&state, ENDED_AT_ONCE) {
            self.counters.expired();
            match plan {
                Plan::Keys { writes, end, .. } => self.append_keys(writing, None, writes, end),
                Plan::Reserved { bodies, .. } => self.append_reserved(writing, None, bodies),
                Plan::Answer(..) | Plan::Wait => {}
            }
        }
        for body in writing.planner.expire_tokens() {
            self.append_reserved(writing, None, vec![body]);
        }
        self.end_turn(writing);
    }

    /// Adds instances that have been heard of to the members, and removes members that have been silent for long.
    async fn keep_members(&mut self, writing: &mut Writing) {
        if self.courier.is_none() || writing.quiesce.is_some() || writing.handover.is_some() {
            return;
        }
        let known = self.tables.members.all();
        let mut changes: Vec<(u64, Option<Member>)> = Vec::new();
        for Peer { member, .. } in self.peers.values() {
            writing.members_heard.insert(member.id, Instant::now());
            if known
                .get(&member.id)
                .is_none_or(|known| known.client_urls != member.client_urls || known.name != member.name)
            {
                changes.push((member.id, Some(member.clone())));
            }
        }
        for id in known.keys().filter(|id| **id != self.settings.member.id) {
            let heard = writing.members_heard.entry(*id).or_insert_with(Instant::now);
            if heard.elapsed() > MEMBER_SILENCE {
                tracing::warn!(member = id, "a member has been silent for ten minutes and is removed");
                changes.push((*id, None));
            }
        }
        for (id, member) in changes {
            let call = Call {
                operation: self.next_operation(),
                proposal: Proposal::Member { id, member },
                caller: Caller::default(),
                deadline: Instant::now() + super::REQUEST_TIMEOUT,
                origin: Origin::Internal,
            };
            self.admit(writing, call).await;
        }
        self.end_turn(writing);
    }

    /// Asks for a fence where planning is to stop and nothing is in flight.
    async fn quiesce(&mut self, writing: &mut Writing) {
        if writing.pipeline.unacknowledged() == 0
            && let Some(quiesce) = &mut writing.quiesce
            && quiesce.fence.is_none()
        {
            let (sender, receiver) = oneshot::channel();
            quiesce.fence = Some(receiver);
            // Asked twice: the first answer comes before the publication, the second one after it.
            self.digest().await;
            self.entry(Entry::Digest(sender)).await;
        }
    }

    /// Nothing is in flight, and everything is visible.
    async fn fenced(&mut self, writing: &mut Writing, fenced: Option<(LogIndex, Digest)>) {
        let (Some(Quiesce { then, .. }), Some((_, digest))) = (writing.quiesce.take(), fenced) else {
            return;
        };
        match then {
            Then::Resume => {}
            Then::Trim(to, floor, waiter) => {
                // Records that may be missing already may be missing for ever.
                let to = to.max(self.chain.trim_to());
                let is_lossy = self.chain.is_lossy();
                let trim = Trim { to: to.0, floor: floor.map(|floor| floor.0), digest, is_lossy };
                let Waiter { call, .. } = waiter;
                self.append_reserved(writing, Some((call, Outcome::Done)), vec![Body::Trim(Box::new(trim))]);
            }
            Then::HandOver(instance, waiter) => {
                if let Some(courier) = &self.courier {
                    let nonce = self.chain.nonce().to_le_bytes().to_vec();
                    courier.request_takeover(instance, nonce).await;
                }
                writing.handover = Some((Instant::now() + HANDOVER_TIMEOUT, waiter));
            }
            Then::Stop(done) => {
                let operation = self.next_operation();
                let call = Call {
                    operation,
                    proposal: Proposal::Trim { to: LogIndex::NONE, floor: None },
                    caller: Caller::default(),
                    deadline: Instant::now() + super::REQUEST_TIMEOUT,
                    origin: Origin::Internal,
                };
                self.append_reserved(writing, Some((call, Outcome::Done)), vec![Body::Stop(digest)]);
                let mut acknowledged = Vec::new();
                while writing.pipeline.unacknowledged() > 0 {
                    let next = writing.pipeline.next(&mut acknowledged);
                    let stored = tokio::time::timeout(self.settings.election_timeout, next).await;
                    if !matches!(stored, Ok(Ok(()))) || self.emit(writing, &mut acknowledged).await.is_err() {
                        tracing::debug!("no stop record was written");
                        break;
                    }
                }
                self.digest().await;
                let (sender, noted) = oneshot::channel();
                self.entry(Entry::Stop(sender)).await;
                drop(noted.await);
                done.send(()).ok();
                // Nothing more is written: the process ends.
                writing.quiesce = Some(Quiesce { then: Then::Resume, fence: Some(oneshot::channel().1) });
                pending::<()>().await;
            }
        }
        for call in std::mem::take(&mut writing.deferred) {
            self.admit(writing, call).await;
        }
        self.end_turn(writing);
    }

    fn resign(&mut self, writing: &mut Writing, done: oneshot::Sender<()>) {
        self.is_leaving = true;
        let furthest = self.peers.iter().filter(|(_, peer)| peer.is_ready).max_by_key(|(_, peer)| peer.index);
        match furthest.map(|(instance, _)| *instance) {
            Some(instance) => {
                writing.stopping.push(done);
                writing.quiesce = Some(Quiesce { then: Then::HandOver(instance, None), fence: None });
            }
            None => writing.quiesce = Some(Quiesce { then: Then::Stop(done), fence: None }),
        }
    }

    async fn hear_as_writer(&mut self, writing: &mut Writing, incoming: Incoming) {
        match incoming {
            Incoming::Calls { nonce, payload, reply } if nonce == self.chain.nonce() => {
                self.take_calls(writing, &payload, &reply).await;
                // Those that have come meanwhile share the turn.
                let mut more = 0;
                while more < AT_ONCE
                    && writing.quiesce.is_none()
                    && let Ok(incoming) = self.incoming.try_recv()
                {
                    more += 1;
                    match incoming {
                        Incoming::Calls { nonce, payload, reply } if nonce == self.chain.nonce() => {
                            self.take_calls(writing, &payload, &reply).await;
                        }
                        other => self.hear_other(other).await,
                    }
                }
                self.end_turn(writing);
            }
            other => self.hear_other(other).await,
        }
    }

    async fn hear_other(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Alive(payload) | Incoming::Heartbeat(payload) => {
                if let Ok(life) = WireLife::decode(payload) {
                    self.hear_of(&life);
                }
            }
            Incoming::Ask { reply } => self.tell_index(reply).await,
            Incoming::Calls { .. }
            | Incoming::Answers(_)
            | Incoming::NobodyServes(_)
            | Incoming::TakeOver(_) => {}
        }
    }

    async fn take_calls(&mut self, writing: &mut Writing, payload: &Bytes, reply: &str) {
        let Ok(WireCalls { instance, lowest_open, calls }) = WireCalls::decode(payload.clone()) else {
            return;
        };
        let remote = writing.remotes.entry(instance).or_default();
        remote.lowest_open = remote.lowest_open.max(lowest_open);
        remote.known = remote.known.split_off(&remote.lowest_open);
        while remote.known.len() > REMEMBERED {
            remote.known.pop_first();
        }
        let lowest = remote.lowest_open;
        remote.parts.retain(|counter, _| *counter >= lowest);
        let mut fresh = Vec::new();
        let mut again = Vec::new();
        for call in calls {
            // Its client has its answer, or was told that it is unknown.
            if call.counter < lowest {
                continue;
            }
            match remote.known.get(&call.counter) {
                Some(Some(answer)) => {
                    again.push(Addressed { reply: reply.to_owned(), instance, answer: answer.clone() });
                }
                // Its record, or its answer, is on the way.
                Some(None) => {}
                None => {
                    let Some(content) = remote.whole(&call) else { continue };
                    let Some(proposal) = Proposal::decode(call.kind, content) else { continue };
                    remote.known.insert(call.counter, None);
                    fresh.push(Call {
                        operation: OperationId { instance, counter: call.counter },
                        proposal,
                        caller: Caller::from_parts(call.user, call.auth_revision),
                        deadline: Instant::now()
                            + Duration::from_millis(call.patience_ms).min(super::REQUEST_TIMEOUT),
                        origin: Origin::Remote {
                            nonce: self.chain.nonce(),
                            reply: reply.to_owned(),
                            answers: self.answers.clone(),
                        },
                    });
                }
            }
        }
        if !again.is_empty() {
            self.send_answers(again).await;
        }
        for call in fresh {
            self.admit(writing, call).await;
        }
    }

    /// Takes the way back: open calls of this instance wait for the next epoch record, which shows what became of them.
    async fn end_writing(&mut self, writing: Writing, trouble: Trouble) {
        tracing::info!(%trouble, epoch = %self.chain.epoch(), index = %self.chain.index(), "this instance does not write any more");
        self.status.set_writer(false);
        self.status.set_linearizable(false);
        self.status.set_leader(Err(trouble.to_string()));
        self.tables.auth.tokens().keep_time(false);
        let has_no_room = matches!(trouble, Trouble::Append(AppendError::NoSpace(_)));
        if has_no_room {
            self.space.found_full();
        }
        let nonce = self.chain.nonce();
        let Writing { pipeline, unproved, proofs, deferred, handover, stopping, quiesce, .. } = writing;
        for Waiter { call, .. } in pipeline.into_waiters() {
            self.keep_open(call, Some((nonce, Instant::now())), has_no_room);
        }
        let unwritten = unproved.into_iter().chain(proofs.into_iter().map(|(_, waiter)| waiter));
        for call in unwritten.map(|waiter| waiter.call).chain(deferred) {
            self.keep_open(call, None, false);
        }
        let handed_over = handover.and_then(|(_, waiter)| waiter);
        if let Some(waiter) = handed_over {
            if matches!(trouble, Trouble::Deposed) {
                // The new writer is known here, too, when this is answered.
                self.by_index.entry(self.chain.index().next()).or_default().push(waiter);
            } else {
                waiter.call.refuse(EtcdError::LeaderTransferTimeout);
            }
        }
        if let Some(Quiesce { then, .. }) = quiesce {
            match then {
                Then::Trim(_, _, waiter) | Then::HandOver(_, Some(waiter)) => {
                    waiter.call.refuse(EtcdError::LeaderChanged);
                }
                Then::Stop(done) => done.send(()).unwrap_or_default(),
                Then::Resume | Then::HandOver(_, None) => {}
            }
        }
        for done in stopping {
            done.send(()).unwrap_or_default();
        }
        if let Trouble::Damaged(reason) = trouble {
            self.failure.send_replace(Some(reason));
            pending::<()>().await;
        }
    }

    fn keep_open(&mut self, call: Call, sent: Option<(u64, Instant)>, has_no_room: bool) {
        // Another instance finds out by itself, and what nobody waits for is asked again.
        if !matches!(call.origin, Origin::Local(_)) {
            return;
        }
        match call.proposal {
            Proposal::ReadIndex => self.reads.push(call),
            Proposal::Trim { .. } | Proposal::MoveLeader { .. } => call.refuse(EtcdError::LeaderChanged),
            _ => drop(self.open.insert(call.operation.counter, Open { call, sent, has_no_room })),
        }
    }
}

impl Remote {
    /// The content of a call, once all its parts are there.
    fn whole(&mut self, call: &super::proposal::WireCall) -> Option<Bytes> {
        if call.parts <= 1 {
            return Some(call.content.clone());
        }
        let parts =
            self.parts.entry(call.counter).or_insert_with(|| vec![None; call.parts.min(1024) as usize]);
        *parts.get_mut(call.part as usize)? = Some(call.content.clone());
        if parts.iter().any(Option::is_none) {
            return None;
        }
        let parts = self.parts.remove(&call.counter)?;
        Some(parts.into_iter().flatten().flatten().collect())
    }
}

fn remember(remotes: &mut HashMap<u64, Remote>, answers: &[Addressed]) {
    for Addressed { instance, answer, .. } in answers {
        let known = remotes.get_mut(instance).and_then(|remote| remote.known.get_mut(&answer.counter));
        if let Some(known) = known {
            *known = Some(answer.clone());
        }
    }
}

impl Epochs {
    fn open(log: &Arc<Log>, after: Sequence) -> Epochs {
        let log = Arc::clone(log);
        Epochs::Opening(tokio::spawn(async move { log.consume_epochs(after).await }))
    }

    /// The nonce of the next epoch record. Nothing is lost where the future is dropped.
    async fn next(&mut self, log: &Arc<Log>, position: Sequence) -> Option<u64> {
        match self {
            Epochs::None => pending().await,
            Epochs::Opening(opening) => {
                if let Ok(Ok(consumer)) = opening.await {
                    *self = Epochs::Reading(Box::new(consumer));
                } else {
                    *self = Epochs::open(log, position);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Epochs::Reading(consumer) => match consumer.next().await {
                Ok(delivered) => {
                    return delivered.messages.into_iter().find_map(|(_, record)| Some(record?.nonce));
                }
                Err(error) => {
                    tracing::debug!(%error, "epoch records are not followed");
                    *self = Epochs::open(log, position);
                }
            },
        }
        None
    }
}

async fn fenced(quiesce: &mut Option<Quiesce>) -> Option<(LogIndex, Digest)> {
    match quiesce {
        Some(Quiesce { fence: Some(fence), .. }) => fence.await.ok(),
        _ => pending().await,
    }
}
