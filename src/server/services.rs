//! The gRPC services behind one door. A call finds its service by the path alone, without a router and its boxes on the
//! way: every call passes here.

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
use crate::telemetry::CountingService;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

/// All that calls pass through, from the outside in.
pub(super) type Calls = CountingService<LeaderRequired<Services>>;

/// The services by their names.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) kv: KvServer<KvService>,
    pub(super) watch: WatchService,
    pub(super) lease: LeaseServer<LeaseService>,
    pub(super) maintenance: MaintenanceServer<MaintenanceService>,
    pub(super) cluster: ClusterServer<ClusterService>,
    pub(super) auth: AuthServer<AuthService>,
    pub(super) lock: LockServer<LockService>,
    pub(super) election: ElectionServer<ElectionService>,
    pub(super) health: HealthServer<HealthService>,
}

/// Passes each call to its service.
#[derive(Clone, Debug)]
pub(super) struct Services(Arc<Named>);

impl Services {
    pub(super) fn new(named: Named) -> Services {
        Services(Arc::new(named))
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<B> Service<Request<B>> for Services
where
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let named = &self.0;
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            "etcdserverpb.KV" => named.kv.clone().call(request),
            "etcdserverpb.Watch" => named.watch.clone().call(request),
            "etcdserverpb.Lease" => named.lease.clone().call(request),
            "etcdserverpb.Maintenance" => named.maintenance.clone().call(request),
            "etcdserverpb.Cluster" => named.cluster.clone().call(request),
            "etcdserverpb.Auth" => named.auth.clone().call(request),
            "v3lockpb.Lock" => named.lock.clone().call(request),
            "v3electionpb.Election" => named.election.clone().call(request),
            "grpc.health.v1.Health" => named.health.clone().call(request),
            _ => {
                let refusal = Status::unimplemented(format!("unknown service {service}"));
                Box::pin(std::future::ready(Ok(refusal.into_http())))
            }
        }
    }
}
