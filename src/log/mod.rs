//! The log: one JetStream stream of records. All code with NATS subjects, headers or error codes is in this
//! folder.
//!
//! ```text
//! records -> Pipeline -> nats-server -> acknowledged records     (the writer)
//!                        nats-server -> Consumer -> messages     (every other instance, and every load)
//! ```
//!
//! - [`Pipeline`] appends with guards, holds its records in flight itself, and emits each once it is
//!   acknowledged.
//! - [`Consumer`] reads messages from a sequence on.
//! - `codec` turns records into messages and back, `subjects` keys into subjects.
//! - `wire` is the connection of these two, and `tls` its TLS. `connect` and `api` use the client library and
//!   serve everything else.
//! - `servers` chooses among the servers of an endpoint. `login` makes the credentials of each connection.
//!   `rights` names the rights of the user, and tries them.
//! - [`bucket`] creates, recognises, repairs or refuses the stream, by the comparison in `stream_settings`.
//!   `limits` names narrower limits of others, `kine` the buckets of kine. `store` looks at the files of the
//!   embedded server's stream.
//! - `mirror` is a bucket in two regions, `promote` changes its primary, and `fence` keeps records out of the
//!   old one.
//! - [`Messenger`] carries calls between instances.
//!
//! Raw JSON requests replace the client library's typed stream API. That one drops fields that it does not
//! know (`state.lost`, newer settings) and erases message contents on delete. Its ordered consumers also
//! resume past a tail that the server lost, without an error.

mod api;
pub mod bucket;
mod codec;
mod connect;
mod connected;
mod consumer;
mod fence;
mod kine;
mod limits;
mod login;
mod messenger;
mod metadata_group;
mod mirror;
mod pipeline;
mod present;
mod promote;
mod rights;
mod seed;
mod servers;
mod setup_error;
mod store;
mod stream_settings;
mod subjects;
mod tls;
mod wire;

pub use api::{AccountInfo, AccountLoad, Api, ApiError, Cluster, Replica, StoredMessage, StreamInfo};
pub use bucket::{Bucket, Facts, Purpose};
pub use connect::{ConnectError, Connection, Endpoint, Link, MAX_COPIES, OwnCluster, copies};
pub use connected::ConnectedServers;
pub use consumer::{ConsumeError, Consumer, Delivered};
pub use fence::{FenceError, StandbyError};
pub use limits::Demand;
pub use login::{Auth, LoginError, RunToken};
pub use messenger::{Incoming, Messenger, Serving};
pub use metadata_group::{GroupError, MetadataGroup, Peer, RaftState, server_id};
pub use mirror::{Lag, ReadOnly};
pub use pipeline::{Acknowledged, AppendError, Pipeline};
pub(crate) use present::is_within;
pub use present::{Present, PresentError};
pub use promote::{PromoteError, PromoteStep, Promoted, promote};
pub use rights::{Denials, Denied, Rights, Use};
pub use seed::{SeedError, SeedServers, seed_metadata};
pub use setup_error::SetupError;
pub use store::Store;
pub use subjects::{KeyTooLong, MAX_SUBJECT_BYTES};
pub use wire::{AddressError, ProtocolError, WireError};

use crate::record::{AcceptedLoss, Body, Record, TrimPoint};
use crate::types::{LogIndex, Sequence};
use consumer::Wanted;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A bucket's log.
#[derive(Debug)]
pub struct Log {
    endpoint: Endpoint,
    bucket: Bucket,
    facts: Facts,
    read_only: Option<ReadOnly>,
    /// The number of the stream's copies, as JetStream last reported it. Orders nothing.
    copies: AtomicUsize,
    api: Api,
    connection: Connection,
}

impl Log {
    /// Connects, and creates or checks the bucket. `store` is that of the embedded server. `demand` gives a
    /// new stream its size, if the account wants one.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(endpoint: &Endpoint, store: Option<&Store>, demand: Demand) -> Result<Log, OpenError> {
        Log::open_for(endpoint, store, Purpose::Serve, demand).await
    }

    /// As [`Log::open`], for serving or for a restore.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open_for(
        endpoint: &Endpoint,
        store: Option<&Store>,
        purpose: Purpose,
        demand: Demand,
    ) -> Result<Log, OpenError> {
        let rights = Rights::of(endpoint);
        let endpoint = &Endpoint { denials: Denials::new(rights.clone()), ..endpoint.clone() };
        let connection = Connection::open(endpoint, "jetway").await?;
        // The users of embedded servers have all rights.
        if store.is_none() && endpoint.own_cluster.is_none() {
            let missing = rights.find_missing(endpoint, 0).await.map_err(ConnectError::from)?;
            if !missing.is_empty() {
                let missing = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(ConnectError::Rights { missing, bucket: endpoint.bucket.clone() }.into());
            }
        }
        let api_prefix = endpoint.api_prefix.as_deref().unwrap_or(rights::API_PREFIX);
        let bucket = Bucket::of(endpoint);
        let api = Api::new(connection.client.clone(), api_prefix, endpoint.denials.clone());
        let (facts, read_only) = bucket.set_up(&api, &connection, endpoint, store, (purpose, demand)).await?;
        if facts.is_new && store.is_none() {
            tokio::spawn(kine::warn(api.clone(), bucket.clone()));
        }
        let copies = AtomicUsize::new(facts.replicas);
        Ok(Log { endpoint: endpoint.clone(), bucket, facts, read_only, copies, api, connection })
    }

    /// Refuses a bucket that a restore cannot fill, and changes nothing.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn check_restore(endpoint: &Endpoint) -> Result<(), OpenError> {
        let endpoint = &Endpoint { denials: Denials::new(Rights::of(endpoint)), ..endpoint.clone() };
        let connection = Connection::open(endpoint, "jetway").await?;
        let api_prefix = endpoint.api_prefix.as_deref().unwrap_or(rights::API_PREFIX);
        let api = Api::new(connection.client.clone(), api_prefix, endpoint.denials.clone());
        Ok(Bucket::of(endpoint).check_restore(&api).await?)
    }

    /// Reports the limits of the account and of the stream that are narrower than a demand.
    pub async fn report_limits(&self, demand: Demand) {
        let (info, account) = tokio::join!(self.info(), self.api.account_info());
        let Ok(info) = info else { return };
        let max_payload = self.connection.client.server_info().max_payload;
        for limit in limits::binding(&info, account.as_ref().ok(), max_payload, demand) {
            tracing::warn!(target: "jetway::log", stream = self.bucket.stream, "{limit}");
        }
    }

    /// The names of the bucket.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The stream's properties.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// Why nothing could be appended when the log was opened.
    pub fn read_only(&self) -> Option<&ReadOnly> {
        self.read_only.as_ref()
    }

    /// The number of the stream's copies, as JetStream last reported it.
    pub fn copies(&self) -> usize {
        self.copies.load(Ordering::Relaxed)
    }

    /// JetStream's API.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The connection of everything but the log itself.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Makes the next connections try another server of the endpoint first.
    pub fn try_another_server(&self) {
        self.connection.first_server.advance();
    }

    fn first_server(&self) -> usize {
        self.connection.first_server.number()
    }

    /// The trim record that a load begins with, from the stream's leader, and its floor: the last one of
    /// those for the highest index. `void` are the sequences of trim records that a load has found void, such
    /// as copies by another program.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn trim_point(&self, void: &[Sequence]) -> Result<Option<(TrimPoint, Option<i64>)>, ApiError> {
        let subject = format!("{}{}", self.bucket.prefix, codec::trim_subject());
        let mut highest: Option<(TrimPoint, Option<i64>)> = None;
        let mut last_loss: Option<AcceptedLoss> = None;
        let mut from = Sequence(1);
        while let Some(message) = self.api.next_message(&self.bucket.stream, from, &subject).await? {
            let sequence = Sequence(message.seq);
            from = sequence.next();
            let Some(Body::Trim(trim)) = message.record(&self.bucket.prefix).map(|record| record.body) else {
                continue;
            };
            if void.contains(&sequence) {
                continue;
            }
            // The last trim record may be another program's, which does not name it.
            last_loss = last_loss.into_iter().chain(trim.loss).max_by_key(|loss| loss.at);
            let (to, is_lossy) = (LogIndex(trim.to), trim.is_lossy);
            if highest.as_ref().is_none_or(|(known, _)| known.to <= to) {
                highest = Some((TrimPoint { to, sequence, is_lossy, loss: None }, trim.floor));
            }
        }
        Ok(highest.map(|(trim, floor)| (TrimPoint { loss: last_loss, ..trim }, floor)))
    }

    /// A consumer of everything behind a sequence, with a pace in bytes a second where there is one.
    ///
    /// # Errors
    /// [`ConsumeError`].
    pub async fn consume(&self, after: Sequence, pace: Option<u64>) -> Result<Consumer, ConsumeError> {
        let names = (self.bucket.stream.as_str(), self.bucket.prefix.as_str());
        let wanted = Wanted { after, pace, ..Wanted::default() };
        Consumer::open(&self.endpoint, self.first_server(), &self.api, names, wanted).await
    }

    /// A consumer of all messages, without their payloads.
    async fn consume_headers(&self) -> Result<Consumer, ConsumeError> {
        let names = (self.bucket.stream.as_str(), self.bucket.prefix.as_str());
        let wanted = Wanted { headers_only: true, ..Wanted::default() };
        Consumer::open(&self.endpoint, self.first_server(), &self.api, names, wanted).await
    }

    /// A consumer of the epoch records behind a sequence.
    ///
    /// # Errors
    /// [`ConsumeError`].
    pub async fn consume_epochs(&self, after: Sequence) -> Result<Consumer, ConsumeError> {
        let names = (self.bucket.stream.as_str(), self.bucket.prefix.as_str());
        let filter = format!("{}{}", self.bucket.prefix, codec::epoch_subject());
        let wanted = Wanted { after, filter: Some(&filter), ..Wanted::default() };
        Consumer::open(&self.endpoint, self.first_server(), &self.api, names, wanted).await
    }

    /// A pipeline that appends behind a sequence.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn append_behind<W>(&self, end: Sequence) -> Result<Pipeline<W>, WireError> {
        let inbox = self.api.new_inbox();
        Pipeline::open(&self.endpoint, self.first_server(), inbox, &self.bucket.publish_prefix, end).await
    }

    /// Whether there is a message behind a sequence, from the stream's leader.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn has_message_behind(&self, sequence: Sequence) -> Result<bool, ApiError> {
        Ok(self.api.next_message(&self.bucket.stream, sequence.next(), ">").await?.is_some())
    }

    /// The message at a sequence, from the stream's leader; within it `None` for a foreign one.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn message_at(&self, sequence: Sequence) -> Result<Option<Option<Record>>, ApiError> {
        let message = self.api.message(&self.bucket.stream, sequence).await?;
        Ok(message.map(|message| message.record(&self.bucket.prefix)))
    }

    /// The record at a sequence, from the stream's leader; `None` if there is none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn record_at(&self, sequence: Sequence) -> Result<Option<Record>, ApiError> {
        Ok(self.message_at(sequence).await?.flatten())
    }

    /// The stream as JetStream describes it.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn info(&self) -> Result<StreamInfo, ApiError> {
        let info = self.api.stream_info(&self.bucket.stream).await?;
        self.copies.store(info.copies(), Ordering::Relaxed);
        Ok(info)
    }

    /// NATS' own group of servers, over a connection to the system account.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn metadata_group(&self, login: &Auth) -> Result<MetadataGroup, ConnectError> {
        MetadataGroup::open(&self.endpoint, login).await
    }

    /// Raises the number of the stream's copies. Returns it; `None` if it is as high already.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn raise_copies(&self, copies: usize) -> Result<Option<usize>, ApiError> {
        let info = self.info().await?;
        if info.copies() >= copies {
            return Ok(None);
        }
        self.set_copies(info, copies).await?;
        Ok(Some(copies))
    }

    /// Leaves one copy of the stream, that on a server. Returns whether it is the only one now; a later call
    /// takes the next step.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn leave_one_copy(&self, server: &str) -> Result<bool, ApiError> {
        let info = self.info().await?;
        if info.leader() != Some(server) {
            // NATS may have left another one: a server that leads then was lost for a moment.
            if info.copies() == 1 {
                self.set_copies(info, 2).await?;
                return Ok(false);
            }
            // Fewer copies leave that of the leader.
            self.step_down(server).await?;
            return Ok(false);
        }
        if info.copies() > 1 {
            self.set_copies(info, 1).await?;
            return Ok(false);
        }
        Ok(info.is_settled())
    }

    /// Waits until the stream has a leader of a group of copies.
    pub async fn await_group(&self) {
        const ANSWER: Duration = Duration::from_millis(300);
        const PAUSE: Duration = Duration::from_millis(10);
        loop {
            match tokio::time::timeout(ANSWER, self.info()).await {
                Ok(Ok(info)) if info.is_group() => return,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn set_copies(&self, info: StreamInfo, copies: usize) -> Result<(), ApiError> {
        let mut config = info.config;
        config["num_replicas"] = copies.into();
        self.api.call::<StreamInfo>(&format!("STREAM.UPDATE.{}", self.bucket.stream), &config).await?;
        Ok(())
    }

    /// The name of the server that this instance is connected to.
    pub fn server_name(&self) -> String {
        self.connection.client.server_info().server_name
    }

    /// Asks the stream's leader to let another server lead.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn step_down(&self, successor: &str) -> Result<(), ApiError> {
        let request = format!("STREAM.LEADER.STEPDOWN.{}", self.bucket.stream);
        let body = serde_json::json!({ "placement": { "preferred": successor } });
        self.api.call::<Value>(&request, &body).await.map(drop)
    }

    /// The beginning of the subjects between the instances of the bucket. A mirror that is or was one has
    /// another one than its primary.
    pub fn instances(&self) -> String {
        let name = &self.bucket.name;
        self.facts.mirror_id.map_or_else(|| name.clone(), |id| format!("{name}.{id:016x}"))
    }

    /// Checks that the standby was not promoted, if the endpoint names one.
    ///
    /// # Errors
    /// [`StandbyError`].
    pub async fn check_standby(&self) -> Result<(), StandbyError> {
        match &self.endpoint.standby {
            Some(standby) => fence::check_standby(&self.api, &self.bucket, self.facts, standby).await,
            None => Ok(()),
        }
    }

    /// Fences the primary that this bucket has replaced as its promoted mirror. `info` is that of this
    /// bucket's stream. Returns whether nothing is left to do.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn fence_replaced(&self, info: &StreamInfo) -> Result<bool, ApiError> {
        let place = format!("at {}", self.endpoint.servers.join(","));
        fence::fence_replaced(&self.api, &self.bucket, info, &place).await
    }

    /// Whether the endpoint names a standby.
    pub fn has_standby(&self) -> bool {
        self.endpoint.standby.is_some()
    }

    /// Fences this bucket for good, since its mirror was promoted.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn fence(&self, promotion: &str) -> Result<(), ApiError> {
        fence::fence(&self.api, &self.bucket, promotion).await
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.bucket.stream
    }

    /// Whether a stream's settings are those of the stream that was opened.
    pub fn is_same(&self, info: &StreamInfo) -> bool {
        Bucket::cluster_id(info) == Some(self.facts.cluster_id)
    }

    /// Removes one message. A message that does not exist counts as removed.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn remove(&self, sequence: Sequence) -> Result<(), ApiError> {
        self.api.delete_message(&self.bucket.stream, sequence).await
    }

    /// Whether a key can be a subject.
    ///
    /// # Errors
    /// [`KeyTooLong`].
    pub fn check_key(&self, key: &[u8]) -> Result<(), KeyTooLong> {
        self.bucket.check_key(key)
    }

    /// Lets a restored bucket be served. `end` is the last message of the restore. `snapshot` names the
    /// snapshot, if other members of a cluster must have had the same one.
    ///
    /// # Errors
    /// [`SetupError::Disturbed`], [`SetupError::Api`].
    pub async fn finish_restore(&self, end: Sequence, snapshot: Option<&str>) -> Result<(), SetupError> {
        self.bucket.finish_restore(&self.api, self.facts, end, snapshot).await
    }

    /// The name of the snapshot with which the cluster of the bucket was made anew; `None` if it was not.
    ///
    /// # Errors
    /// [`SetupError::Api`].
    pub async fn restored_snapshot(&self) -> Result<Option<String>, SetupError> {
        let failed = |source| SetupError::Api { stream: self.bucket.stream.clone(), source };
        self.bucket.snapshot(&self.api).await.map_err(failed)
    }
}

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// NATS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The bucket.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// For tests: the record of a message, by its subject without the prefix.
#[doc(hidden)]
pub fn decode_message(subject: &str, headers: &str, payload: &[u8], sequence: Sequence) -> Option<Record> {
    codec::decode(subject, headers, payload, sequence)
}

/// For tests: subject without the prefix, headers and payload of a record's message.
#[doc(hidden)]
pub fn encode_message(record: &Record) -> Result<(String, String, Vec<u8>), KeyTooLong> {
    let (mut subject, mut headers) = (String::new(), b"NATS/1.0\r\n".to_vec());
    codec::write_subject("", &record.body, &mut subject)?;
    codec::write_headers(record, &mut headers);
    let headers = String::from_utf8(headers).expect("headers are text");
    Ok((subject, headers, codec::payload(&record.body).into_owned()))
}
