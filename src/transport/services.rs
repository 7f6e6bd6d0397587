//! Passes each gRPC call to its service, by the path. tonic's router is axum's, which boxes the service and
//! the body of each call once more.

use super::grpc::CallService;
use crate::api::auth::AuthService;
use crate::api::call::LeaderRequired;
use crate::api::cluster::ClusterService;
use crate::api::election::ElectionService;
use crate::api::health::HealthService;
use crate::api::kv::KvService;
use crate::api::lease::LeaseService;
use crate::api::lock::LockService;
use crate::api::maintenance::MaintenanceService;
use crate::api::watch::WatchService;
use crate::proto::etcdserverpb::auth_server::AuthServer;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

/// The services with the layers around them, from the outside in.
pub(crate) type GrpcServices = CallService<LeaderRequired<Services>>;

/// All services.
#[derive(Debug)]
pub(crate) struct ServiceSet {
    pub(crate) kv: KvServer<KvService>,
    pub(crate) watch: WatchService,
    pub(crate) lease: LeaseServer<LeaseService>,
    pub(crate) maintenance: MaintenanceServer<MaintenanceService>,
    pub(crate) cluster: ClusterServer<ClusterService>,
    pub(crate) auth: AuthServer<AuthService>,
    pub(crate) lock: LockServer<LockService>,
    pub(crate) election: ElectionServer<ElectionService>,
    pub(crate) health: HealthServer<HealthService>,
}

/// Passes each call to its service.
#[derive(Clone, Debug)]
pub(crate) struct Services(Arc<ServiceSet>);

impl Services {
    pub(crate) fn new(services: ServiceSet) -> Services {
        Services(Arc::new(services))
    }
}

type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<B> Service<Request<B>> for Services
where
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let services = &self.0;
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            "etcdserverpb.KV" => services.kv.clone().call(request),
            "etcdserverpb.Watch" => services.watch.clone().call(request),
            "etcdserverpb.Lease" => services.lease.clone().call(request),
            "etcdserverpb.Maintenance" => services.maintenance.clone().call(request),
            "etcdserverpb.Cluster" => services.cluster.clone().call(request),
            "etcdserverpb.Auth" => services.auth.clone().call(request),
            "v3lockpb.Lock" => services.lock.clone().call(request),
            "v3electionpb.Election" => services.election.clone().call(request),
            "grpc.health.v1.Health" => services.health.clone().call(request),
            _ => {
                let refusal = Status::unimplemented(format!("unknown service {service}"));
                Box::pin(std::future::ready(Ok(refusal.into_http())))
            }
        }
    }
}
