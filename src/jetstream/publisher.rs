//! Publishing with guards, one message or an atomic batch, and what can be said when it fails.

use super::api::Api;
use super::connect::{Connection, Link};
use super::line::{Line, Order};
use super::record::OperationId;
use super::streams::Bucket;
use crate::types::Sequence;
use async_nats::client::{PublishErrorKind, RequestErrorKind};
use async_nats::{Client, HeaderMap, Request, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

const EXPECTED_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
pub(super) const EXPECTED_SEQUENCE: &str = "Nats-Expected-Last-Sequence";
const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";
const TTL: &str = "Nats-TTL";

/// Batches of ours that may be open at once; JetStream allows 50 a stream over all clients.
const OPEN_BATCHES: usize = 16;

/// What each message of a batch may add to the wait for its acknowledgement: they are stored one by one, some thousands a
/// second, and a delete of a large range is one batch.
pub const BATCH_MESSAGE_TIME: Duration = Duration::from_millis(1);

/// How long after a reconnection an acknowledgement is still waited for: what was in our buffers when the connection
/// broke is sent then.
pub const LATE: Duration = Duration::from_millis(200);

/// What must hold for a message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The newest message of the message's own subject is this one; [`Sequence::NONE`]: it has none.
    Subject(Sequence),
    /// The same for another subject.
    Other(String, Sequence),
    /// The newest message of the whole stream is this one.
    Stream(Sequence),
}

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Full subject.
    pub subject: String,
    /// Headers of our own.
    pub headers: Vec<(&'static str, String)>,
    /// Content.
    pub payload: Bytes,
    /// What must hold.
    pub guard: Option<Guard>,
    /// After which the server takes the message away by itself.
    pub ttl: Option<Duration>,
}

impl Outgoing {
    /// No fewer bytes than it is sent with.
    pub(super) fn most_bytes(&self) -> usize {
        // The version, and a guard with the largest number.
        const REST: usize = 96;
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        self.payload.len() + headers + REST
    }

    fn headers(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            map.insert(*name, value.as_str());
        }
        match &self.guard {
            None => {}
            Some(Guard::Subject(sequence)) => {
                map.insert(EXPECTED_SUBJECT_SEQUENCE, sequence.to_string().as_str());
            }
            Some(Guard::Other(subject, sequence)) => {
                map.insert(EXPECTED_SUBJECT_SEQUENCE, sequence.to_string().as_str());
                map.insert(EXPECTED_SUBJECT, subject.as_str());
            }
            Some(Guard::Stream(sequence)) => map.insert(EXPECTED_SEQUENCE, sequence.to_string().as_str()),
        }
        if let Some(ttl) = self.ttl {
            map.insert(TTL, format!("{}s", ttl.as_secs()).as_str());
        }
        map
    }
}

/// Why a message, or the whole batch, was not acknowledged.
#[derive(Debug, Error)]
pub enum PublishError {
    /// A guard did not hold, or something is in flight on its subject. Nothing was stored.
    #[error("a guard did not hold: {0}")]
    Conflict(String),
    /// Nothing was stored for want of space.
    #[error("JetStream is out of space: {0}")]
    NoSpace(String),
    /// Nothing was stored; JetStream said why.
    #[error("JetStream refused the write: {description} (code {err_code})")]
    Refused {
        /// JetStream's number.
        err_code: u32,
        /// Its text.
        description: String,
    },
    /// Nothing was stored since nobody was there to do it; worth another try.
    #[error("JetStream did not take the write: {0}")]
    NotStored(String),
    /// No acknowledgement: it may have been stored, or may yet be.
    #[error("no acknowledgement from JetStream: {0}")]
    Unknown(String),
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
    code: u16,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

/// What a write rests on, for a stream that nobody else writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Nothing: it may stand anywhere.
    Anything,
    /// What this position's state says of its own keys, which nobody has written since but, at most, one of the writes
    /// that [`Publisher::adrift`] was told of.
    Keys(Sequence),
    /// All that this position's state says: nothing may stand between it and the write.
    Stream(Sequence),
}

/// Publishes to the streams of a bucket.
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    /// Of the client.
    client_link: watch::Receiver<Link>,
    way: Way,
    timeout: Duration,
}

/// How writes go to the key stream.
#[derive(Debug)]
enum Way {
    /// Each message with guards of its own, several as an atomic batch.
    Client { inbox: String, batches: Arc<Semaphore> },
    /// As the only writer.
    Line { orders: mpsc::UnboundedSender<Order>, link: watch::Receiver<Link> },
}

/// What JetStream says to what is handed to [`Publisher::send`], in the order in which it does. A line sends nothing but
/// while this is waited for.
#[derive(Debug)]
pub struct Acknowledgements(Source);

#[derive(Debug)]
enum Source {
    Client { messages: Subscriber, prefix_bytes: usize },
    Line(Box<Line>),
}

/// Keeps the number of open batches bounded; to be held until the outcome is known.
#[derive(Debug)]
pub struct OpenBatch {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Publisher {
    /// Messages go through `connection`; those of [`Publisher::publish`] wait for an acknowledgement no longer than
    /// `timeout`. `only_writer_of` names a bucket whose keys
    /// nobody else writes.
    pub async fn open(
        connection: &Connection,
        timeout: Duration,
        only_writer_of: Option<&Bucket>,
    ) -> (Publisher, Acknowledgements) {
        let client = connection.client.clone();
        let inbox = format!("{}.", client.new_inbox());
        let (way, source) = match (only_writer_of, &connection.plain) {
            (Some(bucket), Some(plain)) => {
                let api = Api::new(client.clone());
                let (line, orders, link) = Line::new(plain.clone(), api, bucket, inbox);
                (Way::Line { orders, link }, Source::Line(Box::new(line)))
            }
            (Some(_), None) => {
                unreachable!("a server that admits nobody else is our own, and reached plainly")
            }
            (None, _) => {
                let messages = client
                    .subscribe(format!("{inbox}*"))
                    .await
                    .expect("a connection takes commands for as long as it has clients");
                let source = Source::Client { messages, prefix_bytes: inbox.len() };
                (Way::Client { inbox, batches: Arc::new(Semaphore::new(OPEN_BATCHES)) }, source)
            }
        };
        let client_link = connection.link.clone();
        (Publisher { client, client_link, way, timeout }, Acknowledgements(source))
    }

    /// The connection that writes go over now.
    pub fn link(&self) -> Link {
        match &self.way {
            Way::Client { .. } => self.client_link.borrow().clone(),
            Way::Line { link, .. } => link.borrow().clone(),
        }
    }

    /// The number of that connection.
    pub fn generation(&self) -> u64 {
        match &self.way {
            Way::Client { .. } => self.client_link.borrow().generation,
            Way::Line { link, .. } => link.borrow().generation,
        }
    }

    /// Resolves some time after the connection of `generation` was replaced by another one.
    async fn replaced(&self, generation: u64) {
        let mut link = self.client_link.clone();
        if link.wait_for(|link| link.connected && link.generation != generation).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LATE).await;
    }

    /// Publishes one message; answers its position. To a line it is a message of somebody else.
    pub async fn publish(&self, message: Outgoing) -> Result<Sequence, PublishError> {
        let headers = message.headers();
        let request = Request::new().headers(headers).payload(message.payload).timeout(Some(self.timeout));
        let generation = self.client_link.borrow().generation;
        let answer = tokio::select! {
            answer = self.client.send_request(message.subject, request) => answer,
            () = self.replaced(generation) => {
                return Err(PublishError::Unknown("the connection to NATS broke and was made anew".into()));
            }
        };
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => no_leader(),
            RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                PublishError::Refused { err_code: 0, description: error.to_string() }
            }
            RequestErrorKind::TimedOut | RequestErrorKind::Other => PublishError::Unknown(error.to_string()),
        })?;
        stored(&answer.payload)
    }

    /// Hands over one message, or several that count together or not at all. What JetStream says to it comes with the
    /// [`Acknowledgements`], if at all; an error here means that nothing counts. `basis` is what keeps a line from sending what
    /// was planned on too little; elsewhere the guards of the messages do.
    pub async fn send(
        &self,
        operation: OperationId,
        messages: Vec<Outgoing>,
        basis: Basis,
    ) -> Result<OpenBatch, PublishError> {
        match &self.way {
            Way::Client { inbox, batches } => self.send_guarded(inbox, batches, operation, messages).await,
            Way::Line { orders, .. } => {
                let order = Order::Write { operation: operation.operation, messages, basis };
                orders.send(order).map_err(|_| PublishError::NotStored("shutting down".into()))?;
                Ok(OpenBatch { _permit: None })
            }
        }
    }

    /// What was handed over before for these subjects may still come about, and whoever writes them next will not have waited
    /// for it.
    pub fn adrift(&self, subjects: Vec<String>) {
        if let Way::Line { orders, .. } = &self.way {
            // Where the other side is gone nothing is sent any more.
            orders.send(Order::Adrift(subjects)).ok();
        }
    }

    async fn send_guarded(
        &self,
        inbox: &str,
        batches: &Arc<Semaphore>,
        operation: OperationId,
        messages: Vec<Outgoing>,
    ) -> Result<OpenBatch, PublishError> {
        let last = messages.len();
        let is_batch = last > 1;
        let permit = if is_batch {
            let acquired = Arc::clone(batches).acquire_owned().await;
            Some(acquired.map_err(|_| PublishError::NotStored("shutting down".into()))?)
        } else {
            None
        };
        for (message, place) in messages.into_iter().zip(1..) {
            let mut headers = message.headers();
            if is_batch {
                headers.insert(BATCH_ID, operation.to_string().as_str());
                headers.insert(BATCH_SEQUENCE, place.to_string().as_str());
                if place == last {
                    headers.insert(BATCH_COMMIT, "1");
                }
            }
            let (subject, payload) = (message.subject, message.payload);
            let published = if place == last {
                let reply = format!("{inbox}{}", operation.operation);
                self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            } else {
                // Without a reply subject: JetStream reports whatever is wrong with the batch at its commit.
                self.client.publish_with_headers(subject, headers, payload).await
            };
            published.map_err(|error| match error.kind() {
                PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject => {
                    PublishError::Refused { err_code: 0, description: error.to_string() }
                }
                PublishErrorKind::Send => PublishError::NotStored(error.to_string()),
            })?;
        }
        Ok(OpenBatch { _permit: permit })
    }
}

/// What JetStream says to what was handed to [`Publisher::send`].
#[derive(Debug)]
pub struct Acknowledgement {
    /// The write.
    pub operation: u64,
    /// The position of the message, or of the last one of all; or why it was not stored.
    pub stored: Result<Sequence, PublishError>,
}

impl Acknowledgements {
    /// The next one. `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Acknowledgement> {
        let (messages, prefix_bytes) = match &mut self.0 {
            Source::Line(line) => return line.next().await,
            Source::Client { messages, prefix_bytes } => (messages, *prefix_bytes),
        };
        loop {
            let message = messages.next().await?;
            let operation = message.subject.get(prefix_bytes..).and_then(|of| of.parse().ok());
            let Some(operation) = operation else { continue };
            let stored = if message.status == Some(StatusCode::NO_RESPONDERS) {
                Err(no_leader())
            } else {
                stored(&message.payload)
            };
            return Some(Acknowledgement { operation, stored });
        }
    }
}

fn no_leader() -> PublishError {
    PublishError::NotStored("no stream leader answers (NATS starting or JetStream off?)".into())
}

pub(super) fn stored(answer: &[u8]) -> Result<Sequence, PublishError> {
    let ack: Ack = serde_json::from_slice(answer)
        .map_err(|error| PublishError::Unknown(format!("unreadable acknowledgement: {error}")))?;
    match ack.error {
        None => Ok(Sequence(ack.seq)),
        Some(error) => Err(error.into()),
    }
}

impl From<AckError> for PublishError {
    fn from(AckError { code, err_code, description }: AckError) -> PublishError {
        match (err_code, code) {
            // 10071 names the sequence it found; 10164 comes where the check met something in flight.
            (10071 | 10164, _) => PublishError::Conflict(description),
            // Store failed, resources exceeded.
            (10077 | 10047 | 10023 | 10002 | 10122, _) => PublishError::NoSpace(description),
            // Too many open batches, queue full, no leader, an abandoned batch: nothing is stored, a new try may pass.
            (10210 | 10167 | 10008 | 10009 | 10176 | 10063, _) | (_, 429 | 503) => {
                PublishError::NotStored(description)
            }
            _ => PublishError::Refused { err_code, description },
        }
    }
}
