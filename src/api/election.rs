//! The Election service: the candidate with the oldest key below the election's name leads, and the key's
//! value is its proclamation.

use super::local::{
    Caller, Local, OnDrop, created_at, delete, end_of, get, is_delete, key_of, oldest, one, prefix_of, put,
};
use super::lock::first_found;
use super::status_code::unknown;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::{ResponseHeader, TxnRequest};
use crate::proto::mvccpb::KeyValue;
use crate::proto::v3electionpb::election_server::Election;
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use std::pin::Pin;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status};

/// The Election service of an instance.
#[derive(Clone, Debug)]
pub(crate) struct ElectionService {
    local: Local,
    header: super::header::HeaderSource,
}

impl ElectionService {
    /// Elections are keys of `local`'s store.
    pub(crate) fn new(local: Local, header: super::header::HeaderSource) -> ElectionService {
        ElectionService { local, header }
    }
}

/// A candidate's key, with the creation revision that makes it the candidate's.
#[derive(Clone, Debug)]
struct Candidacy {
    key: Bytes,
    created: i64,
    lease: i64,
}

impl Candidacy {
    async fn proclaim(&self, caller: &Caller, value: Bytes) -> Result<Option<ResponseHeader>, Status> {
        let txn = TxnRequest {
            compare: vec![created_at(self.key.clone(), self.created)],
            success: vec![put(self.key.clone(), value, self.lease)],
            failure: Vec::new(),
        };
        let answer = caller.txn(txn).await?;
        if answer.succeeded { Ok(answer.header) } else { Err(unknown(&EtcdError::ElectionNotLeader)) }
    }

    async fn resign(&self, caller: &Caller) -> Result<Option<ResponseHeader>, Status> {
        let txn = TxnRequest {
            compare: vec![created_at(self.key.clone(), self.created)],
            success: vec![delete(self.key.clone())],
            failure: Vec::new(),
        };
        Ok(caller.txn(txn).await?.header)
    }
}

async fn campaign(caller: &Caller, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let CampaignRequest { name, lease, value } = request;
    let lease = caller.session(lease).await?;
    let prefix = prefix_of(&name);
    let key = key_of(&prefix, lease);
    let txn = TxnRequest {
        compare: vec![created_at(key.clone(), 0)],
        success: vec![put(key.clone(), value.clone(), lease)],
        failure: vec![get(one(key.clone()))],
    };
    let answer = caller.txn(txn).await?;
    let created = answer.header.as_ref().map_or(0, |header| header.revision);
    let mut candidacy = Candidacy { key: key.clone(), created, lease };
    if let Some(own) = first_found(&answer, 0) {
        candidacy.created = own.create_revision;
        if own.value != value
            && let Err(error) = candidacy.proclaim(caller, value).await
        {
            candidacy.resign(caller).await.ok();
            return Err(error);
        }
    }
    // A candidate that stops waiting must not be elected.
    let abandon = OnDrop::new({
        let (caller, candidacy) = (caller.clone(), candidacy.clone());
        move || {
            tokio::spawn(async move { candidacy.resign(&caller).await });
        }
    });
    let waited = caller.wait_for_older(&prefix, candidacy.created).await;
    abandon.disarm();
    waited?;
    let leader = LeaderKey { name, key, rev: candidacy.created, lease };
    Ok(CampaignResponse { header: answer.header, leader: Some(leader) })
}

/// The present leader of an election, if there is one.
async fn leader(
    caller: &Caller,
    prefix: &[u8],
) -> Result<(Option<ResponseHeader>, Option<KeyValue>), Status> {
    let mut found = caller.range(oldest(prefix)).await?;
    Ok((found.header, found.kvs.pop()))
}

impl ElectionService {
    /// The leader key in a Proclaim or a Resign.
    async fn candidacy(caller: &Caller, leader: Option<LeaderKey>) -> Result<Candidacy, Status> {
        let leader = leader.ok_or_else(|| unknown(&EtcdError::ElectionLeaderMissing))?;
        let lease = caller.session(leader.lease).await?;
        Ok(Candidacy { key: leader.key, created: leader.rev, lease })
    }

    fn response(&self, revision: Revision, kv: KeyValue) -> LeaderResponse {
        LeaderResponse { header: Some(self.header.at(revision)), kv: Some(kv) }
    }

    /// Each leader and each of its values. Ends with its watch.
    fn observed(
        self,
        caller: Caller,
        name: &[u8],
    ) -> impl Stream<Item = Result<LeaderResponse, Status>> + use<> {
        let prefix = prefix_of(name);
        async_stream::try_stream! {
            loop {
                let (header, found) = leader(&caller, &prefix).await?;
                let mut revision = Revision(header.map_or(0, |header| header.revision));
                let kv = if let Some(kv) = found {
                    kv
                } else {
                    let below = KeyRange::from_wire(prefix.clone().into(), &end_of(&prefix));
                    let mut events = caller.watch(below, revision);
                    loop {
                        let (_, events) = events.next().await?;
                        let put = events.into_iter().find(|event| !is_delete(event));
                        if let Some(kv) = put.and_then(|event| event.kv) {
                            revision = Revision(kv.mod_revision);
                            break kv;
                        }
                    }
                };
                let key = kv.key.clone();
                yield self.response(revision, kv);
                let mut events = caller.watch(KeyRange::Single(key), revision.next());
                'leads: loop {
                    let (revision, events) = events.next().await?;
                    for event in events {
                        if is_delete(&event) {
                            break 'leads;
                        }
                        yield self.response(revision, event.kv.unwrap_or_default());
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let (caller, request) = self.local.on_behalf_of(request);
        campaign(&caller, request).await.map(Response::new)
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let (caller, ProclaimRequest { leader, value }) = self.local.on_behalf_of(request);
        let candidacy = ElectionService::candidacy(&caller, leader).await?;
        let header = candidacy.proclaim(&caller, value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (caller, LeaderRequest { name }) = self.local.on_behalf_of(request);
        let (header, kv) = leader(&caller, &prefix_of(&name)).await?;
        let kv = kv.ok_or_else(|| unknown(&EtcdError::ElectionNoLeader))?;
        Ok(Response::new(LeaderResponse { header, kv: Some(kv) }))
    }

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (caller, LeaderRequest { name }) = self.local.on_behalf_of(request);
        // As in etcd, a failed read or watch ends the stream without an error.
        let observed = self.clone().observed(caller, &name);
        let observed = observed.take_while(|leader| {
            leader.as_ref().map_or_else(|error| error.code() != Code::Unknown, |_| true)
        });
        Ok(Response::new(Box::pin(observed)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let (caller, ResignRequest { leader }) = self.local.on_behalf_of(request);
        let candidacy = ElectionService::candidacy(&caller, leader).await?;
        let header = candidacy.resign(&caller).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}
