//! Follows a stream from a position on, and notices when the stream is no longer the one it followed.
//!
//! JetStream has no memory of what a reader has seen. After a power loss a stream can end earlier than it did and then
//! reuse sequences; a consumer asked to start behind the end just waits, and later delivers the wrong messages
//! without a word. So before every (re)creation of the consumer, and now and then while it runs, the follower checks
//! that the stream is the same one, that it reaches at least to where we are, and that the last message we saw is
//! still what we saw. If not, it says [`Followed::Lost`] and begins again from the first message.
//!
//! The messages of the stream's only writer need not be brought by a consumer: the writer knows them and hands them over
//! with their acknowledgements ([`Own`]). They count when they are next in the sequence, and once they all come so, the
//! consumer goes. It comes back where a sequence is missing for longer than an acknowledgement takes.
//!
//! Progress is the consumer's position, not a message: the stream's last sequence may belong to no message at all.
//!
//! What a stream holds at the start may be much; where the connection is a simple one, a [`Replay`] brings it.

use super::api::{Api, ApiError, StreamInfo};
use super::connect::{Connection, Link};
use super::record::{OperationId, Record};
use super::replay::Replay;
use crate::types::Sequence;
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// An idle consumer reports its position this often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Silence after which a consumer counts as gone.
const SILENCE: Duration = Duration::from_millis(1_750);
/// Distance of the checks while all is well.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// Messages handed over at once, and about how many bytes of them: what waits for the applier is bounded by both.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 4 << 20;
/// Own messages in a row, none missing between them, after which a consumer is of no use any more.
const RUN: usize = 32;
/// Own messages that may wait for the follower; what does not fit is brought by a consumer.
const OWN_WAITING: usize = 8 * 1024;
/// How long a message that is there may be missing before a consumer is asked for it.
const MISSING: Duration = Duration::from_millis(50);
/// Distance of the checks without a consumer, whose heartbeats would tell that the stream is gone.
const OWN_CHECK_INTERVAL: Duration = Duration::from_secs(2);
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// One message as the consumer delivered it.
#[derive(Clone, Debug)]
pub struct RawMessage {
    /// Position.
    pub sequence: Sequence,
    /// Server time it was stored at, nanoseconds since 1970.
    pub time: i64,
    /// Subject without the prefix.
    pub subject: String,
    /// Headers, if it has any.
    pub headers: Option<HeaderMap>,
    /// Content; shares the connection's read buffer.
    pub payload: Bytes,
}

/// What a follower reports, in order.
#[derive(Debug)]
pub enum Followed {
    /// The stream is there, and what it holds comes now.
    Up {
        /// The stream's last sequence.
        last: Sequence,
        /// The messages that it holds, those that are known already included.
        messages: u64,
    },
    /// More messages, ascending.
    Messages(Vec<RawMessage>),
    /// The same, decoded: those of the stream's only writer, and what a replay brings.
    Records(Vec<Record>),
    /// There is nothing more up to here.
    Position(Sequence),
    /// The stream is not what it was: forget all of it. Everything comes again from its first message.
    Lost(String),
    /// No messages for now, and why.
    Down(String),
}

/// A message that this process wrote.
#[derive(Debug)]
pub struct Own {
    /// What the stream holds now.
    pub record: Record,
    /// When it was sent, or before.
    pub sent: Instant,
}

/// Where the only writer of a stream hands its messages over.
#[derive(Debug)]
pub struct OwnMessages {
    messages: mpsc::Sender<Own>,
    wanted: watch::Sender<Sequence>,
}

/// The other side of [`OwnMessages`].
#[derive(Debug)]
pub struct OwnReceiver {
    messages: mpsc::Receiver<Own>,
    wanted: watch::Receiver<Sequence>,
}

impl OwnMessages {
    /// Both sides.
    pub fn new() -> (OwnMessages, OwnReceiver) {
        let (messages, receiver) = mpsc::channel(OWN_WAITING);
        let (wanted, wanted_receiver) = watch::channel(Sequence::NONE);
        (OwnMessages { messages, wanted }, OwnReceiver { messages: receiver, wanted: wanted_receiver })
    }

    /// Hands over an acknowledged message.
    pub fn tell(&self, own: Own) {
        // One that is missing is brought by a consumer.
        drop(self.messages.try_send(own));
    }

    /// Says that the stream reaches to `position`.
    pub fn want(&self, position: Sequence) {
        self.wanted.send_if_modified(|wanted| {
            let is_more = position > *wanted;
            *wanted = position.max(*wanted);
            is_more
        });
    }
}

/// What tells a message from another one at the same place.
#[derive(Clone, Copy, Debug)]
enum Fingerprint {
    /// When it was stored.
    Time(i64),
    /// Who wrote it.
    Operation(OperationId),
}

/// Where a follower begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// Everything up to here is known.
    pub position: Sequence,
    /// Whether its messages may be decoded as those of a key stream: a faster way then brings what there is in bulk.
    pub is_decoded: bool,
}

/// Follows one stream in a task of its own.
#[derive(Debug)]
pub struct Follower {
    api: Api,
    connection: Connection,
    stream: String,
    prefix: String,
    position: Sequence,
    is_decoded: bool,
    created: Option<String>,
    /// The newest message seen, to recognise the stream by.
    fingerprint: Option<(Sequence, Fingerprint)>,
    own: Option<OwnReceiver>,
    /// The last own message, and how many before it came without one missing.
    last_own: Sequence,
    run: usize,
    /// Own messages that are not next yet.
    ahead: BTreeMap<Sequence, Record>,
    /// Messages sent before this may be acknowledged by a server, and be in a stream, of before the last check.
    since: Instant,
    reports: mpsc::Sender<Followed>,
}

#[derive(Deserialize)]
struct ConsumerAnswer {
    name: String,
    num_pending: u64,
}

/// A run of the consumer ended.
enum Break {
    /// Nobody reads the reports any more.
    Closed,
    /// The stream changed.
    Lost(String),
    /// Try again.
    Retry(String),
}

impl From<ApiError> for Break {
    fn from(error: ApiError) -> Break {
        if error.err_code() == Some(ApiError::STREAM_NOT_FOUND) {
            return Break::Retry(format!("the stream is gone: {error}"));
        }
        Break::Retry(error.to_string())
    }
}

impl Follower {
    /// Starts following `stream`, whose subjects begin with `prefix`. The connection should be used for nothing that
    /// must not wait behind a long replay. `own` brings the messages of this process if nobody else writes to the stream.
    pub fn spawn(
        connection: Connection,
        stream: &str,
        prefix: &str,
        start: Start,
        capacity: usize,
        own: Option<OwnReceiver>,
    ) -> mpsc::Receiver<Followed> {
        let (reports, receiver) = mpsc::channel(capacity);
        let follower = Follower {
            api: Api::new(connection.client.clone()),
            connection,
            stream: stream.to_owned(),
            prefix: prefix.to_owned(),
            position: start.position,
            is_decoded: start.is_decoded,
            created: None,
            fingerprint: None,
            own,
            last_own: Sequence::NONE,
            run: 0,
            ahead: BTreeMap::new(),
            since: Instant::now(),
            reports,
        };
        tokio::spawn(follower.run());
        receiver
    }

    async fn run(mut self) {
        let mut pause = RETRY_MIN;
        loop {
            let began = Instant::now();
            match self.follow().await {
                Ok(()) | Err(Break::Closed) => return,
                Err(Break::Lost(reason)) => {
                    tracing::error!(target: "jetway::jetstream", stream = self.stream, reason, "the stream is not what it was; loading it afresh");
                    self.position = Sequence::NONE;
                    self.fingerprint = None;
                    self.created = None;
                    if self.reports.send(Followed::Lost(reason)).await.is_err() {
                        return;
                    }
                }
                Err(Break::Retry(cause)) => {
                    tracing::debug!(target: "jetway::jetstream", stream = self.stream, cause, "not following");
                    if self.reports.send(Followed::Down(cause)).await.is_err() {
                        return;
                    }
                    if began.elapsed() > RETRY_MAX {
                        pause = RETRY_MIN;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// The epoch check: is this still the stream that we know up to our position?
    async fn check(&mut self) -> Result<StreamInfo, Break> {
        let info = self.checking().await?;
        self.created.get_or_insert_with(|| info.created.clone());
        Ok(info)
    }

    /// [`Follower::check`] of what is known now, apart from the follower, which may go on meanwhile.
    fn checking(&self) -> impl Future<Output = Result<StreamInfo, Break>> + Send + use<> {
        let (api, stream, known) = (self.api.clone(), self.stream.clone(), self.created.clone());
        let (position, fingerprint) = (self.position, self.fingerprint);
        async move {
            let info = api.stream_info(&stream).await?;
            if !info.is_from_leader() {
                return Err(Break::Retry("the stream has no leader".into()));
            }
            if let Some(lost) = &info.state.lost {
                tracing::error!(target: "jetway::jetstream", stream, %lost, "NATS reports messages lost to damage in this stream");
            }
            if known.is_some_and(|created| created != info.created) {
                return Err(Break::Lost(format!("it was created anew at {}", info.created)));
            }
            if info.last() < position {
                return Err(Break::Lost(format!(
                    "it ends at sequence {} and we had seen {position}: its tail is lost",
                    info.last()
                )));
            }
            if let Some((sequence, fingerprint)) = fingerprint
                && let Some(message) = api.message(&stream, sequence).await?
            {
                let is_another = match fingerprint {
                    Fingerprint::Time(time) => parse_time(&message.time).is_some_and(|stored| stored != time),
                    Fingerprint::Operation(operation) => message.operation() != Some(operation),
                };
                if is_another {
                    return Err(Break::Lost(format!("sequence {sequence} now holds another message")));
                }
            }
            Ok(info)
        }
    }

    async fn follow(&mut self) -> Result<(), Break> {
        let mut link = self.connection.link.clone();
        let generation = {
            let standing = link.wait_for(|link| link.connected).await.map_err(|_| Break::Closed)?;
            standing.generation
        };
        self.since = Instant::now();
        self.ahead.clear();
        let mut is_up = false;
        loop {
            let info = self.check().await?;
            let mut last = info.last();
            if !is_up {
                is_up = true;
                self.report(Followed::Up { last, messages: info.state.messages }).await?;
            }
            let is_far =
                self.position == Sequence::NONE || last.0.saturating_sub(self.position.0) > BATCH as u64;
            if self.is_decoded && is_far && info.state.messages > 0 {
                self.load(last, generation).await?;
                // That took its time, and the server may be another one by now.
                last = self.check().await?.last();
            }
            let mut consumer = self.create_consumer().await?;
            if consumer.pending == 0 {
                self.advance(last).await?;
            }
            let outcome = self.consume(&mut consumer.messages, last, generation).await;
            self.abandon(&consumer.name);
            outcome?;
            drop(consumer);
            tracing::debug!(target: "jetway::jetstream", stream = self.stream, position = %self.position, "acknowledgements tell all there is");
            self.follow_own(generation).await?;
            tracing::debug!(target: "jetway::jetstream", stream = self.stream, position = %self.position, "a message is missing");
        }
    }

    /// Takes what the stream holds up to `last` in bulk, or a part of it: a consumer brings the rest.
    async fn load(&mut self, last: Sequence, generation: u64) -> Result<(), Break> {
        let Some(plain) = self.connection.plain.clone() else { return Ok(()) };
        let inbox = self.connection.client.new_inbox();
        let mut link = self.connection.link.clone();
        let replayed = async {
            let mut replay =
                Replay::open(&plain, &inbox, &self.prefix, SILENCE).await.map_err(Break::Retry)?;
            let consumer = self.consumer_to(&inbox).await?;
            let mut is_whole = consumer.num_pending == 0;
            while !is_whole {
                let batch = tokio::select! {
                    biased;
                    broken = broken(&mut link, generation) => return Err(broken),
                    () = self.reports.closed() => return Err(Break::Closed),
                    batch = replay.next(BATCH, BATCH_BYTES) => batch.map_err(Break::Retry)?,
                };
                if let Some(newest) = batch.records.last() {
                    self.position = newest.sequence;
                    self.fingerprint = Some((newest.sequence, Fingerprint::Time(newest.time)));
                    self.report(Followed::Records(batch.records)).await?;
                }
                if let Some(position) = batch.position {
                    self.advance(position).await?;
                }
                is_whole = batch.is_last || self.position >= last;
            }
            self.abandon(&consumer.name);
            // What lies between the last message and the end we saw before is gone for good.
            self.advance(last).await
        };
        match replayed.await {
            Err(Break::Retry(cause)) => {
                tracing::debug!(target: "jetway::jetstream", stream = self.stream, cause, "the replay ended early");
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn create_consumer(&self) -> Result<Consumer, Break> {
        let client = self.connection.client.clone();
        let inbox = client.new_inbox();
        let messages =
            client.subscribe(inbox.clone()).await.map_err(|error| Break::Retry(error.to_string()))?;
        let created = self.consumer_to(&inbox).await?;
        Ok(Consumer { name: created.name, messages, pending: created.num_pending })
    }

    /// Has the messages after our position sent to `inbox`.
    async fn consumer_to(&self, inbox: &str) -> Result<ConsumerAnswer, Break> {
        let name = format!("jetway-{}", inbox.rsplit('.').next().unwrap_or_default());
        let config = json!({
            "stream_name": self.stream,
            "config": {
                "name": name,
                "deliver_subject": inbox,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self.position.next().0,
                "ack_policy": "none",
                "replay_policy": "instant",
                "max_deliver": 1,
                "mem_storage": true,
                "num_replicas": 1,
                "flow_control": true,
                "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
                "inactive_threshold": 30_000_000_000_u64,
            }
        });
        Ok(self.api.call(&format!("CONSUMER.CREATE.{}.{name}", self.stream), &config).await?)
    }

    /// Removes a consumer. Best effort: one that is left behind takes itself away when it finds nobody listening.
    fn abandon(&self, consumer: &str) {
        let api = self.api.clone();
        let delete = format!("CONSUMER.DELETE.{}.{consumer}", self.stream);
        tokio::spawn(async move {
            if let Err(error) = api.call::<serde_json::Value>(&delete, &serde_json::Value::Null).await {
                tracing::debug!(target: "jetway::jetstream", %error, "consumer left behind");
            }
        });
    }

    /// Takes own messages, in the order of the stream, until one is missing.
    async fn follow_own(&mut self, generation: u64) -> Result<(), Break> {
        let mut link = self.connection.link.clone();
        let mut check = tokio::time::interval_at(Instant::now() + OWN_CHECK_INTERVAL, OWN_CHECK_INTERVAL);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut end = Sequence::NONE;
        let mut missing: Option<(Sequence, Instant)> = None;
        let mut checking = None;
        loop {
            let Some(own) = &mut self.own else { return Ok(()) };
            let known = *own.wanted.borrow_and_update();
            let known = known.max(end).max(self.ahead.last_key_value().map_or(Sequence::NONE, |(at, _)| *at));
            missing = missing.filter(|(sequence, _)| *sequence > self.position).or_else(|| {
                (known > self.position).then(|| (self.position.next(), Instant::now() + MISSING))
            });
            let given_up = async {
                match missing {
                    Some((_, at)) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                broken = broken(&mut link, generation) => return Err(broken),
                message = own.messages.recv() => {
                    let message = message.ok_or(Break::Closed)?;
                    self.take_own(Some(message)).await?;
                }
                () = given_up => return Ok(()),
                () = self.reports.closed() => return Err(Break::Closed),
                _ = check.tick(), if checking.is_none() => checking = Some(Box::pin(self.checking())),
                // Only asked where there is one.
                checked = async { checking.as_mut().expect("a check under way").await }, if checking.is_some() => {
                    checking = None;
                    end = checked?.last();
                }
                wants = own.wanted.changed() => wants.map_err(|_| Break::Closed)?,
            }
        }
    }

    /// Takes `message` and the own messages that have come with it, and passes on what is next in the sequence.
    async fn take_own(&mut self, message: Option<Own>) -> Result<(), Break> {
        let mut bytes = 0;
        // All at once: this is the largest of what a write allocates, and growing it cost more than all the rest here.
        let waiting = self.own.as_ref().map_or(0, |own| own.messages.len()) + self.ahead.len();
        let mut taken = Vec::with_capacity((waiting + 1).min(BATCH));
        let mut next = message;
        while let Some(Own { record, sent }) = next {
            if sent >= self.since {
                self.run = if record.sequence == self.last_own.next() { self.run + 1 } else { 1 };
                self.last_own = record.sequence;
            }
            if sent >= self.since && record.sequence > self.position {
                bytes += record.size();
                if record.sequence == self.position.next() {
                    self.pass(record, &mut taken);
                } else {
                    self.ahead.insert(record.sequence, record);
                }
            }
            let is_room = taken.len() < BATCH && bytes < BATCH_BYTES;
            next = self.own.as_mut().filter(|_| is_room).and_then(|own| own.messages.try_recv().ok());
        }
        while let Some(entry) = self.ahead.first_entry().filter(|entry| *entry.key() <= self.position.next())
        {
            let record = entry.remove();
            if record.sequence > self.position {
                self.pass(record, &mut taken);
            }
        }
        // More than that is not ahead of its time, but a consumer is far behind.
        if self.ahead.len() > BATCH {
            self.ahead.clear();
        }
        if taken.is_empty() { Ok(()) } else { self.report(Followed::Records(taken)).await }
    }

    fn pass(&mut self, record: Record, to: &mut Vec<Record>) {
        self.position = record.sequence;
        if let Some(operation) = record.operation() {
            self.fingerprint = Some((record.sequence, Fingerprint::Operation(operation)));
        }
        to.push(record);
    }

    async fn consume(
        &mut self,
        messages: &mut Subscriber,
        last: Sequence,
        generation: u64,
    ) -> Result<(), Break> {
        let mut link = self.connection.link.clone();
        let mut expected_delivery = 1;
        self.run = 0;
        let mut check = tokio::time::interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.run >= RUN && self.position >= last {
                return Ok(());
            }
            let first = tokio::select! {
                biased;
                own = next_own(&mut self.own) => {
                    self.take_own(Some(own)).await?;
                    continue;
                }
                message = tokio::time::timeout(SILENCE, messages.next()) => match message {
                    Ok(Some(message)) => message,
                    Ok(None) => return Err(Break::Retry("the subscription ended".into())),
                    Err(_) => return Err(Break::Retry("no heartbeat from the consumer".into())),
                },
                broken = broken(&mut link, generation) => return Err(broken),
                _ = check.tick() => {
                    self.check().await?;
                    continue;
                }
                () = self.reports.closed() => return Err(Break::Closed),
            };
            let mut batch = Vec::new();
            let mut bytes = 0;
            let mut position = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match self.take(message, &mut expected_delivery).await? {
                    // An acknowledgement was faster.
                    Taken::Message(message, _) if message.sequence <= self.position => {}
                    Taken::Message(message, pending) => {
                        self.position = message.sequence;
                        self.fingerprint = Some((message.sequence, Fingerprint::Time(message.time)));
                        bytes += message.payload.len();
                        batch.push(message);
                        if pending == 0 && self.position < last {
                            // What lies between the last message and the end we saw before is gone for good.
                            self.position = last;
                            position = Some(last);
                        }
                    }
                    Taken::Position(at) if at > self.position => {
                        self.position = at;
                        position = Some(at);
                    }
                    Taken::Position(_) | Taken::Nothing => {}
                }
                next = if batch.len() < BATCH && bytes < BATCH_BYTES {
                    messages.next().now_or_never().flatten()
                } else {
                    None
                };
            }
            if !batch.is_empty() {
                self.report(Followed::Messages(batch)).await?;
            }
            if let Some(position) = position {
                self.report(Followed::Position(position)).await?;
            }
            if !self.ahead.is_empty() {
                self.take_own(None).await?;
            }
        }
    }

    async fn take(&self, message: Message, expected_delivery: &mut u64) -> Result<Taken, Break> {
        if let Some(status) = message.status {
            if status.as_u16() != 100 {
                return Err(Break::Retry(format!("consumer status {status}: {:?}", message.description)));
            }
            let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name));
            let stalled = header("Nats-Consumer-Stalled").map(|subject| subject.as_str().to_owned());
            if let Some(subject) = message.reply.as_ref().map(ToString::to_string).or(stalled) {
                let answered = self.connection.client.publish(subject, Bytes::new()).await;
                answered.map_err(|error| Break::Retry(error.to_string()))?;
                return Ok(Taken::Nothing);
            }
            let number = |name: &str| header(name).and_then(|value| value.as_str().parse::<u64>().ok());
            if number("Nats-Last-Consumer").is_some_and(|delivered| delivered + 1 != *expected_delivery) {
                return Err(Break::Retry("deliveries are missing".into()));
            }
            return Ok(
                number("Nats-Last-Stream").map_or(Taken::Nothing, |last| Taken::Position(Sequence(last)))
            );
        }
        let delivery = message.reply.as_deref().and_then(Delivery::parse);
        let Some(delivery) = delivery else {
            return Err(Break::Retry("a message without delivery data".into()));
        };
        if delivery.number != *expected_delivery {
            return Err(Break::Retry("deliveries are missing".into()));
        }
        *expected_delivery += 1;
        let subject = message.subject.strip_prefix(self.prefix.as_str()).unwrap_or_default().to_owned();
        let Delivery { sequence, time, pending, .. } = delivery;
        let Message { headers, payload, .. } = message;
        Ok(Taken::Message(RawMessage { sequence, time, subject, headers, payload }, pending))
    }

    async fn advance(&mut self, to: Sequence) -> Result<(), Break> {
        if to > self.position {
            self.position = to;
            self.report(Followed::Position(to)).await?;
        }
        Ok(())
    }

    async fn report(&self, report: Followed) -> Result<(), Break> {
        self.reports.send(report).await.map_err(|_| Break::Closed)
    }
}

/// Waits until the connection is not the one of `generation` any more.
async fn broken(link: &mut watch::Receiver<Link>, generation: u64) -> Break {
    match link.wait_for(|link| !link.connected || link.generation != generation).await {
        Ok(link) => Break::Retry(link.cause.clone().unwrap_or_else(|| "NATS reconnected".into())),
        Err(_) => Break::Closed,
    }
}

/// The next own message; never where there is nobody to hand them over.
async fn next_own(own: &mut Option<OwnReceiver>) -> Own {
    if let Some(own) = own
        && let Some(message) = own.messages.recv().await
    {
        return message;
    }
    std::future::pending().await
}

struct Consumer {
    name: String,
    messages: Subscriber,
    /// Messages it had to deliver when it was made.
    pending: u64,
}

enum Taken {
    Message(RawMessage, u64),
    Position(Sequence),
    Nothing,
}

/// What the reply subject of a delivery tells.
pub(super) struct Delivery {
    pub(super) sequence: Sequence,
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) time: i64,
    /// How many are still to be delivered.
    pub(super) pending: u64,
}

impl Delivery {
    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<number>.<time>.<pending>`, or the longer form that has
    /// domain and account in front of the stream.
    pub(super) fn parse(reply: &str) -> Option<Delivery> {
        let before = match reply.split('.').count() {
            9 => 5,
            11.. => 7,
            _ => return None,
        };
        let mut numbers = reply.split('.').skip(before).map(|token| token.parse::<u64>().ok());
        let mut number = || numbers.next()?;
        Some(Delivery {
            sequence: Sequence(number()?),
            number: number()?,
            time: number()? as i64,
            pending: number()?,
        })
    }
}

/// Nanoseconds since 1970 of an RFC 3339 time in UTC, the form in which JetStream writes times.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    use time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_delivery_subjects_are_read() {
        for reply in [
            "$JS.ACK.S.c.1.17.3.1700.9",
            "$JS.ACK.dom.acct.S.c.1.17.3.1700.9",
            "$JS.ACK._.acct.S.c.1.17.3.1700.9.xyz",
        ] {
            let delivery = Delivery::parse(reply).expect(reply);
            assert_eq!(
                (delivery.sequence, delivery.number, delivery.time, delivery.pending),
                (Sequence(17), 3, 1700, 9)
            );
        }
        assert!(Delivery::parse("_INBOX.x").is_none());
    }

    #[test]
    fn times_are_exact_to_the_nanosecond() {
        assert_eq!(parse_time("1970-01-01T00:00:01.000000002Z"), Some(1_000_000_002));
        assert_eq!(parse_time("yesterday"), None);
    }
}
