//! A running server whose store is copied: its snapshot, its changes since, and its numbers.

use crate::client::{Client, ClientError, ClientSettings};
use crate::lease::MIN_TTL;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, AuthStatusRequest, AuthStatusResponse, HashKvRequest,
    HashKvResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, RangeRequest, RangeResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use crate::proto::mvccpb;
use crate::snapshot::{Change, FileError, checked_size_of, unnamed};
use crate::types::{Grant, LeaseId, Revision};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// A lease that is over: its granted TTL is not known any more.
const OVER: Grant = Grant { ttl: MIN_TTL, remaining: Some(0) };
/// Leases that are asked for at once.
const LEASES_AT_ONCE: usize = 64;
/// A part of the message by which etcd refuses a call without a user.
const NO_USER: &str = "user name is empty";
/// The key before all, and the end behind all.
const ALL: &[u8] = b"\0";

/// The first key of [`Source::list`], and the end, which is the last character. The keys of kine are texts,
/// and some of its databases take no other ones.
const LISTED: [&[u8]; 2] = [b" ", "\u{10ffff}".as_bytes()];
/// Keys in a page of it.
const PAGE: i64 = 500;

/// A server that cannot be copied.
#[derive(Debug, Error)]
pub(crate) enum SourceCallError {
    /// None of its endpoints can be reached.
    #[error("--from {0}{remedy}", remedy = remedy(.0))]
    Connect(ClientError),
    /// It refuses a call, or cannot answer it.
    #[error("--from {endpoint}: {error}{remedy}", remedy = remedy(.error))]
    Call {
        /// The endpoint.
        endpoint: String,
        /// Why.
        error: ClientError,
    },
    /// The snapshot is not whole, or cannot be kept.
    #[error("the snapshot of the source cannot be used: {0}")]
    Snapshot(#[from] FileError),
    /// History was removed before it was copied.
    #[error(
        "the source has compacted to revision {floor} before revision {wanted} was copied; run the migration again, and let the \
         source keep its history for longer meanwhile"
    )]
    Compacted {
        /// The floor of the source.
        floor: i64,
        /// The revision that was wanted.
        wanted: Revision,
    },
    /// The watch has ended for another reason.
    #[error("the source has ended the watch: {0}")]
    Canceled(String),
}

impl SourceCallError {
    /// Whether another attempt may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            SourceCallError::Call { error, .. } | SourceCallError::Connect(error) => is_transient(error),
            _ => false,
        }
    }
}

fn is_transient(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } => true,
        ClientError::Refused(status) => matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Internal | Code::DeadlineExceeded | Code::Cancelled
        ),
        ClientError::Endpoint(_) | ClientError::File { .. } => false,
    }
}

/// The advice for an error, behind its text.
fn remedy(error: &ClientError) -> &'static str {
    if is_transient(error) {
        ". If an etcd, a jetway or a kine serves there, run the same command once more, which begins anew"
    } else if matches!(error, ClientError::Refused(status) if status.message().contains(NO_USER)) {
        ". It has auth enabled: give --user with a user who has the role root, and --password"
    } else {
        ""
    }
}

/// A server that is copied.
#[derive(Debug)]
pub(super) struct Source {
    endpoint: String,
    client: Client,
}

/// The changes of a server from a revision on.
#[derive(Debug)]
pub(super) struct Following {
    endpoint: String,
    stream: Streaming<WatchResponse>,
    /// The watch ends with it.
    _requests: mpsc::Sender<WatchRequest>,
    next: Revision,
}

impl Source {
    /// Connects to the first endpoint that can be reached.
    pub(super) async fn connect(from: &[ClientSettings]) -> Result<Source, SourceCallError> {
        let mut refusal = None;
        for settings in from {
            match Client::connect(settings).await {
                Ok(client) => return Ok(Source { endpoint: settings.endpoint.clone(), client }),
                Err(error @ ClientError::Refused(_)) => {
                    refusal = Some(SourceCallError::Call { endpoint: settings.endpoint.clone(), error });
                }
                Err(error) => refusal = Some(SourceCallError::Connect(error)),
            }
        }
        Err(refusal.unwrap_or_else(|| SourceCallError::Connect(ClientError::Endpoint(String::new()))))
    }

    /// A call with one answer.
    async fn ask<Q, R>(&self, path: &'static str, request: Q) -> Result<R, SourceCallError>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        self.client.unary(path, request).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: ClientError) -> SourceCallError {
        SourceCallError::Call { endpoint: self.endpoint.clone(), error }
    }

    /// Takes a snapshot into a file without a name. Returns it with the bytes of the database in it; `None`
    /// if the server sends no snapshots.
    pub(super) async fn snapshot(
        &self,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Option<(File, u64)>, SourceCallError> {
        let (mut file, path) = unnamed()?;
        let failed = |source| FileError::Spool { path: path.clone(), source };
        let call = "/etcdserverpb.Maintenance/Snapshot";
        let stream = self.client.server_stream(call, SnapshotRequest {}).await;
        let mut stream: Streaming<SnapshotResponse> = match stream {
            Err(ClientError::Refused(status)) if has_no_snapshot(&status) => return Ok(None),
            stream => stream.map_err(|error| self.failed(error))?,
        };
        let mut received = 0;
        loop {
            let message = match stream.message().await {
                Err(status) if received == 0 && has_no_snapshot(&status) => return Ok(None),
                message => message.map_err(|status| self.failed(ClientError::Refused(status)))?,
            };
            let Some(message) = message else { break };
            file.write_all(&message.blob).map_err(failed)?;
            received += message.blob.len() as u64;
            progress(received, received + message.remaining_bytes);
        }
        let size = checked_size_of(&mut file, &path)?;
        if size == 0 || size == received {
            return Err(FileError::CutOff { path, size: received }.into());
        }
        Ok(Some((file, size)))
    }

    /// The changes from a revision on.
    pub(super) async fn follow(&self, from: Revision) -> Result<Following, SourceCallError> {
        self.follow_range([ALL; 2], from).await
    }

    /// The same of the keys that [`Self::list`] returns.
    pub(super) async fn follow_listed(&self, from: Revision) -> Result<Following, SourceCallError> {
        self.follow_range(LISTED, from).await
    }

    async fn follow_range(
        &self,
        [key, range_end]: [&'static [u8]; 2],
        from: Revision,
    ) -> Result<Following, SourceCallError> {
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchCreateRequest {
            key: Bytes::from_static(key),
            range_end: Bytes::from_static(range_end),
            start_revision: from.0,
            progress_notify: true,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.try_send(create).expect("it has room for one");
        let stream = self
            .client
            .streams("/etcdserverpb.Watch/Watch", ReceiverStream::new(receiver))
            .await
            .map_err(|error| self.failed(error))?;
        Ok(Following { endpoint: self.endpoint.clone(), stream, _requests: requests, next: from })
    }

    /// The present revision, from a linearizable read.
    pub(super) async fn revision(&self) -> Result<Revision, SourceCallError> {
        let request = RangeRequest { key: Bytes::from_static(ALL), count_only: true, ..Default::default() };
        let answer: RangeResponse = self.ask("/etcdserverpb.KV/Range", request).await?;
        Ok(Revision(answer.header.map_or(0, |header| header.revision)))
    }

    /// The present revision of a server that takes few kinds of ranges.
    pub(super) async fn listed_revision(&self) -> Result<Revision, SourceCallError> {
        let [key, range_end] = LISTED.map(Bytes::from_static);
        let request = RangeRequest { key, range_end, limit: 1, ..Default::default() };
        let answer: RangeResponse = self.ask("/etcdserverpb.KV/Range", request).await?;
        Ok(Revision(answer.header.map_or(0, |header| header.revision)))
    }

    /// All keys at a revision, read in pages. `progress` gets the number of those so far.
    pub(super) async fn list(
        &self,
        revision: Revision,
        progress: &mut (dyn FnMut(usize) + Send),
    ) -> Result<Vec<mvccpb::KeyValue>, SourceCallError> {
        let [mut key, range_end] = LISTED.map(Bytes::from_static);
        let mut pairs = Vec::new();
        loop {
            let range_end = range_end.clone();
            let request =
                RangeRequest { key, range_end, limit: PAGE, revision: revision.0, ..Default::default() };
            let answer: Result<RangeResponse, ClientError> =
                self.client.unary("/etcdserverpb.KV/Range", request).await;
            let RangeResponse { kvs, more, .. } = answer.map_err(|error| match error {
                ClientError::Refused(status) if status.message().contains("has been compacted") => {
                    SourceCallError::Compacted { floor: revision.next().0, wanted: revision }
                }
                error => self.failed(error),
            })?;
            pairs.extend(kvs);
            progress(pairs.len());
            match pairs.last() {
                Some(last) if more => key = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok(pairs),
            }
        }
    }

    /// The number of keys at a revision.
    pub(super) async fn count(&self, revision: Revision) -> Result<i64, SourceCallError> {
        let request = RangeRequest {
            key: Bytes::from_static(ALL),
            range_end: Bytes::from_static(ALL),
            count_only: true,
            revision: revision.0,
            ..Default::default()
        };
        let answer: RangeResponse = self.ask("/etcdserverpb.KV/Range", request).await?;
        Ok(answer.count)
    }

    /// The hash of the store at a revision, and its floor.
    pub(super) async fn hash_kv(
        &self,
        revision: Revision,
    ) -> Result<(u32, Option<Revision>), SourceCallError> {
        let request = HashKvRequest { revision: revision.0 };
        let answer: HashKvResponse = self.ask("/etcdserverpb.Maintenance/HashKV", request).await?;
        let floor = Revision(answer.compact_revision);
        Ok((answer.hash, Some(floor).filter(|floor| floor.0 > 0)))
    }

    /// Each lease, with the time that it has left.
    pub(super) async fn leases(&self) -> Result<BTreeMap<LeaseId, Grant>, SourceCallError> {
        let answer: LeaseLeasesResponse =
            self.ask("/etcdserverpb.Lease/LeaseLeases", LeaseLeasesRequest {}).await?;
        let grants = answer.leases.into_iter().map(|LeaseStatus { id }| async move {
            Ok::<_, SourceCallError>((LeaseId(id), self.grant(id).await?))
        });
        // The source is fenced meanwhile.
        futures_util::stream::iter(grants).buffer_unordered(LEASES_AT_ONCE).try_collect().await
    }

    /// Whether the server is a kine, which alone does not know its leases.
    pub(super) async fn is_kine(&self) -> Result<bool, SourceCallError> {
        match self.leases().await {
            Ok(_) => Ok(false),
            Err(SourceCallError::Call { error: ClientError::Refused(status), .. })
                if status.code() == Code::Unimplemented || status.message().contains("not supported") =>
            {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// A lease, with the time that it has left.
    async fn grant(&self, id: i64) -> Result<Grant, SourceCallError> {
        let request = LeaseTimeToLiveRequest { id, keys: false };
        let lease: Result<LeaseTimeToLiveResponse, ClientError> =
            self.client.unary("/etcdserverpb.Lease/LeaseTimeToLive", request).await;
        match lease {
            Ok(LeaseTimeToLiveResponse { ttl, granted_ttl, .. }) if granted_ttl > 0 => {
                Ok(Grant { ttl: granted_ttl, remaining: Some(ttl.max(0)) })
            }
            // It is over, and under the fence the source does not delete its keys. The copy does.
            Ok(_) => Ok(OVER),
            Err(ClientError::Refused(status)) if status.code() == Code::NotFound => Ok(OVER),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Whether auth is enabled, and its revision, which every change of users and roles raises. `None` if the
    /// server has no such call, as an etcd 3.4.
    pub(super) async fn auth_revision(&self) -> Result<Option<(bool, u64)>, SourceCallError> {
        match self.client.unary("/etcdserverpb.Auth/AuthStatus", AuthStatusRequest {}).await {
            Ok(AuthStatusResponse { enabled, auth_revision, .. }) => Ok(Some((enabled, auth_revision))),
            Err(ClientError::Refused(status)) if status.code() == Code::Unimplemented => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The member that answers.
    pub(super) async fn member_id(&self) -> Result<u64, SourceCallError> {
        let status: StatusResponse = self.ask("/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
        Ok(status.header.map_or(0, |header| header.member_id))
    }

    /// Raises or lowers the alarm of a member under which none of them writes.
    pub(super) async fn fence(&self, member_id: u64, is_raised: bool) -> Result<(), SourceCallError> {
        let action = if is_raised { AlarmAction::Activate } else { AlarmAction::Deactivate };
        let request = AlarmRequest { action: action.into(), member_id, alarm: AlarmType::Corrupt.into() };
        let _answer: AlarmResponse = self.ask("/etcdserverpb.Maintenance/Alarm", request).await?;
        Ok(())
    }
}

impl Following {
    /// The next changes, by revisions. None of a revision follows later. May be empty. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Vec<Vec<Change>>, SourceCallError> {
        let ended = || tonic::Status::unavailable("the stream has ended");
        let message = self.stream.message().await.and_then(|message| message.ok_or_else(ended));
        let answer = message.map_err(|status| SourceCallError::Call {
            endpoint: self.endpoint.clone(),
            error: ClientError::Refused(status),
        })?;
        if answer.compact_revision > 0 {
            return Err(SourceCallError::Compacted { floor: answer.compact_revision, wanted: self.next });
        }
        if answer.canceled {
            return Err(SourceCallError::Canceled(answer.cancel_reason));
        }
        let mut revisions: Vec<Vec<Change>> = Vec::new();
        for event in answer.events {
            let is_delete = event.r#type() == mvccpb::event::EventType::Delete;
            let pair = event.kv.unwrap_or_default();
            let revision = Revision(pair.mod_revision);
            if revisions.last().is_none_or(|changes| changes[0].revision != revision) {
                revisions.push(Vec::new());
            }
            let changes = revisions.last_mut().expect("one was added if there was none");
            let place = changes.len() as u64;
            changes.push(Change { revision, place, is_delete, pair });
            self.next = revision.next();
        }
        Ok(revisions)
    }
}

/// Whether an error means that a server has no snapshots. kine has no code of its own for that.
fn has_no_snapshot(status: &tonic::Status) -> bool {
    status.code() == Code::Unimplemented || status.message().contains("snapshot is not supported")
}
