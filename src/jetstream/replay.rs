//! Reads what a stream holds as fast as it comes, for a start: over a connection of its own, of which the messages are
//! decoded where they lie in the read buffer.
//!
//! Only what a load needs is understood here: one consumer and its flow control. Whatever else turns up ends the replay with
//! an error, and the follower goes on with the client library from where it got to.

use super::connect::Plain;
use super::follower::Delivery;
use super::plain::{Said, Wire, status};
use super::record::{self, Record};
use crate::types::Sequence;
use std::time::Duration;

/// Room for what is read at once, which is as much as a batch may be: where each batch waits for a sync of a busy disk, few of
/// them must do.
const BUFFER_BYTES: usize = 4 << 20;

/// A subscription on a connection of its own.
#[derive(Debug)]
pub(super) struct Replay {
    wire: Wire,
    /// Number of the next delivery.
    expected: u64,
    /// To take off the subjects.
    prefix: String,
    /// Longest silence.
    silence: Duration,
    /// Answers to flow control.
    answers: Vec<u8>,
}

/// Messages that came together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Ascending.
    pub(super) records: Vec<Record>,
    /// Where the consumer said to be while it had nothing to send.
    pub(super) position: Option<Sequence>,
    /// Nothing more was there when the last of them was sent.
    pub(super) is_last: bool,
}

impl Replay {
    /// Connects, and subscribes to `inbox`.
    pub(super) async fn open(
        plain: &Plain,
        inbox: &str,
        prefix: &str,
        silence: Duration,
    ) -> Result<Replay, String> {
        let wire = Wire::open(plain, inbox, BUFFER_BYTES).await?;
        Ok(Replay { wire, expected: 1, prefix: prefix.to_owned(), silence, answers: Vec::new() })
    }

    /// The next messages, no more than about so many and so many bytes. Must be awaited to its end.
    pub(super) async fn next(&mut self, most: usize, most_bytes: usize) -> Result<Batch, String> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        loop {
            while batch.records.len() < most && bytes < most_bytes && !batch.is_last {
                let Some(length) = self.take(&mut batch)? else { break };
                self.wire.take(length);
                bytes += length;
            }
            self.answer().await?;
            if !batch.records.is_empty() || batch.position.is_some() {
                return Ok(batch);
            }
            let filled = tokio::time::timeout(self.silence, self.wire.fill()).await;
            filled.map_err(|_| "no heartbeat from the consumer")??;
        }
    }

    /// Takes one thing that was said, if it is there as a whole; answers its length.
    fn take(&mut self, batch: &mut Batch) -> Result<Option<usize>, String> {
        let Some((said, length)) = self.wire.said()? else { return Ok(None) };
        let (subject, reply, headers, payload) = match said {
            Said::Message { subject, reply, headers, payload } => (subject, reply, headers, payload),
            Said::Ping => {
                self.answers.extend_from_slice(b"PONG\r\n");
                return Ok(Some(length));
            }
            Said::Error(text) => return Err(String::from_utf8_lossy(text).into_owned()),
            Said::Pong | Said::Info(_) | Said::Ok => return Ok(Some(length)),
        };
        let text = |bytes| std::str::from_utf8(bytes).map_err(|error| error.to_string());
        let (subject, reply, headers) = (text(subject)?, text(reply)?, text(headers)?);
        if let Some(status) = status(headers) {
            if !status.starts_with("100") {
                return Err(format!("consumer status {status}"));
            }
            let stalled = record::header_value(headers, "Nats-Consumer-Stalled");
            let asked = if reply.is_empty() { stalled.as_deref().unwrap_or_default() } else { reply };
            if !asked.is_empty() {
                self.answers.extend_from_slice(format!("PUB {asked} 0\r\n\r\n").as_bytes());
            }
            let number = |name| record::header_value(headers, name)?.parse::<u64>().ok();
            if number("Nats-Last-Consumer").is_some_and(|delivered| delivered + 1 != self.expected) {
                return Err("deliveries are missing".into());
            }
            batch.position = number("Nats-Last-Stream").map(Sequence).or(batch.position);
            return Ok(Some(length));
        }
        let delivery = Delivery::parse(reply).ok_or("a message without delivery data")?;
        if delivery.number != self.expected {
            return Err("deliveries are missing".into());
        }
        self.expected += 1;
        let subject = subject.strip_prefix(self.prefix.as_str()).unwrap_or_default();
        let body = record::decode_stored(subject, headers, payload);
        batch.records.push(Record { sequence: delivery.sequence, time: delivery.time, body });
        batch.is_last = delivery.pending == 0;
        Ok(Some(length))
    }

    async fn answer(&mut self) -> Result<(), String> {
        if !self.answers.is_empty() {
            self.wire.send(&self.answers).await?;
            self.answers.clear();
        }
        Ok(())
    }
}
