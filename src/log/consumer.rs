//! Reads the log from a sequence on: a push consumer with a connection of its own, whose messages are decoded
//! in place, in the read buffer.
//!
//! On servers that have them, the consumer is a *direct* one. The stream's leader makes it itself, so that it
//! is never on a replica that lags, and a NATS cluster makes it even without a meta leader. On other servers
//! it is an ordinary one.
//!
//! Only the sequence of a delivered message shows how far the log was read: the position in a heartbeat may
//! be that of a replica that lags.

use super::api::{Api, ApiError};
use super::codec;
use super::connect::Endpoint;
use super::wire::{ProtocolError, ServerOp, Wire, WireError, status};
use crate::record::Record;
use crate::types::Sequence;
use serde::Deserialize;
use serde_json::{Value, json};
use std::future::poll_fn;
use std::task::ready;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// Interval of an idle consumer's heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Silence after which a consumer counts as lost.
const SILENCE: Duration = Duration::from_millis(1_750);
/// Most bytes that are read at once, and so of a batch. Each batch may wait for a sync of a busy disk, so
/// batches should be few.
const BUFFER_BYTES: usize = 4 << 20;
/// Messages returned at once, and about how many bytes of them.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 4 << 20;
/// The first version whose direct consumers may be pushed to clients.
const DIRECT_SINCE: (u32, u32) = (2, 15);

/// Reading has ended. A new consumer can continue.
#[derive(Debug, Error)]
pub enum ConsumeError {
    /// The connection.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// JetStream made no consumer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The consumer or the connection to its server is lost.
    #[error("no heartbeat from the consumer")]
    Silent,
    /// It was not made in time.
    #[error("no answer about the stream within {0:?}")]
    NoAnswer(Duration),
    /// Deliveries are missing.
    #[error("deliveries of the consumer are missing")]
    Gap,
    /// The consumer ended.
    #[error("the consumer ended with status {0}")]
    Ended(String),
}

/// Messages in the order of their sequences.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Each with its record; `None` for a foreign one.
    pub messages: Vec<(Sequence, Option<Record>)>,
    /// Whether there were no more messages when the last one was sent.
    pub is_last: bool,
}

/// The messages that a consumer is made for.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    /// Those behind it.
    pub after: Sequence,
    /// Those with this subject alone.
    pub filter: Option<&'a str>,
    /// Bytes a second that are delivered, behind a burst as large as the largest message.
    pub pace: Option<u64>,
    /// Without their payloads.
    pub headers_only: bool,
}

/// A consumer of the log.
#[derive(Debug)]
pub struct Consumer {
    wire: Wire,
    /// Prefix of the subjects, which is removed.
    prefix: String,
    /// Number of the next delivery.
    expected: u64,
    heard: Instant,
    /// Answers to flow control, and the number of their bytes that are sent.
    answers: Vec<u8>,
    sent: usize,
    /// Messages of the stream behind those that were returned, as the server counts them.
    pending: u64,
    cleanup: Cleanup,
}

/// Removes the consumer when it is dropped.
#[derive(Debug)]
struct Cleanup {
    api: Api,
    request: Option<String>,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        // The server removes an abandoned consumer once it has no subscriber.
        if let (Some(request), Ok(runtime)) = (self.request.take(), tokio::runtime::Handle::try_current()) {
            let api = self.api.clone();
            runtime.spawn(async move {
                if let Err(error) = api.call::<Value>(&request, &Value::Null).await {
                    tracing::debug!(target: "jetway::log", %error, "a consumer cannot be deleted; nats-server removes it later");
                }
            });
        }
    }
}

#[derive(Deserialize)]
struct Created {
    num_pending: u64,
}

impl Consumer {
    /// Makes a consumer. `first` is the number of the endpoint's server to try first.
    ///
    /// # Errors
    /// [`ConsumeError`]; a later try may succeed.
    pub(super) async fn open(
        endpoint: &Endpoint,
        first: usize,
        api: &Api,
        (stream, prefix): (&str, &str),
        Wanted { after, filter, pace, headers_only }: Wanted<'_>,
    ) -> Result<Consumer, ConsumeError> {
        let inbox = api.new_inbox();
        let wire = Wire::open(endpoint, first, Some(&inbox), BUFFER_BYTES).await?;
        let name = format!("jetway-{}", inbox.rsplit('.').next().unwrap_or_default());
        let is_direct = version(&wire.server.version) >= DIRECT_SINCE;
        let mut config = json!({
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after.next().0,
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "mem_storage": true,
            "num_replicas": 1,
            "flow_control": true,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
            "inactive_threshold": 30_000_000_000_u64,
        });
        if let Some(filter) = filter {
            config["filter_subject"] = filter.into();
        }
        if headers_only {
            config["headers_only"] = true.into();
        }
        if let Some(bytes) = pace {
            config["rate_limit_bps"] = (8 * bytes).into();
        }
        let created = if is_direct {
            let mut direct = config.clone();
            direct["direct"] = true.into();
            match create(api, stream, &name, filter, direct).await {
                Err(error @ ApiError::Refused { .. }) => {
                    tracing::debug!(target: "jetway::log", %error, "JetStream refuses a direct consumer; an ordinary one is made");
                    create(api, stream, &name, filter, config).await
                }
                created => created,
            }
        } else {
            create(api, stream, &name, filter, config).await
        }?;
        let request = Some(format!("CONSUMER.DELETE.{stream}.{name}"));
        Ok(Consumer {
            wire,
            prefix: prefix.to_owned(),
            expected: 1,
            heard: Instant::now(),
            answers: Vec::new(),
            sent: 0,
            pending: created.num_pending,
            cleanup: Cleanup { api: api.clone(), request },
        })
    }

    /// Messages of the stream behind those that were returned, as the server counted them when it sent the
    /// last one.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// The next messages. Cancel-safe.
    ///
    /// # Errors
    /// [`ConsumeError`]; the consumer cannot be used after it.
    pub async fn next(&mut self) -> Result<Delivered, ConsumeError> {
        loop {
            let mut delivered = Delivered::default();
            let mut bytes = 0;
            while delivered.messages.len() < BATCH && bytes < BATCH_BYTES {
                let Some(length) = self.take(&mut delivered)? else { break };
                self.wire.consume(length);
                bytes += length;
            }
            if !delivered.messages.is_empty() {
                return Ok(delivered);
            }
            self.answer().await?;
            let read = tokio::time::timeout_at(self.heard + SILENCE, self.wire.read_more()).await;
            read.map_err(|_| ConsumeError::Silent)??;
            self.heard = Instant::now();
        }
    }

    /// Handles one operation if it is complete, and returns its length.
    fn take(&mut self, delivered: &mut Delivered) -> Result<Option<usize>, ConsumeError> {
        let Some((op, length)) = self.wire.next_op()? else { return Ok(None) };
        let (subject, reply, headers, payload) = match op {
            ServerOp::Message { subject, reply, headers, payload } => (subject, reply, headers, payload),
            ServerOp::Ping => {
                self.answers.extend_from_slice(b"PONG\r\n");
                return Ok(Some(length));
            }
            ServerOp::Error(text) => return Err(self.wire.error(text).into()),
            ServerOp::Pong | ServerOp::Info(_) | ServerOp::Ok => return Ok(Some(length)),
        };
        let text =
            |bytes| std::str::from_utf8(bytes).map_err(|error| WireError::from(ProtocolError::from(error)));
        let (subject, reply, headers) = (text(subject)?, text(reply)?, text(headers)?);
        if let Some(status) = status(headers) {
            if !status.starts_with("100") {
                return Err(ConsumeError::Ended(status.to_owned()));
            }
            let stalled = codec::header_value(headers, "Nats-Consumer-Stalled");
            let asked = if reply.is_empty() { stalled.unwrap_or_default() } else { reply };
            if !asked.is_empty() {
                self.answers.extend_from_slice(format!("PUB {asked} 0\r\n\r\n").as_bytes());
            }
            let delivered =
                codec::header_value(headers, "Nats-Last-Consumer").and_then(|number| number.parse().ok());
            if delivered.is_some_and(|delivered: u64| delivered + 1 != self.expected) {
                return Err(ConsumeError::Gap);
            }
            return Ok(Some(length));
        }
        let Some(delivery) = Delivery::parse(reply) else {
            return Err(WireError::from(ProtocolError::Delivery(reply.to_owned())).into());
        };
        if delivery.number != self.expected {
            return Err(ConsumeError::Gap);
        }
        self.expected += 1;
        let record = subject
            .strip_prefix(self.prefix.as_str())
            .and_then(|subject| codec::decode(subject, headers, payload, delivery.sequence));
        delivered.messages.push((delivery.sequence, record));
        self.pending = delivery.pending;
        delivered.is_last = delivery.pending == 0;
        Ok(Some(length))
    }

    async fn answer(&mut self) -> Result<(), WireError> {
        let Consumer { wire, answers, sent, .. } = self;
        poll_fn(|cx| {
            while *sent < answers.len() {
                *sent += ready!(wire.poll_send(cx, &answers[*sent..]))?;
            }
            wire.poll_flush(cx)
        })
        .await?;
        self.answers.clear();
        self.sent = 0;
        Ok(())
    }

    /// Drops the consumer without removing it from the server, which stops anyway.
    pub fn abandon(mut self) {
        self.cleanup.request = None;
    }
}

async fn create(
    api: &Api,
    stream: &str,
    name: &str,
    filter: Option<&str>,
    config: Value,
) -> Result<Created, ApiError> {
    let filter = filter.map(|filter| format!(".{filter}")).unwrap_or_default();
    let request = json!({ "stream_name": stream, "config": config });
    api.call(&format!("CONSUMER.CREATE.{stream}.{name}{filter}"), &request).await
}

/// Major and minor of a server's version.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The data in the reply subject of a delivery.
struct Delivery {
    sequence: Sequence,
    /// Counted from 1.
    number: u64,
    /// The number of messages that are not delivered yet.
    pending: u64,
}

impl Delivery {
    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<number>.<time>.<pending>`, or the longer form
    /// that has domain and account before the stream.
    fn parse(reply: &str) -> Option<Delivery> {
        let before = match reply.bytes().filter(|byte| *byte == b'.').count() {
            8 => 5,
            10.. => 7,
            _ => return None,
        };
        let mut numbers = reply.split('.').skip(before).map(|token| token.parse::<u64>().ok());
        let mut number = || numbers.next()?;
        let (sequence, delivery, _time) = (Sequence(number()?), number()?, number()?);
        Some(Delivery { sequence, number: delivery, pending: number()? })
    }
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
            assert_eq!((delivery.sequence, delivery.number, delivery.pending), (Sequence(17), 3, 9));
        }
        assert!(Delivery::parse("_INBOX.x").is_none());
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(
            version("2.15.1") >= DIRECT_SINCE
                && version("2.9.30") < DIRECT_SINCE
                && version("x") < DIRECT_SINCE
        );
    }
}
