//! Publishing with guards, one message or an atomic batch, and what can be said when it fails.

use super::connect::{Connection, Link};
use crate::types::Sequence;
use async_nats::client::RequestErrorKind;
use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use serde::Deserialize;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};

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
const LATE: Duration = Duration::from_millis(200);

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

/// Publishes to the streams of a bucket.
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    link: watch::Receiver<Link>,
    batches: Semaphore,
    timeout: Duration,
}

impl Publisher {
    /// Messages go through `connection`; an acknowledgement is waited for no longer than `timeout`, and not for the
    /// one that was lost with a connection.
    pub fn new(connection: &Connection, timeout: Duration) -> Publisher {
        Publisher {
            client: connection.client.clone(),
            link: connection.link.clone(),
            batches: Semaphore::new(OPEN_BATCHES),
            timeout,
        }
    }

    /// Resolves some time after the connection of `generation` was replaced by another one.
    async fn replaced(&self, generation: u64) {
        let mut link = self.link.clone();
        if link.wait_for(|link| link.connected && link.generation != generation).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LATE).await;
    }

    /// Publishes one message; answers its position.
    pub async fn publish(&self, message: Outgoing) -> Result<Sequence, PublishError> {
        let headers = message.headers();
        self.request(message.subject, headers, message.payload, self.timeout).await
    }

    /// Publishes several messages that are stored together or not at all; answers the position of the last. They are
    /// stored at consecutive positions. `id` must be unique, at most 64 bytes.
    pub async fn publish_batch(&self, id: &str, messages: Vec<Outgoing>) -> Result<Sequence, PublishError> {
        let _open =
            self.batches.acquire().await.map_err(|_| PublishError::NotStored("shutting down".into()))?;
        let last = messages.len();
        let timeout = self.timeout + BATCH_MESSAGE_TIME * last as u32;
        for (at, message) in messages.into_iter().enumerate() {
            let place = at + 1;
            let mut headers = message.headers();
            headers.insert(BATCH_ID, id);
            headers.insert(BATCH_SEQUENCE, place.to_string().as_str());
            if place == last {
                headers.insert(BATCH_COMMIT, "1");
                return self.request(message.subject, headers, message.payload, timeout).await;
            }
            // Without a reply subject: JetStream reports whatever is wrong with the batch at its commit.
            self.client
                .publish_with_headers(message.subject, headers, message.payload)
                .await
                .map_err(|error| PublishError::NotStored(error.to_string()))?;
        }
        Err(PublishError::NotStored("an empty batch".into()))
    }

    async fn request(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Sequence, PublishError> {
        let request = Request::new().headers(headers).payload(payload).timeout(Some(timeout));
        let generation = self.link.borrow().generation;
        let answer = tokio::select! {
            answer = self.client.send_request(subject, request) => answer,
            () = self.replaced(generation) => {
                return Err(PublishError::Unknown("the connection to NATS broke and was made anew".into()));
            }
        };
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => {
                PublishError::NotStored("no stream leader answers (NATS starting or JetStream off?)".into())
            }
            RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                PublishError::Refused { err_code: 0, description: error.to_string() }
            }
            RequestErrorKind::TimedOut | RequestErrorKind::Other => PublishError::Unknown(error.to_string()),
        })?;
        let ack: Ack = serde_json::from_slice(&answer.payload)
            .map_err(|error| PublishError::Unknown(format!("unreadable acknowledgement: {error}")))?;
        match ack.error {
            None => Ok(Sequence(ack.seq)),
            Some(error) => Err(error.into()),
        }
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
