//! The Lease service.

use super::call::{leader_lost, wants_leader};
use super::header::HeaderSource;
use super::identity::{caller, credentials, require_identity};
use crate::auth::Credentials;
use crate::engine::Engine;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use crate::types::LeaseId;
use std::pin::Pin;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Bytes of a grant that count against the quota.
const GRANT_COST_BYTES: u64 = 64;

/// The Lease service of an instance.
#[derive(Clone, Debug)]
pub(crate) struct LeaseService {
    engine: Engine,
    header: HeaderSource,
    shutdown: CancellationToken,
    has_leader: watch::Receiver<bool>,
}

impl LeaseService {
    /// Serves `engine` until `shutdown`. Streams that ask for a leader end without one.
    pub(crate) fn new(engine: Engine, header: HeaderSource, shutdown: CancellationToken) -> LeaseService {
        let has_leader = engine.has_leader();
        LeaseService { engine, header, shutdown, has_leader }
    }

    async fn keep_alive(&self, id: i64, credentials: &Credentials) -> Result<LeaseKeepAliveResponse, Status> {
        // Every keep-alive is checked, since a token may expire during the call.
        let caller = self.engine.identify(credentials).await?;
        self.engine.auth().check_identified(&caller)?;
        self.engine.check_lease_write(&caller, LeaseId(id))?;
        // The header is made before the renewal, so that no client sees a renewal at a revision after the
        // lease's end.
        let header = self.header.at(self.engine.reader().revision());
        let ttl = self.engine.keep_lease_alive(LeaseId(id)).await?.unwrap_or(0);
        Ok(LeaseKeepAliveResponse { header: Some(header), id, ttl })
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        self.engine.claim_space(GRANT_COST_BYTES).await?;
        require_identity(&self.engine, &request).await?;
        self.engine.admit(GRANT_COST_BYTES)?;
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        let (id, ttl) = self.engine.grant_lease(id, ttl).await?;
        let header = Some(self.header.at(self.engine.reader().revision()));
        Ok(Response::new(LeaseGrantResponse { header, id: id.0, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let caller = caller(&self.engine, &request).await?;
        self.engine.auth().check_identified(&caller)?;
        self.engine.admit(0)?;
        let revision = self.engine.revoke_lease(LeaseId(request.into_inner().id), &caller).await?;
        Ok(Response::new(LeaseRevokeResponse { header: Some(self.header.at(revision)) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let has_leader = wants_leader(request.metadata().as_ref()).then(|| self.has_leader.clone());
        let credentials = credentials(request.metadata(), request.extensions());
        let mut requests = request.into_inner();
        let service = self.clone();
        let responses = async_stream::stream! {
            let mut leader_lost = std::pin::pin!(leader_lost(has_leader));
            loop {
                let request = tokio::select! {
                    () = service.shutdown.cancelled() => {
                        yield Err(EtcdError::Stopped.into());
                        return;
                    }
                    () = &mut leader_lost => {
                        yield Err(EtcdError::NoLeader.into());
                        return;
                    }
                    request = requests.next() => request,
                };
                match request {
                    Some(Ok(request)) => {
                        let response = tokio::select! {
                            () = &mut leader_lost => Err(EtcdError::NoLeader.into()),
                            response = service.keep_alive(request.id, &credentials) => response,
                        };
                        let failed = response.is_err();
                        yield response;
                        if failed {
                            return;
                        }
                    }
                    Some(Err(status)) => {
                        yield Err(status);
                        return;
                    }
                    None => return,
                }
            }
        };
        Ok(Response::new(Box::pin(responses)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let caller = caller(&self.engine, &request).await?;
        self.engine.auth().check_identified(&caller)?;
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let (left, state) = self.engine.lease_time_left(LeaseId(id)).await?;
        let header = Some(self.header.at(state.revision));
        if keys {
            self.engine.check_leases_read(&caller, std::iter::once(LeaseId(id)))?;
        }
        let response = match left {
            Some((ttl, granted_ttl)) => LeaseTimeToLiveResponse {
                header,
                id,
                ttl,
                granted_ttl,
                keys: if keys { self.engine.keys_of(LeaseId(id)) } else { Vec::new() },
            },
            None => LeaseTimeToLiveResponse { header, id, ttl: -1, ..LeaseTimeToLiveResponse::default() },
        };
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let caller = caller(&self.engine, &request).await?;
        self.engine.auth().check_identified(&caller)?;
        let leases = self.engine.all_leases().await?;
        self.engine.check_leases_read(&caller, leases.iter().copied())?;
        let leases = leases.into_iter().map(|lease| LeaseStatus { id: lease.0 }).collect();
        let header = Some(self.header.at(self.engine.reader().revision()));
        Ok(Response::new(LeaseLeasesResponse { header, leases }))
    }
}
