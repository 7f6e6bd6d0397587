//! gRPC's health service. It has one name, the empty one for the whole server, whose status is always
//! SERVING.
//!
//! `tonic-health` (0.14.9) has no `List`, and refuses to watch an unknown name. grpc-go, and so etcd, has
//! `List`, and reports such a name as `SERVICE_UNKNOWN`.

use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::pin::Pin;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// The health service of an instance.
#[derive(Clone, Debug)]
pub(crate) struct HealthService {
    shutdown: CancellationToken,
}

impl HealthService {
    /// Serves until `shutdown`, which ends watches.
    pub(crate) fn new(shutdown: CancellationToken) -> HealthService {
        HealthService { shutdown }
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if request.into_inner().service.is_empty() {
            Ok(Response::new(answer(ServingStatus::Serving)))
        } else {
            Err(Status::not_found("unknown service"))
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let statuses = HashMap::from([(String::new(), answer(ServingStatus::Serving))]);
        Ok(Response::new(HealthListResponse { statuses }))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.into_inner().service.is_empty();
        let status = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        // The status changes only at the end.
        let shutdown = self.shutdown.child_token();
        let until_the_end = stream::pending().take_until(async move { shutdown.cancelled().await });
        let statuses = stream::once(std::future::ready(Ok(answer(status)))).chain(until_the_end);
        Ok(Response::new(Box::pin(statuses)))
    }
}
