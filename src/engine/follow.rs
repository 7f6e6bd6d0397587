//! The role of an instance that does not write: it reads the log, sends its calls to the writer, and takes over where there is
//! none.

use super::apply::{Entry, Report};
use super::node::{Break, Command, Node, Open, WAYS_OUT, end_of};
use super::proposal::{
    Addressed, Call, Outcome, Proposal, Waiter, WireAnswers, WireCall, WireCalls, WireLife,
};
use super::status::Phase;
use super::{NewCall, REQUEST_TIMEOUT};
use crate::error::EtcdError;
use crate::log::{
    AppendError, ConsumeError, Consumer, Delivered, Incoming, Log, Pipeline, Serving, WireError,
};
use crate::record::{Body, Chain, EpochStart, FORMAT, Record};
use crate::types::{Epoch, LogIndex, Sequence};
use prost::Message as _;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// How precisely deadlines are kept.
const TICK: Duration = Duration::from_millis(20);
/// Pauses between consumers that fail.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How long a candidate waits for the other instances' answers.
const ASK_TIMEOUT: Duration = Duration::from_millis(150);
/// Reads that may be on their way to the writer at once, each for all that came before it was sent.
const READS_SENT: usize = 2;
/// How often other tasks run before calls are sent.
const YIELDS: usize = 2;
/// Time after which calls are sent again to the same writer: their message may be lost.
const RESEND: Duration = Duration::from_secs(1);
/// How often this instance tells the writer that it lives.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Room in a message for what is not the content of calls.
const MESSAGE_OVERHEAD: usize = 4096;
/// The pause between attempts that find the stream too short.
const SHORT_PAUSE: Duration = Duration::from_millis(300);
/// Silence after which a log that should go on is looked at.
const END_SILENCE: Duration = Duration::from_secs(1);
/// A lost log is declared only after so many answers in a row say so.
const VETOES: usize = 10;

/// The source of messages.
enum Source {
    Opening(JoinHandle<Result<Consumer, OpeningError>>),
    Reading(Box<Consumer>),
    Pausing(Instant),
}

enum FromSource {
    Opened {
        is_caught_up: bool,
    },
    /// The log does not hold what was read of it. A new leader may still be reading; another message is beyond doubt.
    Lost {
        what: String,
        is_certain: bool,
    },
    Delivered(Delivered),
    Failed(ConsumeError),
    Paused,
}

enum OpeningError {
    Consume(ConsumeError),
    Lost { what: String, is_certain: bool },
}

impl<E: Into<ConsumeError>> From<E> for OpeningError {
    fn from(error: E) -> OpeningError {
        OpeningError::Consume(error.into())
    }
}

/// The end of what was read of the log.
#[derive(Clone, Copy)]
struct Known {
    epoch: Epoch,
    nonce: u64,
    index: LogIndex,
    /// The sequences of the last record and of the last epoch record.
    last: Sequence,
    last_epoch: Sequence,
    position: Sequence,
}

impl Known {
    fn of(chain: &Chain) -> Known {
        let (last, last_epoch) = chain.last();
        let (epoch, nonce, index, position) = (chain.epoch(), chain.nonce(), chain.index(), chain.position());
        Known { epoch, nonce, index, last, last_epoch, position }
    }

    /// Fails where the log is not the one that was read: another store may be in the place of the one before.
    async fn compare(&self, log: &Log) -> Result<(), OpeningError> {
        if self.last == Sequence::default() {
            return Ok(());
        }
        let message = log.message_at(self.last).await?;
        let is_same = |record: &Record| {
            (record.epoch, record.nonce, record.index) == (self.epoch, self.nonce, self.index)
        };
        match message {
            Some(record) if record.as_ref().is_some_and(is_same) => return Ok(()),
            Some(_) => {
                let what =
                    format!("another message is at sequence {}, where record {} was", self.last, self.index);
                return Err(OpeningError::Lost { what, is_certain: true });
            }
            None => {}
        }
        // A later trim record permits that the record goes. Epoch records stay for ever.
        let epoch = log.message_at(self.last_epoch).await?;
        if epoch.flatten().is_none_or(|record| (record.epoch, record.nonce) != (self.epoch, self.nonce)) {
            let what =
                format!("the record of epoch {} is not at sequence {} any more", self.epoch, self.last_epoch);
            return Err(OpeningError::Lost { what, is_certain: false });
        }
        let end = log.info().await?.state.last_seq;
        if end < self.position.0 {
            let what = format!("the stream ends at sequence {end}, and it was read up to {}", self.position);
            return Err(OpeningError::Lost { what, is_certain: false });
        }
        Ok(())
    }
}

impl Source {
    fn open(log: &Arc<Log>, chain: &Chain) -> Source {
        let (log, known) = (Arc::clone(log), Known::of(chain));
        Source::Opening(tokio::spawn(async move {
            known.compare(&log).await?;
            Ok(log.consume(known.position).await?)
        }))
    }

    /// The next event. Nothing is lost where the future is dropped.
    async fn next(&mut self) -> FromSource {
        match self {
            Source::Opening(opening) => match opening.await {
                Ok(Ok(consumer)) => {
                    let is_caught_up = consumer.is_caught_up();
                    *self = Source::Reading(Box::new(consumer));
                    FromSource::Opened { is_caught_up }
                }
                Ok(Err(OpeningError::Consume(error))) => FromSource::Failed(error),
                Ok(Err(OpeningError::Lost { what, is_certain })) => FromSource::Lost { what, is_certain },
                Err(_) => FromSource::Failed(ConsumeError::Silent),
            },
            Source::Reading(consumer) => match consumer.next().await {
                Ok(delivered) => FromSource::Delivered(delivered),
                Err(error) => FromSource::Failed(error),
            },
            Source::Pausing(until) => {
                tokio::time::sleep_until(*until).await;
                FromSource::Paused
            }
        }
    }
}

/// An attempt to become the writer.
struct Attempt {
    task: JoinHandle<Result<Elected, AttemptError>>,
}

/// A connection on which an epoch record was acknowledged.
pub(super) struct Elected {
    pub(super) pipeline: Pipeline<Waiter>,
    pub(super) serving: Option<Serving>,
}

enum AttemptError {
    /// Another instance has applied more than this one has read.
    Behind(LogIndex),
    /// The guard did not hold: the log ends later, and the first message behind is there or not.
    Refused {
        end: Sequence,
        has_next: bool,
    },
    /// The stream ends before what this instance has read.
    Short(Sequence),
    Append(AppendError),
    Wire(WireError),
    Other(String),
}

/// The follower's own.
struct Following {
    /// The epoch in force when this began: an own one from before has ended in trouble.
    since: Epoch,
    source: Source,
    pause: Duration,
    is_caught_up: bool,
    /// When something was delivered, or the end was looked for without.
    delivered: Instant,
    /// When the writer was last heard of, directly or by a record.
    heard: Instant,
    /// When the last thing arrived at all.
    is_writer_gone: bool,
    is_told_to_lead: bool,
    patience: Duration,
    attempt: Option<Attempt>,
    next_attempt: Instant,
    /// An end beyond the last message, where messages were lost and the loss is accepted.
    forced_end: Option<Sequence>,
    vetoes: usize,
    /// Times in a row that the log seemed to have lost records.
    losses: usize,
    elected: Option<Elected>,
    /// The counter of the call whose barrier makes this instance ready.
    ready_counter: Option<u64>,
    ready_sent: Option<Instant>,
    writer_index: LogIndex,
    progress: (LogIndex, Instant),
    told: Instant,
}

impl Node {
    /// Follows until an epoch record of this instance is valid.
    pub(super) async fn follow(&mut self) -> Result<Elected, Break> {
        let now = Instant::now();
        let timeout = self.settings.election_timeout;
        self.nonces.clear();
        let mut following = Following {
            since: self.chain.epoch(),
            source: Source::open(&self.log, &self.chain),
            pause: RETRY_MIN,
            is_caught_up: false,
            delivered: now,
            heard: now,
            is_writer_gone: self.is_of_this_instance(),
            is_told_to_lead: false,
            patience: timeout + timeout.mul_f64(rand::random_range(0.0..1.0)),
            attempt: None,
            next_attempt: now,
            forced_end: None,
            vetoes: 0,
            losses: 0,
            elected: None,
            ready_counter: None,
            ready_sent: None,
            writer_index: LogIndex::NONE,
            progress: (self.chain.index(), now),
            told: now,
        };
        if self.settings.is_alone {
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

    async fn handle(&mut self, following: &mut Following, event: Event) -> Result<Option<Elected>, Break> {
        match event {
            Event::Source(event) => self.read(following, event).await?,
            Event::Attempt(outcome) => self.attempted(following, *outcome)?,
            Event::Call(call) => {
                self.open_call(call);
                // All other tasks that are ready run first: calls of theirs go along in the same message.
                for _ in 0..YIELDS {
                    tokio::task::yield_now().await;
                }
                while let Ok(call) = self.new_calls.try_recv() {
                    self.open_call(call);
                }
                self.send_calls(following).await;
            }
            Event::Incoming(incoming) => self.hear(following, incoming).await,
            Event::Report(report) => return Err(end_of(report)),
            Event::Command(Command::Resign(done)) => {
                self.is_leaving = true;
                done.send(()).ok();
            }
            Event::Answered(answer) => self.send_answers(vec![answer]).await,
            Event::Tick => self.follow_tick(following).await?,
        }
        if self.is_own(self.chain.nonce()) && self.chain.is_whole() && self.chain.epoch() > following.since {
            return self.become_writer(following).await.map(Some);
        }
        Ok(None)
    }

    async fn read(&mut self, following: &mut Following, event: FromSource) -> Result<(), Break> {
        match event {
            FromSource::Opened { is_caught_up } => {
                following.is_caught_up = is_caught_up;
                following.losses = 0;
                if !self.is_loaded {
                    let of = self.log.info().await.map(|info| info.state.messages).ok();
                    tracing::info!(messages = of.unwrap_or_default(), "loading the key stream");
                    self.status.set_phase(Phase::Loading { messages: self.loaded_messages, of });
                }
            }
            FromSource::Delivered(Delivered { messages, is_last }) => {
                if following.is_caught_up || self.is_ready {
                    following.heard = Instant::now();
                }
                following.pause = RETRY_MIN;
                following.delivered = Instant::now();
                following.is_caught_up = is_last;
                if !self.is_loaded {
                    self.loaded_messages += messages.len() as u64;
                    self.tell_progress(following);
                }
                if !messages.is_empty() {
                    following.vetoes = 0;
                }
                let before = self.chain.epoch();
                let barriers = self.take(messages).await?;
                if self.chain.epoch() != before {
                    // There is another writer than the one that was given up.
                    following.is_writer_gone = self.is_of_this_instance();
                    following.is_told_to_lead = false;
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
            FromSource::Lost { what, is_certain } => {
                following.losses += 1;
                if is_certain || self.log.facts().replicas == 1 || following.losses >= VETOES {
                    return Err(Break::Fatal(format!(
                        "the log is not the one that was read: {what}. Its store was replaced, restored or purged. Start again to \
                         serve what is there, restore a copy, or accept the loss with --accept-data-loss"
                    )));
                }
                tracing::warn!(what, "the log seems to have lost records");
                following.source = Source::Pausing(Instant::now() + following.pause);
                following.pause = (following.pause * 2).min(RETRY_MAX);
            }
            FromSource::Failed(error) => {
                if let ConsumeError::Wire(WireError::Server(text)) = &error {
                    self.tell_refusal(text);
                }
                tracing::debug!(%error, position = %self.chain.position(), "the log is not followed");
                if self.settings.is_alone || !self.is_ready {
                    self.status.set_leader(Err(error.to_string()));
                }
                self.log.try_another_server();
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

    /// Tells once that NATS has refused something in words, such as a right that is missing.
    fn tell_refusal(&mut self, text: &str) {
        if self.told_refusal.as_deref() != Some(text) {
            tracing::warn!(refusal = text, "NATS refuses what this instance does");
            self.told_refusal = Some(text.to_owned());
        }
    }

    fn tell_progress(&self, following: &mut Following) {
        let known = self.status.phase().borrow().clone();
        if let Phase::Loading { of, .. } = known {
            self.status.set_phase(Phase::Loading { messages: self.loaded_messages, of });
            if following.told.elapsed() >= Duration::from_secs(2) {
                following.told = Instant::now();
                tracing::info!(messages = self.loaded_messages, of, "still loading the key stream");
            }
        }
    }

    /// Everything that the log held when this instance asked has come.
    async fn ready(&mut self) -> Result<(), Break> {
        self.is_ready = true;
        // The writer may hand over to this instance from now on.
        self.last_alive = None;
        self.tell_that_alive().await;
        self.loaded().await
    }

    pub(super) async fn loaded(&mut self) -> Result<(), Break> {
        if !self.is_loaded {
            self.is_loaded = true;
            let first = self.log.facts().before_first.next().max(self.chain.trim_sequence());
            self.entry(Entry::Loaded { first, holes: self.chain.holes() }).await;
            // The applier shows everything before it answers this; it does not where something is lost or damaged.
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

    fn open_call(&mut self, new: NewCall) {
        let call = self.call_of(new);
        match &call.proposal {
            // A trim record is the writer's own business, and a leader is moved by the leader.
            Proposal::Trim { .. } | Proposal::MoveLeader { .. } => call.refuse(EtcdError::NotLeader),
            Proposal::ReadIndex => self.reads.push(call),
            _ => {
                let counter = call.operation.counter;
                self.open.insert(counter, Open { call, sent: None, has_no_room: false });
            }
        }
    }

    /// Sends the calls that are not on their way yet to the writer, if there is one.
    async fn send_calls(&mut self, following: &mut Following) {
        let nonce = self.chain.nonce();
        let Some(courier) = self.courier.clone() else { return };
        if self.chain.epoch() == Epoch(0)
            || self.is_of_this_instance()
            || !following.is_caught_up && !self.is_ready
        {
            return;
        }
        let now = Instant::now();
        let mut calls = Vec::new();
        if !self.is_ready && following.ready_sent.is_none_or(|sent| sent.elapsed() > RESEND) {
            let counter = self.next_operation().counter;
            (following.ready_counter, following.ready_sent) = (Some(counter), Some(now));
            calls.extend(wire_call(counter, None, 0, REQUEST_TIMEOUT, &Proposal::Barrier));
        }
        if self.is_ready && !self.reads.is_empty() && self.reads_sent.len() < READS_SENT {
            let counter = self.next_operation().counter;
            let reads = std::mem::take(&mut self.reads);
            self.reads_sent.insert(counter, (reads, nonce, now));
            calls.extend(wire_call(counter, None, 0, REQUEST_TIMEOUT, &Proposal::ReadIndex));
        }
        if self.is_ready {
            for open in self.open.values_mut().filter(|open| open.sent.is_none()) {
                open.sent = Some((nonce, now));
                calls.extend(wire_of(&open.call));
            }
        }
        if calls.is_empty() {
            return;
        }
        let lowest_open = self.lowest_open(following);
        let most = courier.max_payload().saturating_sub(MESSAGE_OVERHEAD).max(1024);
        for calls in messages_of(calls, most) {
            let message = WireCalls { instance: self.start, lowest_open, calls };
            courier.call(nonce, message.encode_to_vec()).await;
        }
    }

    fn lowest_open(&self, following: &Following) -> u64 {
        let open = self.open.keys().next().copied();
        let reads = self.reads_sent.keys().next().copied();
        [open, reads, following.ready_counter].into_iter().flatten().min().unwrap_or(self.counter)
    }

    async fn hear(&mut self, following: &mut Following, incoming: Incoming) {
        match incoming {
            Incoming::Heartbeat(payload) => {
                let Ok(life) = WireLife::decode(payload) else { return };
                self.hear_of(&life);
                if life.nonce == self.chain.nonce() {
                    following.heard = Instant::now();
                    following.is_writer_gone = false;
                    following.writer_index = LogIndex(life.index);
                    if self.is_loaded {
                        let digest = crate::record::Digest(life.digest);
                        self.entry(Entry::Compare(LogIndex(life.index), digest)).await;
                    }
                }
            }
            Incoming::Alive(payload) => {
                if let Ok(life) = WireLife::decode(payload) {
                    self.hear_of(&life);
                }
            }
            // Calls to an epoch that is over: its writer here answers nothing any more.
            Incoming::Calls { .. } => {}
            Incoming::Answers(payload) => {
                if let Ok(WireAnswers { answers }) = WireAnswers::decode(payload) {
                    for answer in answers {
                        self.answer(answer).await;
                    }
                    self.send_calls(following).await;
                }
            }
            Incoming::NobodyServes(nonce) => {
                if nonce == self.chain.nonce()
                    && following.heard.elapsed() > 3 * self.settings.heartbeat_interval
                {
                    following.is_writer_gone = true;
                }
                self.unsend(nonce);
                if nonce == self.chain.nonce() {
                    following.ready_sent = None;
                }
            }
            Incoming::TakeOver(payload) => {
                let nonce = payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                if nonce == Some(self.chain.nonce()) && self.is_ready {
                    following.is_told_to_lead = true;
                    following.next_attempt = Instant::now();
                }
            }
            Incoming::Ask { reply } => self.tell_index(reply).await,
        }
    }

    pub(super) async fn tell_index(&self, reply: String) {
        if let (true, Some(courier)) = (self.is_ready, &self.courier) {
            let index = self.reader.snapshot().log_index;
            courier.answer(reply, self.life(index, crate::record::Digest(0)).encode_to_vec()).await;
        }
    }

    /// Calls that were sent to the writer of an epoch are to be sent again: nobody took them.
    fn unsend(&mut self, nonce: u64) {
        for open in self.open.values_mut() {
            if open.sent.is_some_and(|(to, _)| to == nonce) {
                open.sent = None;
            }
        }
        let reads = std::mem::take(&mut self.reads_sent);
        self.reads.extend(reads.into_values().flat_map(|(calls, ..)| calls));
    }

    /// Takes the writer's answer to a call.
    async fn answer(&mut self, answer: super::proposal::WireAnswer) {
        let Some(outcome) = answer.outcome() else { return };
        let index = LogIndex(answer.index);
        let mut waiters = Vec::new();
        // A deposed writer's refusal may come when the call is on its way to the next one, which carries it out.
        let is_asked = |nonce: u64| nonce == answer.nonce;
        let is_read = self.reads_sent.get(&answer.counter).is_some_and(|(_, nonce, _)| is_asked(*nonce));
        let is_open = self
            .open
            .get(&answer.counter)
            .is_some_and(|open| open.sent.is_some_and(|(nonce, _)| is_asked(nonce)));
        if !is_read && !is_open {
            return;
        }
        if let Some((calls, ..)) = self.reads_sent.remove(&answer.counter) {
            waiters.extend(calls.into_iter().map(|call| Waiter::new(call, outcome.clone())));
        } else if let Some(open) = self.open.remove(&answer.counter) {
            // Its record shows the outcome, once it comes.
            if matches!(outcome, Ok(Outcome::Written(_))) {
                self.open.insert(answer.counter, open);
                return;
            }
            waiters.push(Waiter::new(open.call, outcome));
        }
        if index <= self.chain.index() {
            for waiter in waiters {
                let is_physical = waiter.call.is_physical();
                self.entry(if is_physical { Entry::WhenSwept(waiter) } else { Entry::Complete(waiter) })
                    .await;
            }
        } else if !waiters.is_empty() {
            self.by_index.entry(index).or_default().append(&mut waiters);
        }
    }

    async fn follow_tick(&mut self, following: &mut Following) -> Result<(), Break> {
        self.expire();
        let now = Instant::now();
        for open in self.open.values_mut() {
            if open.sent.is_some_and(|(_, sent)| now.duration_since(sent) > RESEND) {
                open.sent = None;
            }
        }
        let lost: Vec<u64> = self
            .reads_sent
            .iter()
            .filter(|(_, (_, _, sent))| now.duration_since(*sent) > RESEND)
            .map(|(counter, _)| *counter)
            .collect();
        for counter in lost {
            let reads = self.reads_sent.remove(&counter);
            self.reads.extend(reads.into_iter().flat_map(|(calls, ..)| calls));
        }
        self.send_calls(following).await;
        self.look_for_end(following).await;
        self.tell_that_alive().await;
        self.watch_lag(following);
        if !self.settings.is_alone && self.is_ready {
            let is_heard = following.heard.elapsed() < 3 * self.settings.election_timeout;
            let leader = self.epoch.as_ref().filter(|_| is_heard && !self.is_of_this_instance());
            let leader = leader.map(|epoch| epoch.member.id).ok_or_else(|| self.no_leader());
            self.status.set_leader(leader);
        }
        if following.attempt.is_none() && self.wants_to_lead(following) && now >= following.next_attempt {
            self.attempt(following);
        }
        Ok(())
    }

    /// A damaged store counts messages that it cannot deliver: the end of the log is where no message follows.
    async fn look_for_end(&self, following: &mut Following) {
        if !self.settings.is_alone
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

    fn no_leader(&self) -> String {
        let link = self.log.connection().link.borrow();
        match (link.connected, &link.cause) {
            (false, Some(cause)) => format!("NATS is unreachable: {cause}"),
            _ => "no instance writes now".to_owned(),
        }
    }

    async fn tell_that_alive(&mut self) {
        if self.last_alive.is_none_or(|last| last.elapsed() >= ALIVE_INTERVAL)
            && !self.is_leaving
            && let Some(courier) = &self.courier
        {
            let life = self.life(self.reader.snapshot().log_index, crate::record::Digest(0));
            courier.alive(life.encode_to_vec()).await;
            self.last_alive = Some(Instant::now());
        }
    }

    /// An instance that stays behind the writer reads from another server.
    fn watch_lag(&mut self, following: &mut Following) {
        let index = self.chain.index();
        if index > following.progress.0 || index >= following.writer_index {
            following.progress = (index, Instant::now());
        } else if following.progress.1.elapsed() > 2 * self.settings.election_timeout
            && matches!(following.source, Source::Reading(_))
        {
            tracing::warn!(%index, writer = %following.writer_index, "this instance lags; it reads from another server");
            self.log.try_another_server();
            following.progress.1 = Instant::now();
            self.consume_anew(following);
        }
    }

    /// Makes another consumer. Attempts to become the writer count only for the consumer under which they were made: an own epoch
    /// record of before says nothing of the end of another server's copy.
    fn consume_anew(&mut self, following: &mut Following) {
        if let Some(attempt) = following.attempt.take() {
            attempt.task.abort();
        }
        following.elected = None;
        self.nonces.clear();
        (following.ready_counter, following.ready_sent) = (None, None);
        following.source = Source::open(&self.log, &self.chain);
    }

    fn wants_to_lead(&self, following: &Following) -> bool {
        let is_whole = self.chain.is_whole() && following.is_caught_up;
        let is_free = self.settings.is_alone
            || self.chain.epoch() == Epoch(0)
            || following.is_writer_gone
            || following.is_told_to_lead
            || following.heard.elapsed() > following.patience;
        is_whole && is_free && following.elected.is_none() && !self.is_leaving
    }

    /// Tries to store an epoch record behind everything that was read.
    fn attempt(&mut self, following: &mut Following) {
        let nonce = rand::random::<u64>();
        self.nonces.push(nonce);
        let end = following.forced_end.take().unwrap_or(self.chain.position());
        let (digest, entries) = (tokio::sync::oneshot::channel(), self.entries.clone());
        let record = Record {
            epoch: Epoch(self.chain.epoch().0 + 1),
            nonce,
            index: self.chain.index().next(),
            // While the log is loaded nothing is published yet.
            revision: self.chain.revision().max(self.reader.snapshot().revision),
            place: 1,
            count: 1,
            operation: self.next_operation(),
            body: Body::Barrier,
        };
        let start = EpochStart {
            instance: self.start,
            format: FORMAT,
            member: self.settings.member.clone(),
            election_timeout_ms: self.settings.election_timeout.as_millis() as u64,
            quota_bytes: self.settings.quota_bytes,
            digest: crate::record::Digest(0),
        };
        let (log, courier) = (Arc::clone(&self.log), self.courier.clone());
        let is_asking = courier.is_some() && !following.is_told_to_lead;
        let (index, others) = (self.chain.index(), self.peers.len());
        let timeout = self.settings.election_timeout.max(Duration::from_secs(2));
        tracing::debug!(epoch = %record.epoch, %end, "trying to become the writer");
        let task = tokio::spawn(async move {
            let (sender, receiver) = digest;
            drop(entries.send(Entry::End).await);
            drop(entries.send(Entry::Digest(sender)).await);
            let (applied, digest) =
                receiver.await.map_err(|_| AttemptError::Other("the applier has ended".into()))?;
            if applied != index {
                return Err(AttemptError::Other("something came in between".into()));
            }
            let serving = match &courier {
                Some(courier) => {
                    let serving = courier.serve(nonce).await;
                    Some(serving.map_err(|error| AttemptError::Other(error.to_string()))?)
                }
                None => None,
            };
            if is_asking && let Some(courier) = &courier {
                let answers = courier.ask(others, ASK_TIMEOUT).await;
                let lives = answers.into_iter().filter_map(|answer| WireLife::decode(answer).ok());
                let furthest = lives.map(|life| LogIndex(life.index)).max().unwrap_or_default();
                if furthest > index {
                    return Err(AttemptError::Behind(furthest));
                }
            }
            let body = Body::Epoch(Box::new(EpochStart { digest, ..start }));
            let mut pipeline: Pipeline<Waiter> = log.append_behind(end).await.map_err(AttemptError::Wire)?;
            pipeline.append(Record { body, ..record }, None);
            let mut emitted = Vec::new();
            match tokio::time::timeout(timeout, pipeline.next(&mut emitted)).await {
                Ok(Ok(())) => Ok(Elected { pipeline, serving }),
                Ok(Err(AppendError::Refused { end: Some(stored), .. })) if stored > end => {
                    let has_next = log.has_message_behind(end).await.unwrap_or(true);
                    Err(AttemptError::Refused { end: stored, has_next })
                }
                Ok(Err(AppendError::Refused { end: Some(stored), .. })) if stored < end => {
                    Err(AttemptError::Short(stored))
                }
                Ok(Err(error)) => Err(AttemptError::Append(error)),
                Err(_) => Err(AttemptError::Append(AppendError::Late)),
            }
        });
        following.attempt = Some(Attempt { task });
    }

    fn attempted(
        &mut self,
        following: &mut Following,
        outcome: Result<Elected, AttemptError>,
    ) -> Result<(), Break> {
        following.attempt = None;
        following.next_attempt = Instant::now() + Duration::from_millis(rand::random_range(20..120));
        match outcome {
            // The consumer brings the record.
            Ok(elected) => following.elected = Some(elected),
            Err(AttemptError::Refused { end, has_next: false }) if end > self.chain.position() => {
                // The leader of several replicas counts messages that are not stored yet: only one that stays away is lost.
                let may_come = !self.settings.is_alone && self.log.facts().replicas > 1;
                if may_come && following.vetoes < VETOES {
                    following.vetoes += 1;
                    following.next_attempt = Instant::now() + SHORT_PAUSE;
                } else if self.settings.accepts_loss && !self.is_loaded {
                    following.forced_end = Some(end);
                } else {
                    return Err(Break::Fatal(format!(
                        "the log has lost its newest messages: the stream ends at sequence {end}, and nothing is there behind {}. \
                         It was purged or edited. {WAYS_OUT}",
                        self.chain.position()
                    )));
                }
            }
            Err(AttemptError::Behind(index)) => {
                following.vetoes += 1;
                tracing::warn!(here = %self.chain.index(), there = %index, "another instance has applied more of the log");
                if following.vetoes >= VETOES {
                    return Err(Break::Fatal(format!(
                        "the log has lost its tail: it ends at index {}, and another instance has applied index {index}. \
                         {WAYS_OUT}",
                        self.chain.index()
                    )));
                }
                following.next_attempt = Instant::now() + self.settings.election_timeout;
            }
            Err(AttemptError::Refused { .. }) => {}
            Err(AttemptError::Short(end)) => {
                following.vetoes += 1;
                tracing::warn!(%end, here = %self.chain.position(), "the stream ends before what this instance has read");
                if following.vetoes >= VETOES {
                    return Err(Break::Fatal(format!(
                        "the log has lost its newest messages: the stream ends at sequence {end}, and this instance has read \
                         sequence {}. {WAYS_OUT}",
                        self.chain.position()
                    )));
                }
                following.next_attempt = Instant::now() + self.settings.election_timeout.min(SHORT_PAUSE);
            }
            Err(AttemptError::Append(AppendError::NoSpace(cause))) => {
                self.space.found_full();
                tracing::warn!(cause, "JetStream has no room for an epoch record");
                following.next_attempt = Instant::now() + Duration::from_millis(500);
            }
            Err(error) => {
                if let AttemptError::Wire(WireError::Server(text))
                | AttemptError::Append(AppendError::Wire(WireError::Server(text))) = &error
                {
                    self.tell_refusal(text);
                    self.status.set_leader(Err(format!("NATS says: {text}")));
                }
                let cause = match error {
                    AttemptError::Append(error) => error.to_string(),
                    AttemptError::Wire(error) => error.to_string(),
                    AttemptError::Other(cause) => cause,
                    AttemptError::Refused { .. } | AttemptError::Behind(_) | AttemptError::Short(_) => {
                        String::new()
                    }
                };
                tracing::debug!(cause, "this instance does not write yet");
            }
        }
        Ok(())
    }

    /// This instance's epoch record is valid, and everything before it was sent to the applier.
    async fn become_writer(&mut self, following: &mut Following) -> Result<Elected, Break> {
        if let Some(attempt) = following.attempt.take()
            && let Ok(Ok(elected)) = attempt.task.await
        {
            following.elected = Some(elected);
        }
        let end = self.chain.position();
        let elected =
            following.elected.take().filter(|elected| elected.pipeline.next_sequence() == end.next());
        match elected {
            Some(elected) => Ok(elected),
            // The acknowledgement is lost, or something stands behind the record.
            None => loop {
                match self.log.append_behind(end).await {
                    Ok(pipeline) => {
                        let serving = match &self.courier {
                            Some(courier) => courier.serve(self.chain.nonce()).await.ok(),
                            None => None,
                        };
                        return Ok(Elected { pipeline, serving });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no connection to append on yet");
                        tokio::time::sleep(RETRY_MIN).await;
                    }
                }
            },
        }
    }
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

async fn outcome_of(attempt: &mut Option<Attempt>) -> Result<Elected, AttemptError> {
    match attempt {
        Some(attempt) => match (&mut attempt.task).await {
            Ok(outcome) => outcome,
            Err(error) => Err(AttemptError::Other(error.to_string())),
        },
        None => pending().await,
    }
}

fn wire_of(call: &Call) -> Vec<WireCall> {
    let patience = call.deadline.saturating_duration_since(Instant::now());
    let (user, revision) = call.caller.to_parts();
    wire_call(call.operation.counter, user, revision, patience, &call.proposal)
}

fn wire_call(
    counter: u64,
    user: Option<String>,
    auth_revision: u64,
    patience: Duration,
    proposal: &Proposal,
) -> Vec<WireCall> {
    let Some((kind, content)) = proposal.encode() else { return Vec::new() };
    let patience_ms = patience.as_millis() as u64;
    vec![WireCall { counter, user, auth_revision, patience_ms, kind, content, part: 0, parts: 1 }]
}

/// Calls in as few messages as hold them; one that no message can hold in parts.
fn messages_of(calls: Vec<WireCall>, most: usize) -> Vec<Vec<WireCall>> {
    let mut messages = vec![Vec::new()];
    let mut bytes = 0;
    for call in calls {
        let mut parts = Vec::new();
        if call.content.len() > most / 2 {
            let count = call.content.len().div_ceil(most / 2) as u32;
            for (part, at) in (0..count).zip((0..).step_by(most / 2)) {
                let content = call.content.slice(at..call.content.len().min(at + most / 2));
                parts.push(WireCall { content, part, parts: count, ..call.clone() });
            }
        } else {
            parts.push(call);
        }
        for part in parts {
            let size = part.encoded_len() + 8;
            if bytes > 0 && bytes + size > most {
                messages.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            messages.last_mut().expect("there is always one").push(part);
        }
    }
    messages
}
