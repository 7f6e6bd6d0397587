//! Publishing with guards, one message or an atomic batch, and what can be said when it fails.

use super::connect::{Connection, Link};
use super::record::OperationId;
use crate::types::Sequence;
use async_nats::client::{PublishErrorKind, RequestErrorKind};
use async_nats::{Client, HeaderMap, Request, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore, watch};

const EXPECTED_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
const EXPECTED_SEQUENCE: &str = "Nats-Expected-Last-Sequence";
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

/// How several messages become one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Together {
    /// As JetStream's atomic batch: all are stored or none. On one replica JetStream stages a batch in files of its own,
    /// which it makes, syncs and removes while the whole stream waits: milliseconds.
    Batch,
    /// One behind the other, with nothing of this process between them, each acknowledged for itself. Whoever reads the
    /// stream takes them for a write where none is missing, else for nothing (see [`crate::applier`]). For the only writer
    /// of a stream: what others publish could come between.
    Row,
}

/// Publishes to the streams of a bucket.
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    link: watch::Receiver<Link>,
    /// Held alone while a [`Together::Row`] is handed over.
    line: RwLock<()>,
    /// What the subjects begin with that acknowledgements are sent to; the operation follows.
    inbox: String,
    batches: Arc<Semaphore>,
    timeout: Duration,
}

/// The acknowledgements of what is handed to [`Publisher::send`], in the order in which JetStream gives them.
#[derive(Debug)]
pub struct Acknowledgements {
    messages: Subscriber,
    prefix_bytes: usize,
}

/// Keeps the number of open batches bounded; to be held until the outcome is known.
#[derive(Debug)]
pub struct OpenBatch {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Publisher {
    /// Messages go through `connection`; those of [`Publisher::publish`] wait for an acknowledgement no longer than
    /// `timeout`.
    pub async fn open(connection: &Connection, timeout: Duration) -> (Publisher, Acknowledgements) {
        let client = connection.client.clone();
        let inbox = format!("{}.", client.new_inbox());
        let messages = client
            .subscribe(format!("{inbox}*"))
            .await
            .expect("a connection takes commands for as long as it has clients");
        let acknowledgements = Acknowledgements { messages, prefix_bytes: inbox.len() };
        let publisher = Publisher {
            client,
            link: connection.link.clone(),
            line: RwLock::default(),
            inbox,
            batches: Arc::new(Semaphore::new(OPEN_BATCHES)),
            timeout,
        };
        (publisher, acknowledgements)
    }

    /// The connection that messages go to now.
    pub fn generation(&self) -> u64 {
        self.link.borrow().generation
    }

    /// Resolves some time after the connection of `generation` was replaced by another one.
    async fn replaced(&self, generation: u64) {
        let mut link = self.link.clone();
        if link.wait_for(|link| link.connected && link.generation != generation).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LATE).await;
    }

    /// Publishes one message; answers its position. Not for a stream in which rows stand: it could cut one in two.
    pub async fn publish(&self, message: Outgoing) -> Result<Sequence, PublishError> {
        let headers = message.headers();
        let request = Request::new().headers(headers).payload(message.payload).timeout(Some(self.timeout));
        let generation = self.generation();
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

    /// Hands over one message, or several that count together or not at all, at consecutive positions. What JetStream says
    /// to it comes with the [`Acknowledgements`], if at all; an error here means that nothing counts.
    pub async fn send(
        &self,
        operation: OperationId,
        messages: Vec<Outgoing>,
        together: Together,
    ) -> Result<OpenBatch, PublishError> {
        let last = messages.len();
        let is_batch = last > 1 && together == Together::Batch;
        let is_row = last > 1 && together == Together::Row;
        let permit = if is_batch {
            let acquired = Arc::clone(&self.batches).acquire_owned().await;
            Some(acquired.map_err(|_| PublishError::NotStored("shutting down".into()))?)
        } else {
            None
        };
        let (alone, beside) =
            if is_row { (Some(self.line.write().await), None) } else { (None, Some(self.line.read().await)) };
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
            let published = if place == last || is_row {
                let mut reply = format!("{}{}", self.inbox, operation.operation);
                if is_row {
                    write!(reply, "-{place}").expect("a string takes all that is written to it");
                }
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
        drop((alone, beside));
        Ok(OpenBatch { _permit: permit })
    }
}

/// What JetStream says to what was handed to [`Publisher::send`].
#[derive(Debug)]
pub struct Acknowledgement {
    /// The write.
    pub operation: u64,
    /// Which of its messages, counted from 1; all of them where none is named.
    pub place: Option<usize>,
    /// The position of the message, or of the last one of all; or why it was not stored.
    pub stored: Result<Sequence, PublishError>,
}

impl Acknowledgements {
    /// The next one. `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Acknowledgement> {
        loop {
            let message = self.messages.next().await?;
            let Some(of) = message.subject.get(self.prefix_bytes..) else { continue };
            let (operation, place) = match of.split_once('-') {
                Some((operation, place)) => (operation, place.parse().ok()),
                None => (of, None),
            };
            let Ok(operation) = operation.parse() else { continue };
            let stored = if message.status == Some(StatusCode::NO_RESPONDERS) {
                Err(no_leader())
            } else {
                stored(&message.payload)
            };
            return Some(Acknowledgement { operation, place, stored });
        }
    }
}

fn no_leader() -> PublishError {
    PublishError::NotStored("no stream leader answers (NATS starting or JetStream off?)".into())
}

fn stored(answer: &[u8]) -> Result<Sequence, PublishError> {
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
