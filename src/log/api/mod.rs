//! JetStream's request-reply API, as raw JSON.

mod answers;
mod error;

pub use answers::{AccountInfo, AccountLoad, Cluster, Replica, StoredMessage, StreamInfo};
pub use error::ApiError;

pub(super) use answers::StreamPage;

use super::rights::{Denials, Denied, Use};
use crate::types::Sequence;
use answers::{AccountLoadAnswer, ErrorAnswer, ErrorBody, MessageAnswer, StoredAnswer};
use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

const TIMEOUT: Duration = Duration::from_secs(5);
/// The same for each attempt of a request that changes nothing; [`TIMEOUT`] together.
const READ_ATTEMPTS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_millis(3500)];

/// Waits until the server denies a request; for ever if it does not.
async fn denial_of(mut denials: broadcast::Receiver<Denied>, request: &str) -> Denied {
    loop {
        match denials.recv().await {
            Ok(denied) if denied.usage == Use::Publish && denied.subject == request => return denied,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// JetStream's API over one connection.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    /// The beginning of all its subjects, without a dot at the end.
    prefix: String,
    denials: Denials,
}

impl Api {
    /// Requests go through `client`, to subjects below `prefix`.
    pub(super) fn new(client: Client, prefix: &str, denials: Denials) -> Api {
        Api { client, prefix: prefix.to_owned(), denials }
    }

    /// The API of another domain or account, over the same connection.
    pub(super) fn below(&self, prefix: &str) -> Api {
        Api { prefix: prefix.to_owned(), ..self.clone() }
    }

    /// A subject of its own for answers.
    pub(super) fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// Whether a request would be sent now, and not kept for the next connection.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Sends a request below the prefix and reads its answer.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn call<T: DeserializeOwned>(&self, request: &str, body: &Value) -> Result<T, ApiError> {
        self.ask(format!("{}.{request}", self.prefix), body).await
    }

    /// The same for a request that changes nothing: it is sent again when an answer does not come, because
    /// NATS loses requests while a cluster elects a leader or a route comes up.
    async fn read<T: DeserializeOwned>(&self, request: &str, body: &Value) -> Result<T, ApiError> {
        self.ask_within(format!("{}.{request}", self.prefix), body, &READ_ATTEMPTS).await
    }

    async fn ask<T: DeserializeOwned>(&self, subject: String, body: &Value) -> Result<T, ApiError> {
        self.ask_within(subject, body, &[TIMEOUT]).await
    }

    /// Sends a request once for each of `attempts`, which are the longest waits for its answer.
    async fn ask_within<T: DeserializeOwned>(
        &self,
        subject: String,
        body: &Value,
        attempts: &[Duration],
    ) -> Result<T, ApiError> {
        let payload = Bytes::from(if body.is_null() { String::new() } else { body.to_string() });
        let send = async {
            let (last, earlier) = attempts.split_last().unwrap_or((&TIMEOUT, &[]));
            for timeout in earlier {
                match self.send(&subject, &payload, *timeout).await {
                    Err(error) if error.kind() == RequestErrorKind::TimedOut => {}
                    answer => return answer,
                }
            }
            self.send(&subject, &payload, *last).await
        };
        let answer = tokio::select! {
            answer = send => answer,
            denied = denial_of(self.denials.subscribe(), &subject) => return Err(ApiError::Denied(denied)),
        };
        let answer = answer.map_err(|error| match (error.kind(), self.client.server_info().cluster) {
            (RequestErrorKind::TimedOut, Some(cluster)) => {
                ApiError::NoLeader { request: subject.clone(), cluster }
            }
            (RequestErrorKind::TimedOut, None) => ApiError::TimedOut(subject.clone()),
            (RequestErrorKind::NoResponders, _) => ApiError::NoResponders(subject.clone()),
            _ => ApiError::Connection(error.to_string()),
        })?;
        let malformed = |error| ApiError::Malformed(subject.clone(), error);
        let refusal: ErrorAnswer = serde_json::from_slice(&answer.payload).map_err(malformed)?;
        if let (Some(ErrorBody { err_code: ApiError::NO_META_LEADER, .. }), Some(cluster)) =
            (&refusal.error, self.client.server_info().cluster)
        {
            return Err(ApiError::NoLeader { request: subject, cluster });
        }
        if let Some(ErrorBody { code, err_code, description }) = refusal.error {
            return Err(ApiError::Refused { code, err_code, description });
        }
        serde_json::from_slice(&answer.payload).map_err(malformed)
    }

    async fn send(
        &self,
        subject: &str,
        payload: &Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message, RequestError> {
        let request =
            Request::new().payload(payload.clone()).timeout(Some(timeout)).headers(HeaderMap::new());
        self.client.send_request(subject.to_owned(), request).await
    }

    /// Stores an empty message, and returns its sequence.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(super) async fn publish(&self, subject: String) -> Result<u64, ApiError> {
        self.ask::<StoredAnswer>(subject, &Value::Null).await.map(|stored| stored.seq)
    }

    /// Checks that messages to a subject come to a stream. The trial has a header for which every stream
    /// refuses it.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(super) async fn try_publish(&self, subject: &str) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        // No stream has this name.
        headers.insert(async_nats::header::NATS_EXPECTED_STREAM, "-");
        let request = Request::new().timeout(Some(TIMEOUT)).headers(headers);
        let sent = self.client.send_request(subject.to_owned(), request);
        let answer = tokio::select! {
            answer = sent => answer,
            denied = denial_of(self.denials.subscribe(), subject) => return Err(ApiError::Denied(denied)),
        };
        match answer {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                Err(ApiError::NoResponders(subject.to_owned()))
            }
            Err(error) if error.kind() == RequestErrorKind::TimedOut => {
                Err(ApiError::TimedOut(subject.to_owned()))
            }
            Err(error) => Err(ApiError::Connection(error.to_string())),
        }
    }

    /// Settings and content of a stream.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        self.read(&format!("STREAM.INFO.{stream}"), &Value::Null).await
    }

    /// The same, with the sequences that were removed between the first message and the last.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn stream_info_with_deleted(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        self.read(&format!("STREAM.INFO.{stream}"), &json!({ "deleted_details": true })).await
    }

    /// Storage and limits of the account.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn account_info(&self) -> Result<AccountInfo, ApiError> {
        self.read("INFO", &Value::Null).await
    }

    /// The connections of the account to the server of this connection. A user of an existing NATS may lack
    /// the right to ask.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn account_load(&self) -> Result<Option<AccountLoad>, ApiError> {
        // All servers of a cluster get the request.
        let this_server =
            json!({ "server_name": self.client.server_info().server_name, "exact_match": true });
        let answer: AccountLoadAnswer =
            self.ask("$SYS.REQ.ACCOUNT.PING.STATZ".to_owned(), &this_server).await?;
        Ok(answer.data.account_statz.into_iter().next())
    }

    /// The message at a position, from the stream's leader; `None` if there is none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn message(&self, stream: &str, sequence: Sequence) -> Result<Option<StoredMessage>, ApiError> {
        self.find(stream, &json!({ "seq": sequence.0 })).await
    }

    /// The first message of a subject at or behind a sequence, from the stream's leader.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn next_message(
        &self,
        stream: &str,
        from: Sequence,
        subject: &str,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.find(stream, &json!({ "seq": from.0, "next_by_subj": subject })).await
    }

    async fn find(&self, stream: &str, query: &Value) -> Result<Option<StoredMessage>, ApiError> {
        match self.read::<MessageAnswer>(&format!("STREAM.MSG.GET.{stream}"), query).await {
            Ok(answer) => Ok(Some(answer.message)),
            Err(error)
                if matches!(
                    error.err_code(),
                    Some(ApiError::MESSAGE_NOT_FOUND | ApiError::NO_MESSAGE | ApiError::BEYOND_LAST)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes one message; a message that is gone already counts as removed. Never erases in place: that
    /// overwrites the block file and is not crash-safe.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn delete_message(&self, stream: &str, sequence: Sequence) -> Result<(), ApiError> {
        let body = json!({ "seq": sequence.0, "no_erase": true });
        match self.call::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &body).await {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.err_code(),
                    Some(ApiError::NO_MESSAGE | ApiError::BEYOND_LAST | ApiError::MESSAGE_NOT_FOUND)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
