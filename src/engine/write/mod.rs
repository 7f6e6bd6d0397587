//! The role of the writer: plans calls, appends their records, and answers when these have proved valid.
//!
//! An answer that rests on no record of its own (a failed compare, a refusal, a read index, the time that a
//! lease has left) waits until a record or a barrier that was sent after the call came has proved valid: a
//! writer that was deposed without knowing it never sees that. If no other instance can write, the records in
//! flight when the call came are enough. They are enough, too, once the votes of most members have confirmed
//! the epoch.

mod epochs;
mod plan;
mod poll;
mod prove;
mod quiesce;
mod remote;

use crate::engine::failure::DataError;
use crate::engine::leader_watch::LeaderWatch;
use crate::engine::node::{Command, Node, NodeError, Open, end_of};
use crate::engine::planner::Planner;
use crate::engine::proposal::{Addressed, Call, Origin, Proposal, Waiter};
use crate::error::EtcdError;
use crate::log::{AppendError, Incoming, Pipeline, ReadOnly, Serving};
use crate::planted;
use crate::record::Digest;
use crate::types::{LogIndex, Sequence};
use epochs::Epochs;
use poll::Polls;
use prost::Message as _;
use quiesce::{NextStep, Quiesce, fenced};
use remote::{Remote, remember};
use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Calls that are planned in one turn.
const AT_ONCE: usize = 512;
/// Records that wait to be sent, above which no call is planned.
const WAITING: usize = 64 * 1024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often leases and tokens are looked at.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// The least time that an acknowledgement may take where no other instance waits for the writer.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of the writer role.
struct Writing {
    pipeline: Pipeline<Waiter>,
    planner: Planner,
    /// Keeps the subscription for calls.
    _serving: Option<Serving>,
    epochs: Epochs,
    /// Answers that wait for votes.
    polls: Polls,
    /// Answers that wait until a record or a barrier is sent for them.
    unproved: Vec<Waiter>,
    /// Answers that wait until the message at a sequence proves valid.
    proofs: BTreeMap<Sequence, Vec<Waiter>>,
    barriers: usize,
    /// The next barrier is not sent before this: several answers waited for the last one.
    next_barrier: Instant,
    /// When the last record that proved valid was sent.
    proved: Option<Instant>,
    /// Whether a record was appended in this turn. It is sent after all calls of the turn came, so it proves
    /// their answers.
    has_appended: bool,
    /// Calls whose plan has to wait.
    deferred: Vec<Call>,
    quiesce: Option<Quiesce>,
    handover: Option<(Instant, Option<Waiter>)>,
    stopping: Vec<oneshot::Sender<()>>,
    members_heard: HashMap<u64, Instant>,
    remotes: HashMap<u64, Remote>,
    leader_watch: LeaderWatch,
    heartbeat: Interval,
    expiry: Interval,
}

impl Writing {
    /// Whether no call is planned: records in flight must come to an end, or another instance takes over.
    fn is_settling(&self) -> bool {
        self.quiesce.is_some() || self.handover.is_some()
    }
}

/// The reason why this instance stops writing.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("another instance writes now")]
    Deposed,
    #[error("the stream has another leader, and what was sent to the one before may be lost")]
    LeaderChanged,
    #[error("the log does not hold what was acknowledged")]
    Invalid,
    /// An epoch of its own with a later number has their votes.
    #[error("members have promised their votes to a later epoch")]
    Outvoted,
    #[error(transparent)]
    ReadOnly(ReadOnly),
    /// The ways to other instances have changed.
    #[error("the log is shared with other instances from now on, or not any more")]
    SharingChanged,
    #[error(transparent)]
    Data(DataError),
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

impl Node {
    /// Writes until another instance takes over or an error ends the epoch.
    pub(in crate::engine) async fn write(
        &mut self,
        elected: crate::engine::follow::Elected,
    ) -> Result<(), NodeError> {
        self.is_ready = true;
        self.loaded().await?;
        // The first answer comes when everything before the epoch record is applied, the second one when it
        // is visible.
        for _ in 0..2 {
            if self.digest().await.is_none() {
                return Err(self.end_of_applier().await);
            }
        }
        let reason = elected.reason;
        let mut writing = self.begin_writing(elected);
        if self.chain.is_accepting() || self.chain.is_loss_unrecorded() {
            self.accept_loss(&mut writing);
        } else {
            self.begin_serving();
        }
        let name = self.settings.member.name.as_str();
        let (epoch, index) = (self.chain.epoch(), self.chain.index());
        tracing::info!(name, %epoch, %index, reason, "this instance writes");
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut acknowledged, mut calls) = (Vec::new(), Vec::new());
        for call in std::mem::take(&mut writing.deferred) {
            self.admit(&mut writing, call).await;
        }
        for incoming in std::mem::take(&mut self.early_calls) {
            if let Incoming::Calls { payload, reply, .. } = incoming {
                self.take_calls(&mut writing, &payload, &reply).await;
            }
        }
        self.end_turn(&mut writing).await;
        let error = loop {
            let can_plan = !writing.is_settling() && writing.pipeline.unacknowledged() < WAITING;
            let event = tokio::select! {
                outcome = writing.pipeline.next(&mut acknowledged) => Event::Acknowledged(outcome),
                count = self.new_calls.recv_many(&mut calls, AT_ONCE), if can_plan => {
                    if count == 0 { pending::<()>().await }
                    Event::Calls
                }
                Some(answer) = self.answered.recv() => Event::Answered(answer),
                // The successor asks for promises.
                Some(incoming) = self.incoming.recv(), if can_plan || writing.handover.is_some() => Event::Incoming(incoming),
                fenced = fenced(&mut writing.quiesce) => Event::Fenced(fenced),
                nonce = writing.epochs.next(&self.log, self.chain.position()) => Event::Epoch(nonce),
                Some(report) = self.reports.recv() => Event::Report(report),
                Some(command) = self.commands.recv() => Event::Command(command),
                _ = writing.heartbeat.tick(), if self.messenger.is_some() => Event::Heartbeat,
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
                    self.end_turn(&mut writing).await;
                    Ok(())
                }
                event => self.act(&mut writing, event).await,
            };
            if let Err(error) = outcome {
                break error;
            }
            self.quiesce(&mut writing).await;
        };
        let may_write_again = !matches!(error, WriteError::Deposed | WriteError::ReadOnly(_));
        self.end_writing(writing, error).await;
        if self.chain.is_loss_unrecorded() && !may_write_again {
            // The log does not name the loss, and another instance goes on with it.
            return Err(NodeError::Differs);
        }
        Ok(())
    }

    fn begin_writing(&mut self, elected: crate::engine::follow::Elected) -> Writing {
        let crate::engine::follow::Elected { mut pipeline, serving, look, .. } = elected;
        if !self.mode.is_alone() {
            pipeline.send_in_groups();
        }
        let state = self.reader.snapshot();
        let planner = Planner::new(
            Arc::clone(&self.log),
            self.tables.clone(),
            &state,
            self.longest_timeout.max(self.settings.election_timeout),
            self.chain.epoch(),
            pipeline.max_record_bytes(),
        );
        self.tables.auth.tokens().keep_time(true);
        self.status.set_writer(true);
        self.status.set_leader(self.settings.member.id);
        self.status.set_linearizable(self.mode.is_alone());
        let interval = |period: Duration| {
            let mut interval = tokio::time::interval(period.max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let mut writing = Writing {
            pipeline,
            planner,
            _serving: serving,
            epochs: if self.messenger.is_some() {
                Epochs::open(&self.log, self.chain.position())
            } else {
                Epochs::None
            },
            polls: Polls::new(),
            unproved: Vec::new(),
            proofs: BTreeMap::new(),
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
            leader_watch: LeaderWatch::new(&self.log, self.space.measured(), look),
            heartbeat: interval(self.settings.heartbeat_interval),
            expiry: interval(EXPIRY_INTERVAL),
        };
        // The own epoch record shows that none of these calls is in the log.
        let reads = std::mem::take(&mut self.reads);
        let sent = std::mem::take(&mut self.reads_sent);
        writing.deferred.extend(std::mem::take(&mut self.open).into_values().map(|open| open.call));
        writing.deferred.extend(reads.into_iter().chain(sent.into_values().flat_map(|(calls, ..)| calls)));
        let mut own = self.settings.member.clone();
        let known = self.tables.members.all();
        // As in etcd, only calls of the API change the peer URLs of a member that is listed.
        let keeps_urls = self.mode.has_fixed_members() || self.mode.is_alone();
        if let Some(known) = known.get(&own.id).filter(|_| keeps_urls) {
            own.peer_urls.clone_from(&known.peer_urls);
            own.is_learner = known.is_learner;
        }
        // The first writer of a cluster lists all that found it, started or not. One batch does so: a member
        // that does not find itself in the list ends.
        let others = self.settings.founders.iter().filter(|member| member.id != own.id);
        let mut proposals = vec![if known.is_empty() && self.mode.has_fixed_members() {
            Proposal::Found(std::iter::once(own.clone()).chain(others.cloned()).collect())
        } else {
            Proposal::Member { id: own.id, member: Some(own) }
        }];
        // Earlier starts had an id for each name and each set of client URLs. No other member can have been
        // here.
        if self.mode.is_alone() && !self.mode.has_fixed_members() {
            let earlier = known.keys().filter(|id| **id != self.settings.member.id);
            proposals.extend(earlier.map(|id| Proposal::Member { id: *id, member: None }));
        }
        // One that was removed meanwhile does not list itself again.
        if !self.is_member() {
            return writing;
        }
        for proposal in proposals {
            writing.deferred.push(self.own_call(proposal));
        }
        writing
    }

    async fn act(&mut self, writing: &mut Writing, event: Event) -> Result<(), WriteError> {
        match event {
            Event::Acknowledged(_) | Event::Calls => {}
            Event::Incoming(incoming) => return self.receive_as_writer(writing, incoming).await,
            Event::Epoch(nonce) => {
                if nonce.is_some_and(|nonce| !self.is_own(nonce)) && !planted::is_any() {
                    return Err(WriteError::Deposed);
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
                    NodeError::Fatal(error) => WriteError::Data(error),
                    _ => WriteError::Invalid,
                });
            }
            Event::Command(Command::Resign(done)) => self.resign(writing, done),
            Event::Command(Command::Reached(index, answer)) => drop(answer.send(self.is_reached(index))),
            Event::Command(Command::Hold(held)) => {
                if !writing.is_settling() {
                    writing.quiesce = Some(Quiesce { next: NextStep::Hold(held), fence: None });
                }
            }
            Event::Command(Command::Share(links, done)) => {
                self.share(links, done);
                return Err(WriteError::SharingChanged);
            }
            Event::Heartbeat => {
                if let (Some(messenger), Some((index, digest))) =
                    (self.messenger.clone(), self.digest().await)
                {
                    messenger.heartbeat(self.wire_status(index, digest).encode_to_vec()).await;
                }
            }
            Event::Expiry => {
                self.end_leases(writing).await;
                self.keep_members(writing).await;
            }
            Event::Tick => return self.write_tick(writing).await,
            Event::BarrierDue => self.end_turn(writing).await,
        }
        Ok(())
    }

    async fn write_tick(&mut self, writing: &mut Writing) -> Result<(), WriteError> {
        let patience = if self.mode.is_alone() {
            self.settings.election_timeout.max(ACKNOWLEDGEMENT_TIMEOUT)
        } else {
            self.settings.election_timeout
        };
        self.forget_silent_peers();
        self.give_up_late_poll(writing)?;
        if !writing.is_settling() && self.is_outvoted(writing, &[]) {
            return Err(WriteError::Outvoted);
        }
        if let Some(reason) = self.read_only() {
            return Err(WriteError::ReadOnly(reason));
        }
        if writing.pipeline.oldest().is_some_and(|sent| sent.elapsed() > patience) {
            return Err(AppendError::Late.into());
        }
        if !self.mode.is_alone() && writing.leader_watch.has_changed(writing.pipeline.oldest()).await {
            return Err(WriteError::LeaderChanged);
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
        if !writing.is_settling() && (!writing.deferred.is_empty() || !writing.polls.is_idle()) {
            for call in std::mem::take(&mut writing.deferred) {
                self.admit(writing, call).await;
            }
            self.end_turn(writing).await;
        }
        Ok(())
    }

    /// Ends the role. Open calls of this instance wait for the next epoch record, which shows whether they
    /// are in the log.
    async fn end_writing(&mut self, writing: Writing, error: WriteError) {
        let (epoch, index) = (self.chain.epoch(), self.chain.index());
        if matches!(error, WriteError::Deposed) {
            tracing::info!(%epoch, %index, "this instance does not write any more: another one has taken over");
        } else if matches!(error, WriteError::SharingChanged) {
            tracing::debug!(%epoch, %index, reason = error.to_string(), "this instance begins an epoch of its own again");
        } else {
            tracing::warn!(%epoch, %index, reason = error.to_string(), "this instance does not write any more");
        }
        self.status.set_writer(false);
        self.status.set_linearizable(false);
        self.status.set_no_leader(error.to_string());
        self.tables.auth.tokens().keep_time(false);
        let has_no_room = match &error {
            WriteError::Append(AppendError::NoSpace(cause)) => {
                self.space.found_full(cause);
                true
            }
            _ => false,
        };
        let nonce = self.chain.nonce();
        let Writing { pipeline, mut polls, unproved, proofs, deferred, handover, stopping, quiesce, .. } =
            writing;
        for Waiter { call, .. } in pipeline.into_waiters() {
            self.keep_open(call, Some((nonce, Instant::now())), has_no_room);
        }
        let unwritten = unproved.into_iter().chain(polls.take_all()).chain(proofs.into_values().flatten());
        for call in unwritten.map(|waiter| waiter.call).chain(deferred) {
            self.keep_open(call, None, false);
        }
        let handed_over = handover.and_then(|(_, waiter)| waiter);
        if let Some(waiter) = handed_over {
            if matches!(error, WriteError::Deposed) {
                // This answer waits until this instance, too, has read the new writer's epoch record.
                self.by_index.entry(self.chain.index().next()).or_default().push(waiter);
            } else {
                waiter.call.refuse(EtcdError::LeaderTransferTimeout);
            }
        }
        if let Some(Quiesce { next, .. }) = quiesce {
            match next {
                NextStep::Trim(_, _, waiter) | NextStep::HandOver(_, Some(waiter)) => {
                    waiter.call.refuse(EtcdError::LeaderChanged);
                }
                NextStep::Stop(done) => done.send(()).unwrap_or_default(),
                NextStep::Resume | NextStep::Hold(_) | NextStep::HandOver(_, None) => {}
            }
        }
        for done in stopping {
            done.send(()).unwrap_or_default();
        }
        if let WriteError::Data(error) = error {
            self.failure.send_replace(Some(error));
            pending::<()>().await;
        }
    }

    fn keep_open(&mut self, call: Call, sent: Option<(u64, Instant)>, has_no_room: bool) {
        // Another instance sends its call again by itself. Internal calls are made again when they are due.
        if !matches!(call.origin, Origin::Local(_)) {
            return;
        }
        match call.proposal {
            Proposal::ReadIndex => self.reads.push(call),
            Proposal::Trim { .. } | Proposal::MoveLeader { .. } => call.refuse(EtcdError::LeaderChanged),
            _ => {
                let open = Open { call, sent, unanswered: None, has_no_room };
                self.open.insert(open.call.operation.counter, open);
            }
        }
    }
}
