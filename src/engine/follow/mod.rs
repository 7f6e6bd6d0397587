//! The role of an instance that does not write: it reads the log, sends its calls to the writer, and takes
//! over where there is none.

mod calls;
mod read_only;
mod receive;
mod source;
mod takeover;

use crate::engine::NewCall;
use crate::engine::apply::{Entry, Report};
use crate::engine::failure::DataError;
use crate::engine::node::{Command, Node, NodeError, end_of};
use crate::engine::proposal::Addressed;
use crate::engine::status::Phase;
use crate::log::{ConsumeError, Delivered, Incoming, WireError};
use crate::types::{Epoch, LogIndex, Sequence};
use source::{FromSource, Source};
use std::time::Duration;
use takeover::{Attempt, AttemptError, outcome_of};
use tokio::time::{Instant, MissedTickBehavior};

pub(super) use takeover::Elected;

/// How often deadlines are checked.
const TICK: Duration = Duration::from_millis(20);
/// Pauses between consumers that fail.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Silence of the consumer after which the end of the log is looked for.
const END_SILENCE: Duration = Duration::from_secs(1);
/// The time in which a consumer must have been made, in pauses before the next attempt: a fifth of a second
/// at first, 10 s once many attempts have failed.
const OPENING_PAUSES: u32 = 10;
/// The first [`Following::silence`]: three heartbeats of the writer, as an unloaded stream delivers in
/// milliseconds.
const DELIVERY_SILENCE: Duration = Duration::from_millis(300);
/// So many answers in a row must show a loss of records before this instance stops for it.
const VETOES: usize = 10;

/// The state of the follower role.
struct Following {
    /// The epoch in force when this role began. If it is an own one, its writer has ended.
    since: Epoch,
    source: Source,
    pause: Duration,
    /// Since when no consumer could be made.
    failing: Option<Instant>,
    /// Since when the stream's leader stores nothing.
    stuck: Option<Instant>,
    is_caught_up: bool,
    /// When the consumer last delivered, or the end of the log was last looked for.
    delivered: Instant,
    /// When the writer last sent a heartbeat or a record of it came.
    heard: Instant,
    is_writer_gone: bool,
    must_take_over: bool,
    patience: Duration,
    attempt: Option<Attempt>,
    next_attempt: Instant,
    /// The end that an epoch record is guarded with, where the newest messages are lost and the loss is
    /// accepted.
    forced_end: Option<Sequence>,
    vetoes: usize,
    /// Since when the stream counts messages that nobody delivers.
    uncommitted: Option<Instant>,
    /// Times in a row that the log seemed to have lost records.
    losses: usize,
    elected: Option<Elected>,
    /// Why the last attempt to become the writer was made.
    reason: &'static str,
    /// Why the log can be neither read nor written now, as far as it is known.
    trouble: Option<String>,
    /// The counter of the call whose barrier makes this instance ready.
    ready_counter: Option<u64>,
    ready_sent: Option<Instant>,
    writer_index: LogIndex,
    /// Silence of the consumer, while there is something to deliver, after which another one is made.
    silence: Duration,
    /// When that was last done.
    renewed: Instant,
    progress: (LogIndex, Instant),
    reported: Instant,
    /// When this role began.
    begun: Instant,
    /// When the state of a mirror was last looked at.
    looked: Option<Instant>,
}

enum Event {
    Source(FromSource),
    Attempt(Box<Result<Elected, AttemptError>>),
    Call(NewCall),
    Incoming(Incoming),
    Report(Report),
    Command(Command),
    Answered(Addressed),
    Tick,
}

impl Node {
    /// Follows until an epoch record of this instance is valid.
    pub(in crate::engine) async fn follow(&mut self) -> Result<Elected, NodeError> {
        let now = Instant::now();
        let timeout = self.settings.election_timeout;
        self.nonces.clear();
        let mut following = Following {
            since: self.chain.epoch(),
            source: Source::open(&self.log, &self.chain, RETRY_MIN * OPENING_PAUSES),
            pause: RETRY_MIN,
            failing: None,
            stuck: None,
            is_caught_up: false,
            delivered: now,
            heard: now,
            // The writer of a mirror's log writes to another stream.
            is_writer_gone: self.is_of_this_instance() || self.read_only().is_some(),
            must_take_over: false,
            patience: timeout + timeout.mul_f64(rand::random_range(0.0..1.0)),
            attempt: None,
            next_attempt: now,
            forced_end: None,
            vetoes: 0,
            uncommitted: None,
            losses: 0,
            elected: None,
            reason: "",
            trouble: self.status.known_leader().err().filter(|_| self.is_loaded).map(|reason| reason.0),
            ready_counter: None,
            ready_sent: None,
            writer_index: LogIndex::NONE,
            silence: DELIVERY_SILENCE,
            renewed: now,
            progress: (self.chain.index(), now),
            reported: now,
            begun: now,
            looked: None,
        };
        if self.mode.is_alone() {
            self.status.set_linearizable(false);
        }
        self.entry(Entry::ServerChanged).await;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            let event = tokio::select! {
                event = following.source.next() => Event::Source(event),
                outcome = outcome_of(&mut following.attempt) => Event::Attempt(Box::new(outcome)),
                Some(call) = self.new_calls.recv() => Event::Call(call),
                Some(incoming) = self.incoming.recv() => Event::Incoming(incoming),
                Some(report) = self.reports.recv() => Event::Report(report),
                Some(command) = self.commands.recv() => Event::Command(command),
                Some(answer) = self.answered.recv() => Event::Answered(answer),
                _ = tick.tick() => Event::Tick,
            };
            match self.handle(&mut following, event).await {
                Ok(None) => {}
                Ok(Some(elected)) => break Ok(elected),
                Err(broken) => break Err(broken),
            }
        };
        if let Some(attempt) = following.attempt.take() {
            attempt.task.abort();
        }
        outcome
    }

    async fn handle(
        &mut self,
        following: &mut Following,
        event: Event,
    ) -> Result<Option<Elected>, NodeError> {
        match event {
            Event::Source(event) => self.read(following, event).await?,
            Event::Attempt(outcome) => self.attempted(following, *outcome)?,
            Event::Call(call) => {
                self.open_calls(call).await;
                self.send_calls(following).await;
            }
            Event::Incoming(incoming) => self.receive(following, incoming).await,
            Event::Report(report) => return Err(end_of(report)),
            Event::Command(Command::Resign(done)) => {
                self.is_leaving = true;
                done.send(()).ok();
            }
            Event::Command(Command::Reached(index, answer)) => drop(answer.send(self.is_reached(index))),
            // The answer is dropped: what another instance appends cannot be held.
            Event::Command(Command::Hold(_)) => {}
            Event::Command(Command::Regroup(others, done)) => {
                self.regroup(others, done);
                following.is_writer_gone = self.is_of_this_instance();
                self.consume_anew(following);
            }
            Event::Answered(answer) => self.send_answers(vec![answer]).await,
            Event::Tick => self.follow_tick(following).await?,
        }
        if self.is_own(self.chain.nonce()) && self.chain.is_whole() && self.chain.epoch() > following.since {
            return self.become_writer(following).await.map(Some);
        }
        Ok(None)
    }

    async fn read(&mut self, following: &mut Following, event: FromSource) -> Result<(), NodeError> {
        match event {
            FromSource::Opened { pending } => {
                following.is_caught_up = pending == 0;
                following.losses = 0;
                following.failing = None;
                if !self.is_loaded {
                    let of = self.loaded_messages + pending;
                    if of > 0 {
                        tracing::info!(messages = of, "loading the log");
                    }
                    self.status.set_phase(Phase::Loading { messages: self.loaded_messages, of: Some(of) });
                }
            }
            FromSource::Delivered(Delivered { messages, is_last }) => {
                if following.is_caught_up || self.is_ready {
                    following.heard = Instant::now();
                }
                following.pause = RETRY_MIN;
                following.delivered = Instant::now();
                following.trouble = None;
                following.is_caught_up = is_last;
                if !self.is_loaded {
                    self.loaded_messages += messages.len() as u64;
                    self.report_progress(following);
                }
                if !messages.is_empty() {
                    following.vetoes = 0;
                    following.uncommitted = None;
                    following.stuck = None;
                }
                let before = self.chain.epoch();
                let barriers = self.take(messages).await?;
                if self.chain.epoch() != before {
                    // There is another writer than the one that was given up.
                    following.is_writer_gone = self.is_of_this_instance();
                    following.must_take_over = false;
                    following.heard = if following.is_caught_up || self.is_ready {
                        Instant::now()
                    } else {
                        following.heard
                    };
                    following.ready_sent = None;
                }
                let is_ready = |operation: &crate::record::OperationId| {
                    operation.instance == self.start && Some(operation.counter) == following.ready_counter
                };
                if barriers.iter().any(is_ready) {
                    self.ready().await?;
                }
                self.send_calls(following).await;
            }
            FromSource::Lost { mismatch, is_certain } => {
                following.losses += 1;
                let is_certain = is_certain || self.log.copies() == 1 || following.losses >= VETOES;
                if is_certain && !self.mode.is_moving() {
                    return Err(NodeError::Fatal(DataError::Replaced(mismatch)));
                }
                tracing::warn!(what = mismatch.to_string(), "the log seems to have lost records");
                following.source = Source::Pausing(Instant::now() + following.pause);
                following.pause = (following.pause * 2).min(RETRY_MAX);
            }
            FromSource::Failed(error) => {
                if let ConsumeError::Wire(WireError::Server(text)) = &error {
                    self.report_refusal(text);
                }
                tracing::debug!(%error, position = %self.chain.position(), "the log cannot be read now");
                if self.mode.is_alone() || !self.is_ready {
                    self.status.set_no_leader(error.to_string());
                }
                following.trouble = Some(error.to_string());
                self.log.try_another_server();
                let failing = following.failing.get_or_insert_with(Instant::now);
                if failing.elapsed() > 2 * self.settings.election_timeout {
                    // The requests for consumers may go to a server that has lost its cluster.
                    self.log.connection().leave_server();
                }
                following.is_caught_up = false;
                following.source = Source::Pausing(Instant::now() + following.pause);
                following.pause = (following.pause * 2).min(RETRY_MAX);
            }
            FromSource::Paused => {
                self.entry(Entry::ServerChanged).await;
                self.consume_anew(following);
            }
        }
        Ok(())
    }

    /// Logs a refusal of NATS once, such as a right that is missing.
    fn report_refusal(&mut self, text: &str) {
        if self.reported_refusal.as_deref() != Some(text) {
            tracing::warn!(refusal = text, "NATS refuses what this instance does");
            self.reported_refusal = Some(text.to_owned());
        }
    }

    fn report_progress(&self, following: &mut Following) {
        let known = self.status.phase().borrow().clone();
        if let Phase::Loading { of, .. } = known {
            self.status.set_phase(Phase::Loading { messages: self.loaded_messages, of });
            if following.reported.elapsed() >= Duration::from_secs(2) {
                following.reported = Instant::now();
                tracing::info!(messages = self.loaded_messages, of, "still loading the log");
            }
        }
    }

    /// The barrier of this instance has come, so it has read everything that the log held when it asked.
    async fn ready(&mut self) -> Result<(), NodeError> {
        self.is_ready = true;
        // The writer may hand over to this instance from now on.
        self.last_alive = None;
        self.send_status().await;
        self.loaded().await
    }

    pub(in crate::engine) async fn loaded(&mut self) -> Result<(), NodeError> {
        if !self.is_loaded {
            self.is_loaded = true;
            let first = self.log.facts().before_first.next().max(self.chain.trim_sequence());
            let holes = self.chain.holes();
            self.entry(Entry::Loaded { first, holes }).await;
            // The applier publishes everything before it answers. It gives no answer where something is lost
            // or damaged.
            if self.digest().await.is_none() {
                return Err(self.end_of_applier().await);
            }
            self.settings.mark = None;
            let state = self.reader.snapshot();
            tracing::info!(revision = %state.revision, index = %state.log_index, keys = state.index.live(), "everything is loaded");
            self.status.set_phase(Phase::Serving);
        }
        Ok(())
    }

    async fn follow_tick(&mut self, following: &mut Following) -> Result<(), NodeError> {
        self.expire();
        self.unsend_unanswered();
        self.send_calls(following).await;
        self.look_for_end(following).await;
        self.send_status().await;
        self.watch_lag(following);
        if let Some(reason) = self.read_only() {
            return self.read_only_tick(following, reason).await;
        }
        if !self.mode.is_alone() && self.is_ready {
            let is_heard = following.heard.elapsed() < 3 * self.settings.election_timeout;
            match self.epoch.as_ref().filter(|_| is_heard && !self.is_of_this_instance()) {
                Some(epoch) => self.status.set_leader(epoch.member.id),
                None => self.status.set_no_leader(self.no_leader(following)),
            }
        }
        if following.attempt.is_none()
            && self.wants_to_lead(following)
            && Instant::now() >= following.next_attempt
        {
            self.attempt(following);
        }
        Ok(())
    }

    /// Finds the end of a log whose store is damaged: it counts messages that it cannot deliver, so the count
    /// proves nothing.
    async fn look_for_end(&self, following: &mut Following) {
        if !self.mode.is_alone()
            || following.is_caught_up
            || !matches!(following.source, Source::Reading(_))
            || following.delivered.elapsed() < END_SILENCE
        {
            return;
        }
        following.delivered = Instant::now();
        let position = self.chain.position();
        if matches!(self.log.has_message_behind(position).await, Ok(false)) {
            tracing::warn!(%position, "nats-server counts messages that it does not deliver");
            following.is_caught_up = true;
        }
    }

    fn no_leader(&self, following: &Following) -> String {
        let outage = self.log.connection().link.borrow().outage();
        let trouble = outage.or_else(|| following.trouble.clone());
        trouble.unwrap_or_else(|| "no instance has taken over yet".to_owned())
    }

    /// An instance that stays behind the writer reads from another server. If nothing at all is delivered, it
    /// first makes another consumer: a direct one does not outlive the stream leader that made it, and its
    /// heartbeats would be missed much later.
    fn watch_lag(&mut self, following: &mut Following) {
        let index = self.chain.index();
        let is_behind = index < following.writer_index || following.elected.is_some();
        if is_behind
            && matches!(following.source, Source::Reading(_))
            && following.delivered.elapsed() > following.silence
            && following.renewed.elapsed() > following.silence
        {
            tracing::debug!(%index, writer = %following.writer_index, "nothing is delivered; another consumer is made");
            following.renewed = Instant::now();
            following.silence = (following.silence * 2).min(2 * self.settings.election_timeout);
            self.consume_anew(following);
        }
        if index > following.progress.0 || index >= following.writer_index {
            following.progress = (index, Instant::now());
            following.silence = DELIVERY_SILENCE;
        } else if following.progress.1.elapsed() > 2 * self.settings.election_timeout
            && matches!(following.source, Source::Reading(_))
        {
            tracing::warn!(%index, writer = %following.writer_index, "this instance lags; it reads from another server");
            self.log.try_another_server();
            following.progress.1 = Instant::now();
            self.consume_anew(following);
        }
    }

    /// Leaves a server whose stream stores nothing: the cluster may have lost it, and have another leader.
    fn leave_if_stuck(&mut self, following: &mut Following) {
        let stuck = following.stuck.get_or_insert_with(Instant::now);
        if self.log.facts().replicas > 1 && stuck.elapsed() > 2 * self.settings.election_timeout {
            following.stuck = None;
            self.leave_server(following);
        }
    }

    /// Leaves the server, and makes a consumer on the next one.
    fn leave_server(&mut self, following: &mut Following) {
        self.log.connection().leave_server();
        following.is_caught_up = false;
        following.source = Source::Pausing(Instant::now() + RETRY_MIN);
    }

    /// Makes another consumer, and forgets the attempts to become the writer that were made under the last
    /// one: their epoch records prove nothing about the end of another server's copy.
    fn consume_anew(&mut self, following: &mut Following) {
        if let Some(attempt) = following.attempt.take() {
            attempt.task.abort();
        }
        following.elected = None;
        self.nonces.clear();
        (following.ready_counter, following.ready_sent) = (None, None);
        let patience = following.pause * OPENING_PAUSES;
        following.source = Source::open(&self.log, &self.chain, patience);
    }
}
