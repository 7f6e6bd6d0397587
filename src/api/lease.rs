//! The Lease service.

use super::header::HeaderSource;
use crate::engine::Engine;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use crate::types::LeaseId;
use std::pin::Pin;
use std::time::Instant;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What a grant counts against the quota.
const GRANT_COST_BYTES: u64 = 64;

/// The Lease service of an instance.
#[derive(Clone, Debug)]
pub struct LeaseService {
    engine: Engine,
    header: HeaderSource,
    shutdown: CancellationToken,
}

impl LeaseService {
    /// Serves `engine` until `shutdown`.
    pub fn new(engine: Engine, header: HeaderSource, shutdown: CancellationToken) -> LeaseService {
        LeaseService { engine, header, shutdown }
    }

    async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        // Taken before the renewal, so that no client sees a renewal at a revision after the lease's end.
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
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        self.engine.refuse_if_corrupt()?;
        self.engine.claim_space(GRANT_COST_BYTES).await?;
        let (id, ttl) = self.engine.grant_lease(id, ttl).await?;
        let header = Some(self.header.at(self.engine.reader().revision()));
        Ok(Response::new(LeaseGrantResponse { header, id: id.0, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.engine.refuse_if_corrupt()?;
        let state = self.engine.revoke_lease(LeaseId(request.into_inner().id)).await?;
        Ok(Response::new(LeaseRevokeResponse { header: Some(self.header.at(state.revision)) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let mut requests = request.into_inner();
        let service = self.clone();
        let responses = async_stream::stream! {
            loop {
                let request = tokio::select! {
                    () = service.shutdown.cancelled() => {
                        yield Err(crate::error::EtcdError::Stopped.into());
                        return;
                    }
                    request = requests.next() => request,
                };
                match request {
                    Some(Ok(request)) => {
                        let response = service.keep_alive(request.id).await;
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
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let lease = self.engine.lease(LeaseId(id)).await?;
        let header = Some(self.header.at(self.engine.reader().revision()));
        let response = match lease {
            Some(lease) => LeaseTimeToLiveResponse {
                header,
                id,
                ttl: lease.remaining(Instant::now()),
                granted_ttl: lease.ttl,
                keys: if keys { self.engine.attachments().keys(LeaseId(id)) } else { Vec::new() },
            },
            None => LeaseTimeToLiveResponse { header, id, ttl: -1, ..LeaseTimeToLiveResponse::default() },
        };
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let leases = self.engine.all_leases().await?;
        let leases = leases.into_iter().map(|lease| LeaseStatus { id: lease.id.0 }).collect();
        let header = Some(self.header.at(self.engine.reader().revision()));
        Ok(Response::new(LeaseLeasesResponse { header, leases }))
    }
}
