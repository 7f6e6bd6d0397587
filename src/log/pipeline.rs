//! Appends records to the log without waiting between them, each guarded by the sequence right before its
//! own.
//!
//! The writer knows the end of the log, since no other instance publishes to it. Such a guard costs JetStream
//! one comparison. A guard by subject costs it a look-up, and often a load, of the subject's last message.
//! With this guard no message can come between those of a batch.
//!
//! An acknowledgement counts only at its planned sequence, and a record is emitted only after all before it.
//! Any other answer, or none in time, ends the pipeline. Then its owner reads the log to its end, since no
//! refusal proves anything about that end.
//!
//! Records are sent in groups where other instances share the log. Each write of Raft's log is synced by
//! three servers, and wakes all of them and all instances, so few large writes cost less than many small
//! ones. A put through three members costs 124.5 us of CPU with groups and 138 us without (118 to 140, 129 to
//! 152). These are medians of four rounds in turns, measured in November 2026 on two cores of an AMD EPYC,
//! ext4, with 100 clients and values of 1 KiB, a build of the profile `quick`: `cargo bench --bench wire --
//! --cluster --only put-100 --peers jetway --seconds 4`. A group waited for all records before it there, and
//! not until few of them are in flight. An instance that is alone gains nothing.

use super::codec;
use super::connect::Endpoint;
use super::wire::{ProtocolError, ServerOp, Wire, WireError, status};
use crate::planted::{Fault, planted};
use crate::record::{Body, Record};
use crate::types::Sequence;
use serde::Deserialize;
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};

/// Most bytes of acknowledgements that are read at once.
const BUFFER_BYTES: usize = 64 << 10;
/// Most bytes that are written at once, unless one message is larger.
const OUT_BYTES: usize = 256 << 10;
/// Most messages in flight. A stream's ingest queue refuses above 100,000 messages and 128 MiB.
const IN_FLIGHT: usize = 16 * 1024;
/// Most bytes in flight.
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// While fewer records are in flight, the next ones are sent at once: a light load does not wait for groups.
const FEW: usize = 3;
/// The longest wait of a group for those before. On a slow network a record does not wait for a round trip.
const GROUP_PERIOD: Duration = Duration::from_millis(5);
/// Interval of pings. After two unanswered ones the connection counts as lost.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Subjects for acknowledgements, used in turn: nats-server caches its routing of a subject, and a new
/// subject for each message makes it drop a thousand cached ones with each thousand.
const SLOTS: usize = 256;
/// Most bytes of a message beside key, value and the words of its header.
const OVERHEAD: usize = 512;

/// Appending has ended. Records that were not emitted may be in the log, or may still be appended.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The connection.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The guard did not hold, or JetStream refused for another reason.
    #[error("JetStream refused a record: {description} (code {err_code})")]
    Refused {
        /// JetStream's number.
        err_code: u32,
        /// Its text.
        description: String,
        /// The end of the log by the refusal.
        end: Option<Sequence>,
    },
    /// There is no room.
    #[error("JetStream is out of space: {0}")]
    NoSpace(String),
    /// A record has another sequence than planned.
    #[error("a record planned for sequence {planned} was acknowledged at {stored}")]
    Displaced {
        /// The planned sequence.
        planned: Sequence,
        /// The sequence in the acknowledgement.
        stored: Sequence,
    },
    /// The stream has no leader, or NATS has no JetStream.
    #[error("nobody takes what is sent to the stream")]
    NoLeader,
    /// An acknowledgement has not come in time.
    #[error(
        "NATS does not acknowledge what is written: the server or its disk stands still, or most replicas are away"
    )]
    Late,
}

/// A record that is in the log.
#[derive(Debug)]
pub struct Acknowledged<W> {
    /// Its sequence.
    pub sequence: Sequence,
    /// The record.
    pub record: Record,
    /// The waiter that was appended with it.
    pub waiter: Option<W>,
    /// Time at which it was sent.
    pub sent: Instant,
}

/// Appends records; each may carry a waiter of the owner's kind.
#[derive(Debug)]
pub struct Pipeline<W> {
    wire: Wire,
    /// The beginning of the subjects for acknowledgements.
    inbox: String,
    prefix: String,
    /// Encoded messages, the number of their bytes that are written, and whether other tasks ran before.
    out: Vec<u8>,
    written: usize,
    has_yielded: bool,
    headers: Vec<u8>,
    subject: String,
    /// The sequence of the record that is appended next.
    next: Sequence,
    /// Records that are not sent.
    queue: VecDeque<(Record, Option<W>)>,
    /// Records that are sent and not emitted.
    in_flight: VecDeque<InFlight<W>>,
    in_flight_bytes: usize,
    /// Whether records wait for those in flight.
    has_groups: bool,
    /// Records at the head of the queue that belong to the present group.
    group: usize,
    /// Ends when the next group may be sent, however many records are in flight.
    next_group: Pin<Box<Sleep>>,
    slot: usize,
    ping: Interval,
    unanswered: usize,
}

#[derive(Debug)]
struct InFlight<W> {
    record: Record,
    waiter: Option<W>,
    slot: usize,
    bytes: usize,
    sent: Instant,
    is_acknowledged: bool,
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

impl<W> Pipeline<W> {
    /// Appends behind `end`. `first` is the number of the endpoint's server to try first.
    ///
    /// # Errors
    /// [`WireError`] if no server accepts a connection.
    pub(super) async fn open(
        endpoint: &Endpoint,
        first: usize,
        inbox: String,
        prefix: &str,
        end: Sequence,
    ) -> Result<Pipeline<W>, WireError> {
        let inbox = format!("{inbox}.");
        let wire = Wire::open(endpoint, first, Some(&format!("{inbox}*")), BUFFER_BYTES).await?;
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Pipeline {
            wire,
            inbox,
            prefix: prefix.to_owned(),
            out: Vec::with_capacity(OUT_BYTES),
            written: 0,
            has_yielded: false,
            headers: Vec::new(),
            subject: String::new(),
            next: end.next(),
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            has_groups: false,
            group: 0,
            next_group: Box::pin(tokio::time::sleep(Duration::ZERO)),
            slot: 0,
            ping,
            unanswered: 0,
        })
    }

    /// The sequence of the record that is appended next.
    pub fn next_sequence(&self) -> Sequence {
        self.next
    }

    /// The largest key and value, together, that one message can hold.
    pub fn max_record_bytes(&self) -> usize {
        self.wire.server.max_payload.saturating_sub(OVERHEAD)
    }

    /// Sends records in groups from now on: the next ones wait until few are in flight.
    pub fn send_in_groups(&mut self) {
        self.has_groups = true;
    }

    /// Appends a record at [`Pipeline::next_sequence`]. It is sent by [`Pipeline::next`].
    pub fn append(&mut self, record: Record, waiter: Option<W>) {
        self.next = self.next.next();
        self.queue.push_back((record, waiter));
    }

    /// The sequence of the newest record that is sent.
    pub fn newest_sent(&self) -> Sequence {
        Sequence(self.next.0 - 1 - self.queue.len() as u64)
    }

    /// Whether all records up to a sequence are emitted.
    pub fn has_emitted(&self, sequence: Sequence) -> bool {
        sequence.0 + (self.unacknowledged() as u64) < self.next.0
    }

    /// Records that are not emitted yet.
    pub fn unacknowledged(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// The waiter of the newest record.
    pub fn newest_waiter(&mut self) -> Option<&mut Option<W>> {
        match self.queue.back_mut() {
            Some((_, waiter)) => Some(waiter),
            None => self.in_flight.back_mut().map(|newest| &mut newest.waiter),
        }
    }

    /// Time at which the oldest record in flight was sent.
    pub fn oldest(&self) -> Option<Instant> {
        self.in_flight.front().map(|oldest| oldest.sent)
    }

    /// The waiters of all records that were not emitted, in order.
    pub fn into_waiters(self) -> impl Iterator<Item = W> {
        let in_flight = self.in_flight.into_iter().filter_map(|in_flight| in_flight.waiter);
        in_flight.chain(self.queue.into_iter().filter_map(|(_, waiter)| waiter))
    }

    /// Sends records, and adds the next acknowledged ones to `emitted`. Cancel-safe.
    ///
    /// # Errors
    /// [`AppendError`]; only the waiters of the pipeline are of use after it.
    pub async fn next(&mut self, emitted: &mut Vec<Acknowledged<W>>) -> Result<(), AppendError> {
        loop {
            self.read(emitted)?;
            if !emitted.is_empty() {
                return Ok(());
            }
            poll_fn(|cx| self.poll(cx)).await?;
        }
    }

    fn read(&mut self, emitted: &mut Vec<Acknowledged<W>>) -> Result<(), AppendError> {
        while let Some((op, length)) = self.wire.next_op()? {
            let acknowledged = match op {
                ServerOp::Message { subject, headers, payload, .. } => {
                    if std::str::from_utf8(headers).ok().and_then(status).is_some() {
                        return Err(AppendError::NoLeader);
                    }
                    Some((slot_of(subject, self.inbox.len()), stored(payload)?))
                }
                ServerOp::Ping => {
                    self.out.extend_from_slice(b"PONG\r\n");
                    None
                }
                ServerOp::Pong => {
                    self.unanswered = 0;
                    None
                }
                ServerOp::Error(text) => return Err(self.wire.error(text).into()),
                ServerOp::Info(_) | ServerOp::Ok => None,
            };
            self.wire.consume(length);
            if let Some((slot, stored)) = acknowledged {
                self.acknowledge(slot, stored)?;
            }
        }
        while let Some(InFlight { record, waiter, bytes, sent, .. }) =
            self.in_flight.pop_front_if(|oldest| oldest.is_acknowledged)
        {
            let behind = (self.in_flight.len() + self.queue.len()) as u64;
            self.in_flight_bytes -= bytes;
            emitted.push(Acknowledged { sequence: Sequence(self.next.0 - 1 - behind), record, waiter, sent });
        }
        Ok(())
    }

    fn acknowledge(&mut self, slot: Option<usize>, stored: Sequence) -> Result<(), AppendError> {
        let first = self.next.0 - (self.in_flight.len() + self.queue.len()) as u64;
        let place = stored.0.checked_sub(first).map(|place| place as usize);
        let in_flight = place.and_then(|place| self.in_flight.get_mut(place));
        match in_flight.filter(|in_flight| Some(in_flight.slot) == slot && !in_flight.is_acknowledged) {
            Some(in_flight) => {
                in_flight.is_acknowledged = true;
                Ok(())
            }
            None if planted(Fault::EarlyAnswer) => Ok(()),
            None => Err(AppendError::Displaced { planned: Sequence(first), stored }),
        }
    }

    /// Encodes and sends; ready when something was read.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        while self.ping.poll_tick(cx).is_ready() {
            if self.unanswered >= 2 {
                return Poll::Ready(Err(WireError::TimedOut.into()));
            }
            self.unanswered += 1;
            self.out.extend_from_slice(b"PING\r\n");
        }
        if self.has_groups {
            // It wakes this task once it has elapsed, and `fill` looks at it.
            let _is_due = self.next_group.as_mut().poll(cx);
        }
        loop {
            self.fill();
            if self.out.is_empty() {
                break;
            }
            // Other tasks that are ready run first: many of them may append records that are sent with these.
            if !self.has_yielded {
                self.has_yielded = true;
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
            if self.wire.poll_flush(cx)?.is_pending() {
                break;
            }
            (self.written, self.has_yielded) = (0, false);
            if self.has_groups {
                self.next_group.as_mut().reset(Instant::now() + GROUP_PERIOD);
            }
            self.out.clear();
            self.out.shrink_to(OUT_BYTES);
        }
        if planted(Fault::EarlyAnswer) && self.in_flight.front().is_some_and(|oldest| oldest.is_acknowledged)
        {
            return Poll::Ready(Ok(()));
        }
        self.wire.poll_read_more(cx).map_err(AppendError::from)
    }

    /// Encodes records while there is room for them.
    fn fill(&mut self) {
        let may_grow = !self.has_groups
            || self.in_flight.len() < FEW
            || !self.out.is_empty()
            || self.next_group.as_ref().is_elapsed();
        if may_grow {
            self.group = self.queue.len();
        }
        while self.group > 0
            && self.out.len() < OUT_BYTES
            && self.in_flight.len() < IN_FLIGHT
            && (self.in_flight_bytes < IN_FLIGHT_BYTES || self.in_flight.is_empty())
        {
            let sequence = self.newest_sent().next();
            let Some((record, waiter)) = self.queue.pop_front() else { return };
            self.group -= 1;
            let before = self.out.len();
            self.encode(&record, sequence);
            let (slot, bytes) = (self.slot, self.out.len() - before);
            self.slot = (self.slot + 1) % SLOTS;
            self.in_flight_bytes += bytes;
            let sent = Instant::now();
            let is_acknowledged = planted(Fault::EarlyAnswer) && !matches!(record.body, Body::Epoch(_));
            self.in_flight.push_back(InFlight { record, waiter, slot, bytes, sent, is_acknowledged });
        }
    }

    fn encode(&mut self, record: &Record, sequence: Sequence) {
        // A key without a subject is refused when its write is planned.
        codec::write_subject(&self.prefix, &record.body, &mut self.subject).expect("the key has a subject");
        self.headers.clear();
        self.headers.extend_from_slice(b"NATS/1.0\r\n");
        if !planted(Fault::DeposedWriter) && !planted(Fault::DeposedLessor) {
            write!(self.headers, "Nats-Expected-Last-Sequence: {}\r\n", sequence.0 - 1)
                .expect("a vector takes all that is written to it");
        }
        codec::write_headers(record, &mut self.headers);
        self.headers.extend_from_slice(b"\r\n");
        let payload = codec::payload(&record.body);
        let (head, all) = (self.headers.len(), self.headers.len() + payload.len());
        let (subject, inbox, slot) = (&self.subject, &self.inbox, self.slot);
        write!(self.out, "HPUB {subject} {inbox}{slot} {head} {all}\r\n").expect("a vector takes all");
        self.out.extend_from_slice(&self.headers);
        self.out.extend_from_slice(&payload);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// The slot in the subject of an acknowledgement.
fn slot_of(subject: &[u8], inbox_bytes: usize) -> Option<usize> {
    std::str::from_utf8(subject.get(inbox_bytes..)?).ok()?.parse().ok()
}

fn stored(payload: &[u8]) -> Result<Sequence, AppendError> {
    let ack: Ack = serde_json::from_slice(payload)
        .map_err(|error| WireError::from(ProtocolError::Acknowledgement(error.to_string())))?;
    match ack.error {
        None => Ok(Sequence(ack.seq)),
        // Store failed, resources exceeded.
        Some(AckError { err_code: 10077 | 10047 | 10023 | 10002 | 10122, description }) => {
            Err(AppendError::NoSpace(description))
        }
        Some(AckError { err_code, description }) => {
            let end = description.strip_prefix("wrong last sequence: ").and_then(|end| end.parse().ok());
            Err(AppendError::Refused { err_code, description, end: end.map(Sequence) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_end() {
        let refused = br#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 9"}}"#;
        assert!(matches!(stored(refused), Err(AppendError::Refused { end: Some(Sequence(9)), .. })));
        let full = br#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#;
        assert!(matches!(stored(full), Err(AppendError::NoSpace(_))));
        assert!(matches!(stored(br#"{"stream":"S","seq":7}"#), Ok(Sequence(7))));
    }

    #[test]
    fn an_acknowledgement_names_its_slot() {
        let inbox = "_INBOX.x.1.".len();
        assert_eq!(slot_of(b"_INBOX.x.1.17", inbox), Some(17));
        for other in [&b"_INBOX.x.1.y"[..], b"_INBOX.x.1.", b"_IN"] {
            assert_eq!(slot_of(other, inbox), None);
        }
    }
}
