//! The composition root: starts every part in order, tells the world when it serves, and stops it in reverse.

mod access;
mod auto_compaction;
mod connection;
mod cork;
mod gate;
mod greeting;
mod http;
mod limits;
mod listener;
mod notify;
mod pings;
mod port;
mod services;
mod shutdown;
mod tls;

use crate::api::auth::AuthService;
use crate::api::call::RequireLeader;
use crate::api::cluster::ClusterService;
use crate::api::election::ElectionService;
use crate::api::header::HeaderSource;
use crate::api::health::HealthService;
use crate::api::kv::{KvService, Limits};
use crate::api::lease::LeaseService;
use crate::api::local::Local;
use crate::api::lock::LockService;
use crate::api::maintenance::MaintenanceService;
use crate::api::watch::{self as watch_api, WatchService};
use crate::auth::{self, TokenSettings};
use crate::cli::{ListenAddress, ListenUrl, ServerSettings, Storage};
use crate::core::Writer;
use crate::durability::Level;
use crate::engine::{self, Engine, Phase};
use crate::gateway::Gateway;
use crate::log::{Auth, Endpoint};
use crate::nats_server::{self, NatsServer, SyncMode};
use crate::primitive::Notify;
use crate::proto::etcdserverpb::auth_server::AuthServer;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;
use crate::record::Member;
use crate::telemetry::{CountCalls, Metrics, Operations};
use crate::watch::WatchHub;
use access::Access;
use connection::Http2Settings;
use gate::{Gate, Purpose, Served, Stage};
use http::{Probes, Web};
use listener::{ListenError, Listener};
use services::{Calls, Named, Services};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tls::{Tls, TlsError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tower::Layer;
use tower::util::BoxCloneSyncService;

/// What etcd adds to the request limit for the size of a gRPC message.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// How long calls may take to end when the server stops; etcd gives them as much.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(7);

/// jetway could not start, or could not go on.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A certificate or a flag of TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The embedded nats-server.
    #[error(transparent)]
    NatsServer(#[from] nats_server::Error),
    /// NATS or the bucket.
    #[error(transparent)]
    Engine(#[from] engine::StartError),
    /// The disk, or damaged data.
    #[error("{0}")]
    Data(String),
    /// The kind of tokens, or their keys.
    #[error("--auth-token: {0}")]
    Token(#[from] auth::TokenError),
    /// The process itself.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
}

/// Serves until a signal says to stop.
pub async fn serve(settings: ServerSettings) -> Result<(), ServeError> {
    let shutdown = CancellationToken::new();
    let signals = shutdown::Signals::new().map_err(ServeError::Signals)?;
    let (stage, gate) = watch::channel(Stage::Starting("opening the ports".to_owned()));
    let http2 = Http2Settings {
        max_concurrent_streams: settings.max_concurrent_streams,
        keepalive_interval: settings.keepalive_interval,
        keepalive_timeout: settings.keepalive_timeout,
        keepalive_min_time: settings.keepalive_min_time,
        counts_pings_over_tls: !settings.listen_client_http.is_empty(),
    };
    let tls = match &settings.tls {
        None => None,
        Some(tls) => {
            Some(Arc::new(Tls::new(tls, hosts(settings.listen.iter().chain(&settings.listen_client_http)))?))
        }
    };
    let connections = limits::connections();
    let mut listeners = Vec::new();
    let for_clients = if settings.listen_client_http.is_empty() { Purpose::Clients } else { Purpose::Grpc };
    for (flag, urls, purpose, limit) in [
        ("--listen-client-urls", &settings.listen, for_clients, Some(&connections)),
        ("--listen-client-http-urls", &settings.listen_client_http, Purpose::Http, Some(&connections)),
        // Probes get through when clients have taken all there is.
        ("--listen-metrics-urls", &settings.listen_metrics, Purpose::Probes, None),
    ] {
        for listen in urls {
            let listener = Listener::bind(
                flag,
                listen,
                tls.as_ref(),
                http2,
                limit.cloned(),
                settings.socket_reuse_port,
            )?;
            listeners.push((listener, Gate::new(gate.clone(), purpose)));
        }
    }
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|(listener, gate)| tokio::spawn(listener.serve(gate, shutdown.clone())))
        .collect();
    let signalled = CancellationToken::new();
    let stop = signalled.clone();
    tokio::spawn(async move {
        signals.wait().await;
        stop.cancel();
    });
    let started = tokio::select! {
        started = start(&settings, &stage, &shutdown) => started?,
        // Everything that was started stops as it is dropped; nobody has been served yet.
        () = signalled.cancelled() => {
            shutdown.cancel();
            return Ok(());
        }
    };
    let failure = tokio::select! {
        () = signalled.cancelled() => None,
        reason = started.engine.failed() => Some(ServeError::Data(reason)),
    };
    // Another instance writes before this one stops, so that no call waits for an election.
    if failure.is_none() {
        started.engine.resign().await;
    }
    shutdown.cancel();
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, futures_util::future::join_all(listeners)).await;
    if drained.is_err() {
        tracing::info!("connections that did not end in time are dropped");
    }
    started.engine.stop();
    if let Some(nats) = started.nats {
        nats.stop().await?;
    }
    failure.map_or(Ok(()), Err)
}

/// What has to be stopped in the end.
struct Started {
    engine: Engine,
    nats: Option<NatsServer>,
}

async fn start(
    settings: &ServerSettings,
    stage: &watch::Sender<Stage>,
    shutdown: &CancellationToken,
) -> Result<Started, ServeError> {
    let starting = |doing: String| drop(stage.send_replace(Stage::Starting(doing)));
    let auth = auth_settings(settings)?;
    starting("starting nats-server".into());
    let (nats, endpoint, store_dir, durability) = match &settings.storage {
        Storage::External(endpoint) => (None, endpoint.clone(), None, Level::Nats),
        Storage::Embedded { data_dir, binary, config, sync, bucket } => {
            let mut nats = nats_server::NatsServerSettings::new(data_dir);
            nats.binary.clone_from(binary);
            nats.extra_config.clone_from(config);
            nats.sync = *sync;
            // A message is one key's value, which a request can be full of; its header fits into the overhead.
            let largest = settings.max_request_bytes + MESSAGE_OVERHEAD_BYTES;
            nats.max_payload_bytes = nats.max_payload_bytes.max(largest as u32);
            let nats = NatsServer::start(nats).await?;
            let endpoint = Endpoint {
                servers: nats.client_url().into_iter().collect(),
                auth: Auth::Token(nats.token().to_owned()),
                bucket: bucket.clone(),
                replicas: None,
                ca_file: None,
                client_cert: None,
            };
            let durability = match sync {
                SyncMode::Group => Level::Group,
                SyncMode::Always => Level::Always,
                SyncMode::Lazy => Level::Lazy,
            };
            (Some(nats), endpoint, Some(nats_server::store_dir(data_dir)), durability)
        }
    };
    starting("connecting to NATS".into());
    let engine_settings = engine::Settings {
        endpoint,
        is_alone: nats.is_some(),
        linearizable_reads: settings.linearizable_reads,
        store_dir,
        durability,
        synced_store: nats.as_ref().and_then(NatsServer::synced_store),
        store_error: nats.as_ref().map(NatsServer::write_error),
        quota_bytes: settings.quota_bytes,
        member: Member {
            id: member_id(settings),
            name: settings.name.clone(),
            client_urls: settings.advertise.clone(),
            peer_urls: settings.peer_urls.clone(),
        },
        heartbeat_interval: settings.heartbeat_interval,
        election_timeout: settings.election_timeout,
        accepts_loss: settings.accept_data_loss,
        auth,
    };
    let published = Arc::new(Notify::new());
    let engine = Box::pin(Engine::start(engine_settings, Writer::new(), Arc::clone(&published))).await?;
    let mut phase = engine.phase();
    loop {
        let now = phase.borrow_and_update().clone();
        match now {
            Phase::Loading { .. } => starting(now.to_string()),
            Phase::Serving | Phase::Stopped => break,
        }
        tokio::select! {
            changed = phase.changed() => if changed.is_err() {
                break;
            },
            reason = engine.failed() => {
                engine.stop();
                if let Some(nats) = nats {
                    nats.stop().await?;
                }
                return Err(ServeError::Data(reason));
            }
        }
    }
    let hub = WatchHub::spawn(engine.reader().clone(), published);
    if let Some(mode) = settings.auto_compaction {
        auto_compaction::spawn(mode, engine.clone(), hub.clone(), shutdown.clone());
    }
    let header = HeaderSource {
        cluster_id: engine.cluster_id(),
        member_id: member_id(settings),
        epoch: engine.epoch(),
    };
    let metrics = Arc::new(Metrics::new(
        &engine,
        hub.clone(),
        header.member_id,
        settings.quota_bytes,
        settings.metrics_extensive,
    ));
    let calls = CountCalls { calls: metrics.grpc(), slow: settings.warning_unary_request_duration };
    let services = services(settings, &engine, &hub, &header, metrics.operations(), shutdown);
    let require_leader = RequireLeader { has_leader: engine.has_leader() };
    let grpc: Calls = calls.layer(require_leader.layer(services));
    let probes = Probes { engine: engine.clone(), metrics };
    let gateway = settings.enable_grpc_gateway.then(|| {
        Gateway::new(
            BoxCloneSyncService::new(grpc.clone()),
            settings.max_request_bytes + MESSAGE_OVERHEAD_BYTES,
        )
    });
    let access = Access::new(settings.cors.clone(), settings.host_whitelist.clone());
    let web = Web::new(access, gateway, probes.clone(), settings.enable_pprof);
    // All at once: nobody who has been served may be told that the server is not ready.
    stage.send_replace(Stage::Ready(Served { grpc, web, probes: http::metrics_routes(probes) }));
    for listen in &settings.listen {
        tracing::info!(url = listen.url, "serving client traffic");
    }
    tracing::info!(revision = %engine.reader().revision(), sync = durability.name(), "ready to serve client requests");
    notify::ready();
    Ok(Started { engine, nats })
}

/// What holds for the messages of every service. Answers are not compressed, even to those who compress what they ask: it
/// would cost every client of grpc-go's time that offers to take it.
macro_rules! limited {
    ($service:expr, $message_bytes:expr) => {
        $service
            .max_decoding_message_size($message_bytes)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
    };
}

fn services(
    settings: &ServerSettings,
    engine: &Engine,
    hub: &WatchHub,
    header: &HeaderSource,
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
    let maintenance = MaintenanceService::new(engine.clone(), header.clone(), settings.quota_bytes);
    let cluster = ClusterService::new(engine.clone(), header.clone());
    let auth = AuthService::new(engine.clone(), header.clone());
    Services::new(Named {
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

/// What clients may call the ports by.
fn hosts<'a>(listen: impl Iterator<Item = &'a ListenUrl>) -> Vec<String> {
    let hosts = listen.filter_map(|listen| match &listen.address {
        ListenAddress::Tcp(address) => Some(address.ip().to_string()),
        ListenAddress::Unix(_) => None,
    });
    hosts.collect()
}

fn auth_settings(settings: &ServerSettings) -> Result<auth::AuthSettings, auth::TokenError> {
    Ok(auth::AuthSettings {
        token: TokenSettings::parse(&settings.auth_token)?,
        token_ttl: Duration::from_secs(settings.auth_token_ttl.into()),
        bcrypt_cost: settings.bcrypt_cost,
        client_cert_auth: settings.tls.as_ref().is_some_and(|tls| tls.client_cert_auth),
    })
}

/// The same for every start of the same instance: from its name and where clients find it.
fn member_id(settings: &ServerSettings) -> u64 {
    // The same for each build: the log remembers it.
    let parts =
        std::iter::once(settings.name.clone()).chain(settings.advertise.iter().map(ToString::to_string));
    xxhash_rust::xxh3::xxh3_64(parts.collect::<Vec<_>>().join("\n").as_bytes()) | 1
}
