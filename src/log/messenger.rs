//! Calls between the instances of a bucket, as core NATS messages: no port of their own, the same
//! credentials, the same TLS.
//!
//! | subject | from | to |
//! |---|---|---|
//! | `jetway.<bucket>.heartbeat` | the writer | every instance |
//! | `jetway.<bucket>.alive` | every instance | the writer |
//! | `jetway.<bucket>.calls.<nonce>` | every instance | the writer of the epoch with this nonce |
//! | `jetway.<bucket>.instance.<start>` | the writer | one instance |
//! | `jetway.<bucket>.ask` | a candidate | every instance |
//! | `jetway.<bucket>.poll` | the writer of a cluster of its own | every instance |
//! | `jetway.<bucket>.votes.<start>` | every instance | the writer that polls |
//! | `jetway.<bucket>.member.<id>` | an instance that starts | other processes of the same member |
//! | `jetway.<bucket>.members` | one that is about to join | every member |
//! | an inbox | the answers | the asker |
//!
//! Messages may be lost or come twice. The sender sends a lost one again, and the receiver recognises a
//! second one.

use super::connect::Connection;
use async_nats::{Client, Request, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// The question for the snapshot with which a cluster was made anew. That for the members is empty.
const SNAPSHOT: &[u8] = b"snapshot";

/// Most messages that wait for their receiver. More are lost, and sent again.
const WAITING: usize = 16 * 1024;

/// A message from another instance.
#[derive(Debug)]
pub enum Incoming {
    /// A heartbeat of the writer.
    Heartbeat(Bytes),
    /// A heartbeat of another instance.
    Alive(Bytes),
    /// Calls to the writer of an epoch, to be answered at a subject.
    Calls {
        /// The nonce of the epoch.
        nonce: u64,
        /// The calls.
        payload: Bytes,
        /// The subject for the answers.
        reply: String,
    },
    /// Answers to calls.
    Answers(Bytes),
    /// No instance serves the calls of the epoch with this nonce.
    NobodyServes(u64),
    /// The writer asks this instance to take over.
    TakeOver(Bytes),
    /// A candidate asks for this instance's position and promise.
    Ask {
        /// The question.
        question: Bytes,
        /// The subject for the answer.
        reply: String,
    },
    /// The writer asks for this instance's vote.
    Poll {
        /// The question.
        question: Bytes,
        /// The subject for the answer.
        reply: String,
    },
    /// A vote for this writer.
    Vote(Bytes),
}

/// Sends to other instances.
#[derive(Clone, Debug)]
pub struct Messenger {
    client: Client,
    prefix: String,
    /// The beginning of the subjects for answers; the nonce of the epoch follows.
    inbox: String,
    /// The subject for votes.
    votes: String,
    received: mpsc::Sender<Incoming>,
}

/// Serves the calls of an epoch, or answers for a member, until it is dropped.
#[derive(Debug)]
pub struct Serving(AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Messenger {
    /// Subscribes to all messages for the instance with this start.
    ///
    /// # Errors
    /// That of the client library, if the connection is closed.
    pub async fn open(
        connection: &Connection,
        bucket: &str,
        start: u64,
    ) -> Result<(Messenger, mpsc::Receiver<Incoming>), async_nats::SubscribeError> {
        let client = connection.client.clone();
        let (received, receiver) = mpsc::channel(WAITING);
        let prefix = format!("jetway.{bucket}");
        let inbox = format!("{}.", client.new_inbox());
        let votes = format!("{prefix}.votes.{start:016x}");
        let messenger = Messenger { client, prefix, inbox, votes, received };
        let inbox_bytes = messenger.inbox.len();
        messenger.receive("heartbeat".into(), |message| Some(Incoming::Heartbeat(message.payload))).await?;
        messenger.receive("alive".into(), |message| Some(Incoming::Alive(message.payload))).await?;
        messenger
            .receive(format!("instance.{start:016x}"), |message| Some(Incoming::TakeOver(message.payload)))
            .await?;
        messenger
            .receive("ask".into(), |message| {
                Some(Incoming::Ask { question: message.payload, reply: message.reply?.to_string() })
            })
            .await?;
        messenger
            .receive("poll".into(), |message| {
                Some(Incoming::Poll { question: message.payload, reply: message.reply?.to_string() })
            })
            .await?;
        messenger
            .receive(format!("votes.{start:016x}"), |message| Some(Incoming::Vote(message.payload)))
            .await?;
        let answers = messenger.client.subscribe(format!("{}*", messenger.inbox)).await?;
        messenger.spawn(answers, move |message| {
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                let nonce = message.subject.get(inbox_bytes..)?;
                return Some(Incoming::NobodyServes(u64::from_str_radix(nonce, 16).ok()?));
            }
            Some(Incoming::Answers(message.payload))
        });
        Ok((messenger, receiver))
    }

    async fn receive(
        &self,
        subject: String,
        read: impl Fn(async_nats::Message) -> Option<Incoming> + Send + 'static,
    ) -> Result<AbortHandle, async_nats::SubscribeError> {
        let messages = self.client.subscribe(format!("{}.{subject}", self.prefix)).await?;
        Ok(self.spawn(messages, read))
    }

    fn spawn(
        &self,
        mut messages: Subscriber,
        read: impl Fn(async_nats::Message) -> Option<Incoming> + Send + 'static,
    ) -> AbortHandle {
        let received = self.received.downgrade();
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let Some(received) = received.upgrade() else { return };
                if let Some(incoming) = read(message)
                    && received.send(incoming).await.is_err()
                {
                    return;
                }
            }
        });
        task.abort_handle()
    }

    /// Serves the calls of the epoch with this nonce.
    ///
    /// # Errors
    /// That of the client library, if the connection is closed.
    pub async fn serve(&self, nonce: u64) -> Result<Serving, async_nats::SubscribeError> {
        let read = move |message: async_nats::Message| {
            let reply = message.reply?.to_string();
            Some(Incoming::Calls { nonce, payload: message.payload, reply })
        };
        Ok(Serving(self.receive(format!("calls.{nonce:016x}"), read).await?))
    }

    async fn publish(&self, subject: String, payload: Vec<u8>) {
        // If this fails, the message is lost, and its sender sends it again.
        if let Err(error) = self.client.publish(subject, payload.into()).await {
            tracing::debug!(target: "jetway::log", %error, "a message to another instance is lost");
        }
    }

    async fn publish_with_reply(&self, subject: String, reply: String, payload: Vec<u8>) {
        if let Err(error) = self.client.publish_with_reply(subject, reply, payload.into()).await {
            tracing::debug!(target: "jetway::log", %error, "a question to another instance is lost");
        }
    }

    /// Sends the writer's heartbeat to every instance.
    pub async fn heartbeat(&self, payload: Vec<u8>) {
        self.publish(format!("{}.heartbeat", self.prefix), payload).await;
    }

    /// Sends this instance's heartbeat to the writer.
    pub async fn alive(&self, payload: Vec<u8>) {
        self.publish(format!("{}.alive", self.prefix), payload).await;
    }

    /// Sends calls to the writer of the epoch with this nonce.
    pub async fn call(&self, nonce: u64, payload: Vec<u8>) {
        let reply = format!("{}{nonce:016x}", self.inbox);
        let subject = format!("{}.calls.{nonce:016x}", self.prefix);
        self.publish_with_reply(subject, reply, payload).await;
    }

    /// Sends answers to calls.
    pub async fn answer(&self, reply: String, payload: Vec<u8>) {
        self.publish(reply, payload).await;
    }

    /// Asks an instance to take over.
    pub async fn ask_to_take_over(&self, start: u64, payload: Vec<u8>) {
        self.publish(format!("{}.instance.{start:016x}", self.prefix), payload).await;
    }

    /// Asks every instance for its position and promise. The answers come in any order.
    ///
    /// # Errors
    /// That of the client library, if the connection is closed.
    pub async fn ask(
        &self,
        question: Vec<u8>,
    ) -> Result<impl Stream<Item = Bytes> + Unpin + use<>, async_nats::SubscribeError> {
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await?;
        self.publish_with_reply(format!("{}.ask", self.prefix), inbox, question).await;
        Ok(answers.map(|answer| answer.payload))
    }

    /// Asks every instance for its vote, which comes as [`Incoming::Vote`].
    pub async fn poll(&self, question: Vec<u8>) {
        self.publish_with_reply(format!("{}.poll", self.prefix), self.votes.clone(), question).await;
    }

    /// Answers those that ask for processes of this member, but for the one with this start, until the result
    /// is dropped.
    ///
    /// # Errors
    /// That of the client library, where the connection is closed.
    pub async fn answer_for_member(
        &self,
        member: u64,
        start: u64,
        answer: Vec<u8>,
    ) -> Result<Serving, async_nats::SubscribeError> {
        let answer = Bytes::from(answer);
        let but_own = move |question: &[u8]| (question != start.to_le_bytes()).then(|| answer.clone());
        self.answer_at(self.member_subject(member), but_own).await
    }

    /// Answers those that ask for the members, or for the snapshot with which the cluster was made anew,
    /// until the result is dropped.
    ///
    /// # Errors
    /// That of the client library, where the connection is closed.
    pub async fn answer_with_members(
        &self,
        members: impl Fn() -> Option<Bytes> + Send + 'static,
        snapshot: impl Fn() -> Option<Bytes> + Send + 'static,
    ) -> Result<Serving, async_nats::SubscribeError> {
        let answer = move |question: &[u8]| if question == SNAPSHOT { snapshot() } else { members() };
        self.answer_at(self.members_subject(), answer).await
    }

    /// Answers questions at a subject, until the result is dropped.
    async fn answer_at(
        &self,
        subject: String,
        answer: impl Fn(&[u8]) -> Option<Bytes> + Send + 'static,
    ) -> Result<Serving, async_nats::SubscribeError> {
        let client = self.client.clone();
        let mut questions = client.subscribe(subject).await?;
        let task = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                if let Some(reply) = question.reply
                    && let Some(answer) = answer(&question.payload)
                    && let Err(error) = client.publish(reply, answer).await
                {
                    tracing::debug!(target: "jetway::log", %error, "an answer to another instance is lost");
                }
            }
        });
        Ok(Serving(task.abort_handle()))
    }

    /// Asks for other processes of this member than the one with this start; returns the first answer, if one
    /// comes in time.
    pub async fn ask_member(&self, member: u64, start: u64, timeout: std::time::Duration) -> Option<Bytes> {
        self.ask_at(self.member_subject(member), start.to_le_bytes().to_vec(), timeout).await
    }

    /// Asks for the members; returns the first answer, if one comes in time.
    pub async fn ask_for_members(&self, timeout: std::time::Duration) -> Option<Bytes> {
        self.ask_at(self.members_subject(), Vec::new(), timeout).await
    }

    /// Asks a member for the snapshot with which the cluster was made anew; returns the first answer, if one
    /// comes in time.
    pub async fn ask_for_snapshot(&self, timeout: std::time::Duration) -> Option<Bytes> {
        self.ask_at(self.members_subject(), SNAPSHOT.to_vec(), timeout).await
    }

    async fn ask_at(
        &self,
        subject: String,
        question: Vec<u8>,
        timeout: std::time::Duration,
    ) -> Option<Bytes> {
        let question = Request::new().payload(question.into()).timeout(Some(timeout));
        match self.client.send_request(subject.clone(), question).await {
            Ok(answer) => Some(answer.payload),
            Err(error) => {
                tracing::debug!(target: "jetway::log", subject, %error, "nobody answers");
                None
            }
        }
    }

    fn members_subject(&self) -> String {
        format!("{}.members", self.prefix)
    }

    fn member_subject(&self, member: u64) -> String {
        format!("{}.member.{member:016x}", self.prefix)
    }

    /// The largest payload that one message can have.
    pub fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }
}
