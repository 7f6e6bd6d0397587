//! Makes the gRPC services.

use super::MESSAGE_OVERHEAD_BYTES;
use crate::api::auth::AuthService;
use crate::api::cluster::{ClusterService, Founding};
use crate::api::election::ElectionService;
use crate::api::header::HeaderSource;
use crate::api::health::HealthService;
use crate::api::kv::{KvService, Limits};
use crate::api::lease::LeaseService;
use crate::api::local::Local;
use crate::api::lock::LockService;
use crate::api::maintenance::MaintenanceService;
use crate::api::watch::{self as watch_api, WatchService};
use crate::cli::{ServerSettings, Storage};
use crate::engine::Engine;
use crate::proto::etcdserverpb::auth_server::AuthServer;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;
use crate::telemetry::Operations;
use crate::transport::{ServiceSet, Services};
use crate::watch::WatchHub;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;

/// Limits of the messages of every service. Responses are not compressed, not even for clients that compress
/// their requests: most clients offer to take gzip, and compression would cost each of their calls time.
macro_rules! limited {
    ($service:expr, $message_bytes:expr) => {
        $service
            .max_decoding_message_size($message_bytes)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
    };
}

/// The services over an engine. `shutdown` ends their streams.
pub(super) fn services(
    settings: &ServerSettings,
    engine: &Engine,
    hub: &WatchHub,
    header: &HeaderSource,
    founding: Option<Founding>,
    operations: Operations,
    shutdown: &CancellationToken,
) -> Services {
    let limits = Limits { max_request_bytes: settings.max_request_bytes, max_txn_ops: settings.max_txn_ops };
    let message_bytes = settings.max_request_bytes + MESSAGE_OVERHEAD_BYTES;
    let watch_settings = watch_api::WatchSettings {
        progress_interval: settings.progress_interval,
        max_request_bytes: settings.max_request_bytes,
    };
    let kv = KvService::new(engine.clone(), header.clone(), limits, operations, hub.clone());
    let lease = LeaseService::new(engine.clone(), header.clone(), shutdown.clone());
    let local = Local::new(kv.clone(), lease.clone(), hub.clone(), engine.reader().clone(), shutdown.clone());
    let watch = WatchService::new(
        hub.clone(),
        engine.reader().clone(),
        header.clone(),
        watch_settings,
        shutdown.clone(),
    )
    .with_leader(engine.has_leader())
    .with_users(engine.clone());
    let token = match &settings.storage {
        Storage::Embedded { as_member, .. } => {
            as_member.as_ref().as_ref().map(|cluster| cluster.server.token.clone())
        }
        Storage::External(_) => Ok(String::new()),
    };
    let token = token.unwrap_or_default();
    let maintenance = MaintenanceService::new(engine.clone(), header.clone(), settings.quota_bytes);
    let cluster = ClusterService::new(engine.clone(), header.clone(), token, founding);
    let auth = AuthService::new(engine.clone(), header.clone());
    Services::new(ServiceSet {
        kv: limited!(KvServer::new(kv), message_bytes),
        watch,
        lease: limited!(LeaseServer::new(lease), message_bytes),
        maintenance: limited!(MaintenanceServer::new(maintenance), message_bytes),
        cluster: limited!(ClusterServer::new(cluster), message_bytes),
        auth: limited!(AuthServer::new(auth), message_bytes),
        lock: limited!(LockServer::new(LockService::new(local.clone())), message_bytes),
        election: limited!(ElectionServer::new(ElectionService::new(local, header.clone())), message_bytes),
        health: limited!(HealthServer::new(HealthService::new(shutdown.clone())), message_bytes),
    })
}
