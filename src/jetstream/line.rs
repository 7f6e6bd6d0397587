//! Publishes what the only writer of a stream has to say, over a connection of its own.
//!
//! Where nobody else publishes to a stream, its end is known without asking: it is where our last message stands. So each
//! message is guarded by the position right before its own. For JetStream that is one comparison, where a guard by
//! subject makes it look up, and often load, the subject's last message; and no message can get between those of a write
//! that has several, so that these need no atomic batch, for which JetStream makes, syncs and removes files on one
//! replica while the whole stream waits.
//!
//! What is not where it was expected is refused by JetStream, and so is all that was sent behind it. The line then stops
//! until it knows the end again, and refuses by itself whatever was planned on an older state than that.
//!
//! What was sent over a connection that broke may still be on its way into the server, and could fit where other messages
//! have come to stand meanwhile. So a new connection begins behind all places that were spoken for: those that are free are
//! filled with barriers first. Until then nothing is written that such a message does not know of.

use super::api::Api;
use super::connect::{Link, Plain};
use super::plain::{Said, Wire, status};
use super::publisher::{Acknowledgement, Basis, EXPECTED_SEQUENCE, Outgoing, PublishError, stored};
use super::record;
use super::streams::Bucket;
use crate::types::Sequence;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Room for acknowledgements that are read at once.
const BUFFER_BYTES: usize = 64 << 10;
/// What is written at once, but for a message that is larger by itself.
const OUT_BYTES: usize = 256 << 10;
/// Distance of the probes; after two unanswered ones the connection counts as lost.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// How long the acknowledgement that tells the end is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a write whose caller has gone is kept in mind: no plan is older when it is handed over.
const ADRIFT: Duration = Duration::from_mins(1);
/// Subjects that answers come to, used in turn: nats-server keeps what it knows of a subject, and forgets a thousand with
/// each thousand that are new to it.
const SLOTS: usize = 256;
/// Between looks at a stream that is being lengthened.
const FILL_PAUSE: Duration = Duration::from_millis(2);
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// What is handed over, in order.
#[derive(Debug)]
pub(super) enum Order {
    /// Messages that count together or not at all.
    Write { operation: u64, messages: Vec<Outgoing>, basis: Basis },
    /// What was handed over before for these subjects may still come about, and nobody waits for it.
    Adrift(Vec<String>),
}

/// The line itself. Nothing moves but in [`Line::next`].
#[derive(Debug)]
pub(super) struct Line {
    way: Way,
    desk: Desk,
    link: watch::Sender<Link>,
    side: Side,
}

/// Where it leads.
#[derive(Clone, Debug)]
struct Way {
    plain: Plain,
    api: Api,
    stream: String,
    /// Of barriers.
    barrier: String,
    /// What the subjects begin with that answers come to; the number of the connection and a slot follow.
    inbox: String,
}

/// Where writes come in, connection or not.
#[derive(Debug)]
struct Desk {
    orders: mpsc::UnboundedReceiver<Order>,
    /// Writes that were not sent.
    refused: VecDeque<Acknowledgement>,
    adrift: Vec<Adrift>,
}

/// Subjects of a write that nobody waits for.
#[derive(Debug)]
struct Adrift {
    subjects: Vec<String>,
    /// It stands here or before, if at all.
    until: Sequence,
    since: Instant,
}

enum Side {
    Connecting(Pin<Box<dyn Future<Output = Up> + Send>>),
    Up(Box<Up>),
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Side::Up(_)) { "Up" } else { "Connecting" })
    }
}

/// A connection that stands.
struct Up {
    wire: Wire,
    out: Vec<u8>,
    written: usize,
    has_waited: bool,
    headers: Vec<u8>,
    /// Where the stream ends once all is stored that was sent.
    end: Sequence,
    /// Plans on states before this one are too old: they may lack what [`Adrift`] does not name.
    fence: Sequence,
    /// Of this connection alone: what was sent over one before is answered there or not at all.
    inbox: String,
    /// Messages that are not answered, in order, which is also that of the answers.
    in_flight: VecDeque<Sent>,
    /// The number of the next one.
    next: usize,
    /// Of which write a message was refused before its last one, and why.
    spoilt: Option<(u64, PublishError)>,
    certainty: Certainty,
    ping: Interval,
    /// Probes without an answer.
    unanswered: usize,
}

/// What a connection leaves behind when it breaks.
#[derive(Clone, Copy, Debug, Default)]
struct Left {
    /// See [`Up::end`].
    end: Sequence,
    /// Messages that were not answered, the last ones before the end.
    in_flight: usize,
}

/// A message on its way.
#[derive(Debug)]
struct Sent {
    slot: usize,
    operation: u64,
    /// It is not the last one of its write.
    is_part: bool,
    /// Where it is guarded to stand.
    place: Option<Sequence>,
}

/// Whether [`Up::end`] is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    Certain,
    /// Something was refused at this time: what is said to the last write tells.
    Waiting(Instant),
    /// The stream must be asked.
    Lost,
}

impl Line {
    pub(super) fn new(
        plain: Plain,
        api: Api,
        bucket: &Bucket,
        inbox: String,
    ) -> (Line, mpsc::UnboundedSender<Order>, watch::Receiver<Link>) {
        let (sender, orders) = mpsc::unbounded_channel();
        let (link, link_receiver) = watch::channel(Link::default());
        let barrier = format!("{}{}", bucket.keys_prefix, record::BARRIER);
        let way = Way { plain, api, stream: bucket.keys.clone(), barrier, inbox };
        let desk = Desk { orders, refused: VecDeque::new(), adrift: Vec::new() };
        let side = Side::Connecting(Box::pin(way.clone().connect(1, Left::default())));
        (Line { way, desk, link, side }, sender, link_receiver)
    }

    /// What became of a write, one after the other. `None` when nobody can hand over anything any more.
    pub(super) async fn next(&mut self) -> Option<Acknowledgement> {
        loop {
            if let Some(refused) = self.desk.refused.pop_front() {
                return Some(refused);
            }
            match &mut self.side {
                Side::Connecting(connected) => {
                    let up = tokio::select! {
                        biased;
                        up = connected => up,
                        order = self.desk.orders.recv() => {
                            if let Order::Write { operation, .. } = order? {
                                let cause = self.link.borrow().cause.clone().unwrap_or_default();
                                let error = PublishError::NotStored(format!("no connection to NATS: {cause}"));
                                return Some(Acknowledgement { operation, stored: Err(error) });
                            }
                            continue;
                        }
                    };
                    // The new fence is before these as well.
                    self.desk.adrift.clear();
                    self.side = Side::Up(Box::new(up));
                    self.link.send_modify(|link| {
                        *link = Link { connected: true, generation: link.generation + 1, cause: None };
                    });
                }
                Side::Up(up) => match up.next(&self.way, &mut self.desk).await {
                    Ok(None) if self.desk.orders.is_closed() => return None,
                    Ok(None) => {}
                    Ok(acknowledgement) => return acknowledgement,
                    Err(cause) => {
                        tracing::debug!(target: "jetway::jetstream", cause, "the line to NATS is down");
                        self.link.send_modify(|link| {
                            (link.connected, link.cause) = (false, Some(cause));
                        });
                        let number = self.link.borrow().generation + 1;
                        let left = Left { end: up.end, in_flight: up.in_flight.len() };
                        self.side = Side::Connecting(Box::pin(self.way.clone().connect(number, left)));
                    }
                },
            }
        }
    }
}

impl Way {
    /// A connection that takes up what another one has left. Tries for as long as it takes.
    async fn connect(self, number: u64, left: Left) -> Up {
        let mut pause = RETRY_MIN;
        loop {
            match self.try_to_connect(format!("{}{number}.", self.inbox), left).await {
                Ok(up) => return up,
                Err(cause) => tracing::debug!(target: "jetway::jetstream", cause, "no line to NATS yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn try_to_connect(&self, inbox: String, left: Left) -> Result<Up, String> {
        let mut wire = Wire::open(&self.plain, &format!("{inbox}*"), BUFFER_BYTES).await?;
        let mut end = self.end().await?;
        let missing = left.end.0.saturating_sub(end.0) as usize;
        // Where more is missing the server was another one since, and has nothing to read of before.
        if (1..=left.in_flight).contains(&missing) {
            wire.send(format!("PUB {} 0\r\n\r\n", self.barrier).repeat(missing).as_bytes()).await?;
            let until = Instant::now() + PATIENCE;
            while end < left.end {
                if Instant::now() >= until {
                    return Err(format!("the stream ends at {end} and cannot be lengthened to {}", left.end));
                }
                tokio::time::sleep(FILL_PAUSE).await;
                end = self.end().await?;
            }
        }
        Ok(Up::new(wire, inbox, end))
    }

    /// Where the stream ends now. What was sent over a connection of before may still lengthen it.
    async fn end(&self) -> Result<Sequence, String> {
        let info = self.api.stream_info(&self.stream).await.map_err(|error| error.to_string())?;
        Ok(info.last())
    }
}

impl Up {
    fn new(wire: Wire, inbox: String, end: Sequence) -> Up {
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Up {
            wire,
            out: Vec::with_capacity(OUT_BYTES),
            written: 0,
            has_waited: false,
            headers: Vec::new(),
            end,
            fence: end,
            inbox,
            in_flight: VecDeque::new(),
            next: 0,
            spoilt: None,
            certainty: Certainty::Certain,
            ping,
            unanswered: 0,
        }
    }

    /// The next acknowledgement. `None` where there is something to look at elsewhere: a refusal, or the end of all orders.
    async fn next(&mut self, way: &Way, desk: &mut Desk) -> Result<Option<Acknowledgement>, String> {
        loop {
            while let Some((said, length)) = self.wire.said()? {
                let answer = match said {
                    Said::Message { subject, headers, payload, .. } => {
                        // Of a message that nobody takes we hear ahead of those before it, which may be stored.
                        if std::str::from_utf8(headers).ok().and_then(status).is_some() {
                            return Err("nobody takes what is sent to the stream".into());
                        }
                        slot_of(subject, self.inbox.len()).map(|slot| (slot, stored(payload)))
                    }
                    Said::Ping => {
                        self.out.extend_from_slice(b"PONG\r\n");
                        None
                    }
                    Said::Pong => {
                        self.unanswered = 0;
                        None
                    }
                    Said::Error(text) => return Err(String::from_utf8_lossy(text).into_owned()),
                    Said::Info(_) | Said::Ok => None,
                };
                self.wire.take(length);
                if let Some((slot, stored)) = answer
                    && let Some(acknowledgement) = self.learn(slot, stored)?
                {
                    return Ok(Some(acknowledgement));
                }
            }
            if self.certainty == Certainty::Lost {
                let end = way.end().await?;
                self.know(end);
            }
            poll_fn(|cx| self.poll(desk, cx)).await?;
            if !desk.refused.is_empty() || desk.orders.is_closed() {
                return Ok(None);
            }
        }
    }

    /// The stream ends there, and plans must include all of it.
    fn know(&mut self, end: Sequence) {
        self.end = end;
        self.fence = end;
        self.certainty = Certainty::Certain;
    }

    /// Sees from an answer whether the end is where it should be; passes on what is said to a write as a whole.
    fn learn(
        &mut self,
        slot: usize,
        stored: Result<Sequence, PublishError>,
    ) -> Result<Option<Acknowledgement>, String> {
        // Whatever was sent before and is not answered by now never will be.
        let answered = self.in_flight.iter().position(|sent| sent.slot == slot);
        let answered = answered.and_then(|at| self.in_flight.drain(..=at).next_back());
        let Some(Sent { operation, is_part, place, .. }) = answered else {
            return Err("an answer to nothing that was sent".into());
        };
        if let (Ok(stored), Some(place)) = (&stored, place)
            && *stored != place
        {
            return Err(format!("a message for {place} is stored at {stored}"));
        }
        let is_last = self.in_flight.is_empty();
        match &stored {
            Ok(end) if is_last && (self.certainty != Certainty::Certain || *end != self.end) => {
                self.know(*end);
            }
            Err(PublishError::Conflict(text)) if is_last => match named_end(text) {
                Some(end) => self.know(end),
                None => self.certainty = Certainty::Lost,
            },
            Err(_) if is_last => self.certainty = Certainty::Lost,
            Err(_) if self.certainty == Certainty::Certain => {
                self.certainty = Certainty::Waiting(Instant::now());
            }
            Ok(_) | Err(_) => {}
        }
        if is_part {
            if let Err(error) = stored {
                self.spoilt.get_or_insert((operation, error));
            }
            return Ok(None);
        }
        // The last message can be where it was expected and those before it not: what came in between was as much.
        let stored = match self.spoilt.take() {
            Some((spoilt, error)) if spoilt == operation => Err(error),
            _ => stored,
        };
        Ok(Some(Acknowledgement { operation, stored }))
    }

    /// Takes orders and sends; ready when something was read or there is something to look at.
    fn poll(&mut self, desk: &mut Desk, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        while self.ping.poll_tick(cx).is_ready() {
            self.probe()?;
            desk.adrift.retain(|adrift| adrift.since.elapsed() < ADRIFT);
        }
        loop {
            while self.certainty == Certainty::Certain && self.out.len() < OUT_BYTES {
                match desk.orders.poll_recv(cx) {
                    Poll::Ready(Some(order)) => self.take(order, desk),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => break,
                }
            }
            if self.out.is_empty() {
                break;
            }
            // All that is ready to run has its turn before: much of it may be writes that go along.
            if !self.has_waited {
                self.has_waited = true;
                cx.waker().wake_by_ref();
                break;
            }
            while self.written < self.out.len() {
                match self.wire.poll_send(cx, &self.out[self.written..])? {
                    Poll::Ready(sent) => self.written += sent,
                    Poll::Pending => break,
                }
            }
            if self.written < self.out.len() {
                break;
            }
            (self.written, self.has_waited) = (0, false);
            self.out.clear();
            self.out.shrink_to(OUT_BYTES);
        }
        if desk.refused.is_empty() { self.wire.poll_fill(cx) } else { Poll::Ready(Ok(())) }
    }

    fn probe(&mut self) -> Result<(), String> {
        if self.unanswered >= 2 {
            return Err("no answer to probes".into());
        }
        if let Certainty::Waiting(since) = self.certainty
            && since.elapsed() >= PATIENCE
        {
            return Err("no acknowledgement tells where the stream ends".into());
        }
        self.unanswered += 1;
        self.out.extend_from_slice(b"PING\r\n");
        Ok(())
    }

    fn take(&mut self, order: Order, desk: &mut Desk) {
        match order {
            Order::Write { operation, messages, basis } => match self.admit(&messages, basis, &desk.adrift) {
                Ok(()) => self.encode(operation, messages, basis),
                Err(error) => {
                    desk.refused.push_back(Acknowledgement { operation, stored: Err(error) });
                }
            },
            Order::Adrift(subjects) => {
                desk.adrift.push(Adrift { subjects, until: self.end, since: Instant::now() });
            }
        }
    }

    /// Whether a write may be sent.
    fn admit(&self, messages: &[Outgoing], basis: Basis, adrift: &[Adrift]) -> Result<(), PublishError> {
        let is_current = match basis {
            Basis::Anything => true,
            Basis::Stream(position) => position == self.end,
            Basis::Keys(position) => {
                let hides = |adrift: &Adrift| {
                    position < adrift.until
                        && messages.iter().any(|message| adrift.subjects.contains(&message.subject))
                };
                position >= self.fence && !adrift.iter().any(hides)
            }
        };
        if !is_current {
            return Err(PublishError::Conflict(format!("it is planned on less than {}", self.end)));
        }
        match messages.iter().map(Outgoing::most_bytes).max() {
            Some(bytes) if bytes > self.wire.max_payload => Err(PublishError::Refused {
                err_code: 0,
                description: format!(
                    "a message of {bytes} bytes, where NATS takes {}",
                    self.wire.max_payload
                ),
            }),
            _ => Ok(()),
        }
    }

    fn encode(&mut self, operation: u64, messages: Vec<Outgoing>, basis: Basis) {
        let last = messages.len();
        for (Outgoing { subject, headers, payload, .. }, place) in messages.into_iter().zip(1..) {
            self.headers.clear();
            self.headers.extend_from_slice(b"NATS/1.0\r\n");
            let mut line = |name: &str, value: &dyn std::fmt::Display| {
                write!(self.headers, "{name}: {value}\r\n")
                    .expect("a vector takes all that is written to it");
            };
            if basis != Basis::Anything {
                line(EXPECTED_SEQUENCE, &self.end);
            }
            for (name, value) in &headers {
                line(name, value);
            }
            self.headers.extend_from_slice(b"\r\n");
            let slot = self.next % SLOTS;
            let (head, all) = (self.headers.len(), self.headers.len() + payload.len());
            write!(self.out, "HPUB {subject} {}{slot} {head} {all}\r\n", self.inbox)
                .expect("a vector takes all that is written to it");
            self.out.extend_from_slice(&self.headers);
            self.out.extend_from_slice(&payload);
            self.out.extend_from_slice(b"\r\n");
            self.end = self.end.next();
            self.next += 1;
            let place_in_stream = (basis != Basis::Anything).then_some(self.end);
            self.in_flight.push_back(Sent { slot, operation, is_part: place < last, place: place_in_stream });
        }
    }
}

/// Which message is answered.
fn slot_of(subject: &[u8], inbox_bytes: usize) -> Option<usize> {
    std::str::from_utf8(subject.get(inbox_bytes..)?).ok()?.parse().ok()
}

/// The end of the stream as a refusal names it.
fn named_end(text: &str) -> Option<Sequence> {
    text.strip_prefix("wrong last sequence: ")?.parse().ok().map(Sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_end() {
        let refused = br#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 9"}}"#;
        let Err(PublishError::Conflict(text)) = stored(refused) else { panic!("it is refused") };
        assert_eq!(named_end(&text), Some(Sequence(9)));
        assert_eq!(named_end("wrong last sequence"), None);
    }

    #[test]
    fn an_answer_names_its_message() {
        let inbox = "_INBOX.x.1.".len();
        assert_eq!(slot_of(b"_INBOX.x.1.17", inbox), Some(17));
        for other in [&b"_INBOX.x.1.y"[..], b"_INBOX.x.1.", b"_IN"] {
            assert_eq!(slot_of(other, inbox), None);
        }
    }
}
