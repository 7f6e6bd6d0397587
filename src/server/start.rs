//! The start: nats-server, the engine, and the services over it.

use super::elastic::Elastic;
use super::migration::Migration;
use super::services::services;
use super::{MESSAGE_OVERHEAD_BYTES, ServeError, join, membership, notify};
use crate::api::call::RequireLeader;
use crate::api::header::HeaderSource;
use crate::auth::{self, TokenSettings};
use crate::auto_compaction;
use crate::cli::{PeerAutoTls, ServerSettings, Storage};
use crate::core::Writer;
use crate::disk;
use crate::durability::Level;
use crate::engine::{self, Engine, Phase};
use crate::gateway::Gateway;
use crate::log::{Auth, Endpoint, OwnCluster, RunToken};
use crate::nats_server::{self, ClusterSettings, NatsServer, NatsServerSettings, SyncMode};
use crate::primitive::Notify;
use crate::record::Member;
use crate::snapshot_schedule;
use crate::telemetry::Metrics;
use crate::transport::{
    Access, CallLayer, Endpoints, GrpcServices, HttpRoutes, PeerCertificateError, Probes, Stage,
    issue_peer_certificate, probe_routes,
};
use crate::watch::WatchHub;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower::util::BoxCloneSyncService;

/// The parts that have to be stopped in the end.
pub(super) struct Started {
    pub(super) engine: Engine,
    pub(super) nats: Option<Arc<NatsServer>>,
    /// The task of scheduled snapshots, which ends by itself.
    pub(super) snapshots: Option<JoinHandle<()>>,
}

/// Starts all parts, and reports each step in `stage`. Returns `None` if this member was removed from its
/// cluster, or never added to it.
///
/// # Errors
/// [`ServeError`].
pub(super) async fn start(
    settings: &ServerSettings,
    stage: &watch::Sender<Stage>,
    signalled: &CancellationToken,
    shutdown: &CancellationToken,
) -> Result<Option<Started>, ServeError> {
    let starting = |step: String| drop(stage.send_replace(Stage::Starting(step)));
    let auth = auth_settings(settings)?;
    let begun = Instant::now();
    starting("starting nats-server".into());
    let storage = start_storage(settings, &starting).await?;
    let mut migration = None;
    if !settings.migrates_from.is_empty() {
        starting("copying the store of --from".into());
        migration = Some(Migration::begin(settings, &storage, signalled.clone()).await?);
    }
    starting("connecting to NATS".into());
    let nats = storage.nats.clone();
    let engine_settings = engine_settings(settings, storage, auth);
    let engine =
        start_engine(settings, engine_settings, nats.clone(), migration.as_mut(), begun, stage, shutdown);
    let started = Box::pin(engine).await;
    if let Ok(Some(_)) = started {
        return started;
    }
    let started = match (started, migration) {
        (Err(error), Some(migration)) => Err(migration.give_up(error).await),
        (started, _) => started,
    };
    if let Some(nats) = nats {
        let stopped = nats.stop().await;
        // The reason of an end is reported, and not what came of it.
        if started.is_ok() {
            stopped?;
        }
    }
    started
}

/// Starts the engine, and the services once the log is loaded, and whole if a migration fills it.
async fn start_engine(
    settings: &ServerSettings,
    engine_settings: engine::EngineSettings,
    nats: Option<Arc<NatsServer>>,
    migration: Option<&mut Migration>,
    begun: Instant,
    stage: &watch::Sender<Stage>,
    shutdown: &CancellationToken,
) -> Result<Option<Started>, ServeError> {
    let starting = |step: String| drop(stage.send_replace(Stage::Starting(step)));
    let member = engine_settings.member.clone();
    let published = Arc::new(Notify::new());
    let engine = Box::pin(Engine::start(engine_settings, Writer::new(), Arc::clone(&published))).await?;
    if let Storage::Embedded { data_dir, .. } = &settings.storage
        && engine.mode().has_fixed_members()
    {
        let (engine, data_dir, stop) = (engine.clone(), data_dir.clone(), shutdown.clone());
        tokio::spawn(membership::keep_record(engine, member.id, data_dir, stop));
    }
    let error = tokio::select! {
        served = served(migration, &engine, loaded(&engine, &member, begun, &starting)) => match served {
            Ok(()) => {
                let (endpoints, snapshots) =
                    endpoints(settings, &engine, nats.as_ref(), member.id, published, shutdown);
                // All at once: a client that has been served must not get the response of a server that
                // starts.
                stage.send_replace(Stage::Ready(endpoints));
                tracing::info!(revision = %engine.reader().revision(), "ready to serve client requests");
                notify::ready(shutdown);
                return Ok(Some(Started { engine, nats, snapshots }));
            }
            Err(error) => Some(error),
        },
        () = engine.removed() => {
            engine.await_sole_member().await;
            None
        }
        error = engine.failed() => Some(error.into()),
    };
    engine.stop();
    error.map_or(Ok(None), Err)
}

/// Waits until a migration has ended, and all is loaded.
async fn served(
    migration: Option<&mut Migration>,
    engine: &Engine,
    loaded: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let migrated = async {
        match migration {
            Some(migration) => migration.ended(engine).await,
            None => Ok(()),
        }
    };
    let loaded = async {
        loaded.await;
        Ok(())
    };
    tokio::try_join!(migrated, loaded).map(|_| ())
}

/// The NATS that keeps the log.
pub(super) struct LogStorage {
    /// The embedded server, if there is one.
    pub(super) nats: Option<Arc<NatsServer>>,
    pub(super) endpoint: Endpoint,
    pub(super) store_dir: Option<PathBuf>,
    durability: Level,
}

/// Starts the embedded nats-server, if the log is kept in one. A member of a cluster asks the others first.
async fn start_storage(
    settings: &ServerSettings,
    starting: &impl Fn(String),
) -> Result<LogStorage, ServeError> {
    let (data_dir, binary, config, config_is_of_kine, domain, sync, bucket, cluster) = match &settings.storage
    {
        Storage::External(endpoint) => {
            let endpoint = (**endpoint).clone();
            return Ok(LogStorage { nats: None, endpoint, store_dir: None, durability: Level::Nats });
        }
        Storage::Embedded {
            data_dir,
            binary,
            config,
            config_is_of_kine,
            domain,
            sync,
            bucket,
            cluster,
            ..
        } => (data_dir, binary, config, config_is_of_kine, domain, sync, bucket, cluster),
    };
    let mut nats = NatsServerSettings::new(data_dir);
    nats.binary.clone_from(binary);
    nats.extra_config.clone_from(config);
    nats.extra_config_is_of_kine = *config_is_of_kine;
    nats.domain.clone_from(domain);
    nats.sync = *sync;
    // A message holds the value of one key, as large as a request. Its header fits into the overhead.
    let largest = settings.max_request_bytes + MESSAGE_OVERHEAD_BYTES;
    nats.max_payload_bytes = nats.max_payload_bytes.max(largest as u32);
    if let Some(cluster) = cluster {
        if let Some(PeerAutoTls { dir, validity_years }) = &cluster.auto_tls {
            let hosts = hosts(&cluster.server);
            let issue = || issue_peer_certificate(dir, &cluster.server.token, hosts.clone(), *validity_years);
            match issue() {
                Err(PeerCertificateError::Write { source, .. })
                    if disk::is_full_error(&source) && nats_server::spend_reserve(data_dir) =>
                {
                    issue()?;
                }
                issued => issued?,
            }
        }
        nats.cluster = Some(cluster.server.clone());
        starting("looking for the members of the cluster".into());
        join::check(&nats, cluster, bucket).await?;
        starting("starting nats-server".into());
    }
    let nats = NatsServer::start(nats).await?;
    let endpoint = Endpoint {
        servers: nats.client_url().into_iter().collect(),
        auth: Auth::Embedded(nats_server::USER, RunToken(nats.token())),
        bucket: bucket.clone(),
        own_cluster: cluster.as_ref().map(|_| OwnCluster {
            founders: nats.members().len(),
            has_joined: nats_server::has_joined(data_dir),
        }),
        ..Endpoint::default()
    };
    let store_dir = Some(nats_server::store_dir(data_dir));
    Ok(LogStorage { nats: Some(Arc::new(nats)), endpoint, store_dir, durability: durability(*sync, false) })
}

fn engine_settings(
    settings: &ServerSettings,
    storage: LogStorage,
    auth: auth::AuthSettings,
) -> engine::EngineSettings {
    let LogStorage { nats, endpoint, store_dir, durability } = storage;
    let (cluster, sole_id, is_joining) = match &settings.storage {
        Storage::Embedded { cluster, data_dir, .. } => {
            // Clients wait for each member of a cluster that was made anew of a snapshot.
            let is_joining = cluster.is_some()
                && !nats_server::has_joined(data_dir)
                && nats_server::restored(data_dir).is_none();
            (cluster.as_deref(), nats_server::sole_member_id(data_dir), is_joining)
        }
        Storage::External(_) => (None, None, false),
    };
    let mut member = membership::own(settings, nats.as_deref());
    member.id = match (&settings.storage, sole_id) {
        (_, Some(id)) => id,
        (Storage::Embedded { cluster: None, data_dir, .. }, None) => membership::kept_id(data_dir, member.id),
        _ => member.id,
    };
    engine::EngineSettings {
        endpoint,
        is_alone: nats.is_some() && cluster.is_none(),
        linearizable_reads: settings.linearizable_reads,
        store_dir,
        durability,
        synced_store: nats.as_ref().and_then(|nats| nats.synced_store()),
        store_error: nats.as_ref().map(|nats| nats.write_error()),
        quota_bytes: settings.quota_bytes,
        largest_message: settings.max_request_bytes,
        member,
        founders: nats
            .as_ref()
            .zip(cluster)
            .map(|(nats, cluster)| membership::founders(nats.members(), cluster))
            .or(sole_id.map(|_| Vec::new())),
        account: nats_server::ACCOUNT,
        system: nats.as_ref().map(|nats| Auth::Embedded(nats_server::SYSTEM_USER, RunToken(nats.token()))),
        change_rules: engine::ChangeRules {
            is_strict: settings.strict_reconfig_check,
            max_learners: settings.max_learners,
        },
        is_joining,
        heartbeat_interval: settings.heartbeat_interval,
        election_timeout: settings.election_timeout,
        accepts_loss: settings.accept_data_loss,
        is_being_filled: !settings.migrates_from.is_empty(),
        auth,
    }
}

/// Returns when this instance may serve: the log is loaded, this member is listed, and its copy is complete.
async fn loaded(engine: &Engine, member: &Member, begun: Instant, starting: &impl Fn(String)) {
    let mut phase = engine.phase();
    loop {
        let now = phase.borrow_and_update().clone();
        match now {
            Phase::Loading { .. } => starting(now.to_string()),
            Phase::Serving | Phase::Stopped => break,
        }
        if phase.changed().await.is_err() {
            break;
        }
    }
    // As in etcd, a member that serves shows its client URLs to all.
    starting("waiting for the writer to list this member".into());
    engine.listed(member).await;
    starting("waiting for this server's copy of the stream".into());
    engine.copied(begun).await;
}

/// Starts the tasks beside the engine, and puts the services together.
fn endpoints(
    settings: &ServerSettings,
    engine: &Engine,
    nats: Option<&Arc<NatsServer>>,
    member_id: u64,
    published: Arc<Notify>,
    shutdown: &CancellationToken,
) -> (Endpoints, Option<JoinHandle<()>>) {
    let hub = WatchHub::spawn(engine.reader().clone(), published);
    if let Some(mode) = settings.auto_compaction {
        auto_compaction::spawn(mode, engine.clone(), hub.clone(), shutdown.clone());
    }
    let header = HeaderSource { cluster_id: engine.cluster_id(), member_id, epoch: engine.epoch() };
    let mut metrics = Metrics::new(header.member_id, settings.quota_bytes, settings.metrics_extensive);
    engine.register(&mut metrics);
    if let Some(nats) = nats {
        nats.register(&mut metrics);
    }
    hub.register(&mut metrics);
    let snapshots = settings.snapshot_schedule.clone().map(|schedule| {
        snapshot_schedule::spawn(schedule, engine.clone(), header.clone(), &metrics, shutdown.clone())
    });
    let calls = CallLayer::new(metrics.calls(), settings.warning_unary_request_duration);
    let elastic = nats.and_then(|nats| Elastic::new(settings, engine, nats, member_id, shutdown));
    let founding = elastic.map(Elastic::spawn);
    let services = services(settings, engine, &hub, &header, founding, metrics.operations(), shutdown);
    let require_leader = RequireLeader { has_leader: engine.has_leader() };
    let grpc: GrpcServices = calls.layer(require_leader.layer(services));
    let probes = Probes { engine: engine.clone(), metrics: Arc::new(metrics) };
    let gateway = settings.enable_grpc_gateway.then(|| {
        Gateway::new(
            BoxCloneSyncService::new(grpc.clone()),
            settings.max_request_bytes + MESSAGE_OVERHEAD_BYTES,
        )
    });
    let access = Access::new(settings.cors.clone(), settings.host_whitelist.clone());
    let http = HttpRoutes::new(access, gateway, probes.clone(), settings.enable_pprof);
    (Endpoints { grpc, http, probes: probe_routes(probes) }, snapshots)
}

/// When answered writes of the embedded server are on stable storage.
pub(super) fn durability(sync: SyncMode, is_clustered: bool) -> Level {
    match sync {
        _ if is_clustered => Level::Nats,
        SyncMode::Group => Level::Group,
        SyncMode::Always => Level::Always,
        SyncMode::Lazy => Level::Lazy,
    }
}

/// The hosts under which other members reach this one.
pub(super) fn hosts(server: &ClusterSettings) -> Vec<String> {
    let addresses = [&server.listen, &server.advertise];
    let hosts = addresses.into_iter().filter_map(|address| address.rsplit_once(':'));
    hosts.map(|(host, _)| host.trim_matches(['[', ']']).to_owned()).collect()
}

fn auth_settings(settings: &ServerSettings) -> Result<auth::AuthSettings, auth::TokenError> {
    Ok(auth::AuthSettings {
        token: TokenSettings::parse(&settings.auth_token)?,
        token_ttl: Duration::from_secs(settings.auth_token_ttl.into()),
        bcrypt_cost: settings.bcrypt_cost,
        client_cert_auth: settings.tls.as_ref().is_some_and(|tls| tls.client_cert_auth),
    })
}
