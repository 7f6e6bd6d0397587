//! The role of an instance that does not write: it reads the log, sends its calls to the writer, and takes
//! over where there is none.

mod calls;
mod lag;
mod pace;
mod read;
mod read_only;
mod receive;
mod source;
mod takeover;

use crate::engine::NewCall;
use crate::engine::apply::{Entry, Report};
use crate::engine::node::{Command, Node, NodeError, end_of};
use crate::engine::proposal::Addressed;
use crate::log::Incoming;
use crate::types::{Epoch, LogIndex, Sequence};
use pace::Pace;
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
/// The time in which a consumer must have been made, in pauses before the next attempt: a fifth of a second
/// at first, 10 s once many attempts have failed.
const OPENING_PAUSES: u32 = 10;
/// The first [`Following::silence`]: three heartbeats of the writer, as an unloaded stream delivers in
/// milliseconds.
const DELIVERY_SILENCE: Duration = Duration::from_millis(300);
/// So many answers in a row must show a loss of records before this instance stops for it.
const LOSS_CONFIRMATIONS: usize = 10;

/// The state of the follower role.
struct Following {
    /// The epoch in force when this role began. If it is an own one, its writer has ended.
    since: Epoch,
    source: Source,
    /// The pace of the source.
    pace: Pace,
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
    takeover_timeout: Duration,
    attempt: Option<Attempt>,
    next_attempt: Instant,
    /// The end that an epoch record is guarded with, where the newest messages are lost and the loss is
    /// accepted.
    forced_end: Option<Sequence>,
    shorter_logs: usize,
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
        let pace = self.pace();
        self.early_calls.clear();
        let mut following = Following {
            since: self.chain.epoch(),
            source: Source::open(&self.log, &self.chain, RETRY_MIN * OPENING_PAUSES, pace.bytes()),
            pace,
            pause: RETRY_MIN,
            failing: None,
            stuck: None,
            is_caught_up: false,
            delivered: now,
            heard: now,
            // The writer of a mirror's log writes to another stream.
            is_writer_gone: self.is_of_this_instance() || self.read_only().is_some(),
            must_take_over: false,
            takeover_timeout: timeout + timeout.mul_f64(rand::random_range(0.0..1.0)),
            attempt: None,
            next_attempt: now,
            forced_end: None,
            shorter_logs: 0,
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
            Event::Command(Command::Share(links, done)) => {
                self.share(links, done);
                following.is_writer_gone = self.is_of_this_instance();
                self.renew_consumer(following);
            }
            Event::Answered(answer) => self.send_answers(vec![answer]).await,
            Event::Tick => self.follow_tick(following).await?,
        }
        if self.is_own(self.chain.nonce()) && self.chain.is_whole() && self.chain.epoch() > following.since {
            return self.become_writer(following).await.map(Some);
        }
        Ok(None)
    }

    async fn follow_tick(&mut self, following: &mut Following) -> Result<(), NodeError> {
        self.expire();
        self.resend_unanswered();
        self.send_calls(following).await;
        self.find_end(following).await;
        self.watch_pace(following);
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

    fn no_leader(&self, following: &Following) -> String {
        let outage = self.log.connection().link.borrow().outage();
        let trouble = outage.or_else(|| following.trouble.clone());
        trouble.unwrap_or_else(|| "no instance has taken over yet".to_owned())
    }
}
