//! Everything that the flags decide, checked, with all defaults.

use super::bootstrap::{self, BootstrapError};
use super::compaction::{self, AutoCompaction, AutoCompactionError};
use super::flag_values::FlagValues;
use super::listen::{self, ListenError, ListenUrl};
use super::logging::{self, LogFlagsError};
use super::no_effect::{self, NoEffectError};
use super::notice::Notice;
use super::peers::{self, PeerFlagsError};
use super::snapshot_schedule::{self, SnapshotSchedule, SnapshotScheduleError};
use super::storage::{self, Storage, StorageFlagsError};
use super::tls::{self, Listeners, TlsFlagsError, TlsSettings};
use crate::client::ClientSettings;
use crate::engine::LinearizableReads;
use crate::telemetry::LogSettings;
use std::time::Duration;
use thiserror::Error;

/// The shortest interval of progress notifications, as in etcd.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// etcd's default interval of progress notifications.
const ETCD_PROGRESS_INTERVAL: Duration = Duration::from_mins(10);
/// etcd's default quota.
const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;
/// Range and default of bcrypt's cost.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=31;
const DEFAULT_BCRYPT_COST: u32 = 10;
const DEFAULT_UNARY_WARNING: Duration = Duration::from_millis(300);

/// Flags that do not go together or make no sense.
#[derive(Debug, Error)]
#[error(transparent)]
pub(super) enum SettingsError {
    Log(#[from] LogFlagsError),
    NoEffect(#[from] NoEffectError),
    Listen(#[from] ListenError),
    Tls(#[from] TlsFlagsError),
    Storage(#[from] StorageFlagsError),
    Bootstrap(#[from] BootstrapError),
    Peers(#[from] PeerFlagsError),
    AutoCompaction(#[from] AutoCompactionError),
    SnapshotSchedule(#[from] SnapshotScheduleError),
}

/// The settings of a server.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own, and no two go together")]
pub struct ServerSettings {
    /// Name of the member.
    pub name: String,
    /// The NATS that holds the data.
    pub storage: Storage,
    /// Listeners for clients, never empty.
    pub listen: Vec<ListenUrl>,
    /// URLs that the member list shows to clients.
    pub advertise: Vec<String>,
    /// Listeners for metrics and health.
    pub listen_metrics: Vec<ListenUrl>,
    /// Listeners for HTTP without gRPC. If there are any, `listen` serves gRPC alone.
    pub listen_client_http: Vec<ListenUrl>,
    /// TLS of all listeners.
    pub tls: Option<TlsSettings>,
    /// Largest write request in bytes.
    pub max_request_bytes: usize,
    /// Most operations of a transaction.
    pub max_txn_ops: usize,
    /// Most concurrent HTTP/2 streams of a connection.
    pub max_concurrent_streams: u32,
    /// Quota of the data in bytes; negative for no limit.
    pub quota_bytes: i64,
    /// Interval of progress notifications.
    pub progress_interval: Duration,
    /// Interval of the server's pings on an idle connection.
    pub keepalive_interval: Duration,
    /// Longest wait for the answer to such a ping.
    pub keepalive_timeout: Duration,
    /// Shortest interval of a client's pings. A connection with more frequent ones is closed.
    pub keepalive_min_time: Duration,
    /// Whether ports are opened with SO_REUSEPORT.
    pub socket_reuse_port: bool,
    /// Whether ports are opened with SO_REUSEADDR.
    pub socket_reuse_address: bool,
    /// Origins that browsers may call from; `*` for any.
    pub cors: Vec<String>,
    /// Values of `Host` that plain HTTP requests may have; `*` or none for any.
    pub host_whitelist: Vec<String>,
    /// Whether /debug/pprof is served.
    pub enable_pprof: bool,
    /// Whether there are histograms of the gRPC calls, as with `--metrics=extensive`.
    pub metrics_extensive: bool,
    /// Whether /v3 is served.
    pub enable_grpc_gateway: bool,
    /// The automatic compaction; `None` for none.
    pub auto_compaction: Option<AutoCompaction>,
    /// The snapshots that are saved without a request; `None` for none.
    pub snapshot_schedule: Option<SnapshotSchedule>,
    /// `simple`, or `jwt` with its options.
    pub auth_token: String,
    /// Seconds for which a simple token is valid without use.
    pub auth_token_ttl: u32,
    /// Cost of a password's hash, 4 to 31.
    pub bcrypt_cost: u32,
    /// Unary calls that take longer are reported in the log.
    pub warning_unary_request_duration: Duration,
    /// Form and outputs of the log.
    pub log: LogSettings,
    /// The way in which reads are linearizable.
    pub linearizable_reads: LinearizableReads,
    /// Interval of the writer's heartbeats.
    pub heartbeat_interval: Duration,
    /// Silence of the writer after which another instance takes over.
    pub election_timeout: Duration,
    /// Whether to serve although messages are missing from the log.
    pub accept_data_loss: bool,
    /// Whether a change of the members that could cost the majority is refused.
    pub strict_reconfig_check: bool,
    /// The most learners of a cluster.
    pub max_learners: usize,
    /// Peer URLs that the member list shows.
    pub peer_urls: Vec<String>,
    /// The endpoints of a server whose store is copied before it is served; empty for none.
    pub(crate) migrates_from: Vec<ClientSettings>,
    /// Flags that have a value and no effect, for the log.
    pub without_effect: Vec<&'static str>,
    /// Other messages for the log.
    pub notices: Vec<Notice>,
}

impl ServerSettings {
    /// Checks all flags, in etcd's order.
    pub(super) fn new(flags: &FlagValues) -> Result<ServerSettings, SettingsError> {
        let mut notices = flags.notices.clone();
        let log = logging::settings(flags, &mut notices)?;
        no_effect::check(flags)?;
        let name = flags.text_or_default("name").to_owned();
        let mut endpoint = storage::endpoint(flags)?;
        notices.extend(endpoint.iter_mut().flat_map(|endpoint| std::mem::take(&mut endpoint.notices)));
        let slow_method = endpoint.as_ref().and_then(|endpoint| endpoint.slow_method);
        let data_dir = storage::data_dir(flags, &name, endpoint.as_ref())?;
        let client_urls = flags.urls("listen-client-urls");
        let listen = listen::listen_urls("--listen-client-urls", &client_urls)?;
        let listen_client_http =
            listen::listen_urls("--listen-client-http-urls", &flags.urls("listen-client-http-urls"))?;
        let listen_metrics =
            listen::listen_urls("--listen-metrics-urls", &flags.urls("listen-metrics-urls"))?;
        listen::check_addresses(&listen, &listen_client_http)?;
        let advertise = listen::advertised(flags, &client_urls)?;
        let listeners =
            Listeners { clients: &listen, client_http: &listen_client_http, metrics: &listen_metrics };
        let tls = tls::settings(flags, &data_dir, &listeners, &mut notices)?;
        let mut storage = storage::settings(flags, endpoint, &name, data_dir)?;
        if let Storage::Embedded { data_dir, cluster, .. } = &mut storage {
            let members = bootstrap::members(flags, &name, data_dir)?;
            *cluster = peers::settings(flags, &name, data_dir, members)?.map(Box::new);
        }
        Ok(ServerSettings {
            without_effect: no_effect::names(flags, &storage),
            storage,
            name,
            listen,
            advertise,
            listen_metrics,
            listen_client_http,
            tls,
            max_request_bytes: usize::try_from(flags.unsigned("max-request-bytes")).unwrap_or(usize::MAX),
            max_txn_ops: usize::try_from(flags.unsigned("max-txn-ops")).unwrap_or(usize::MAX),
            // As in grpc-go, 0 is no limit.
            max_concurrent_streams: match flags.unsigned_32("max-concurrent-streams") {
                0 => u32::MAX,
                limit => limit,
            },
            quota_bytes: quota_bytes(flags),
            progress_interval: progress_interval(flags),
            keepalive_interval: flags.duration("grpc-keepalive-interval"),
            keepalive_timeout: flags.duration("grpc-keepalive-timeout"),
            keepalive_min_time: flags.duration("grpc-keepalive-min-time"),
            socket_reuse_port: flags.is_true("socket-reuse-port"),
            socket_reuse_address: flags.is_true("socket-reuse-address"),
            cors: flags.texts("cors"),
            host_whitelist: flags.texts("host-whitelist"),
            enable_pprof: flags.is_true("enable-pprof"),
            // As in etcd, any other word means basic.
            metrics_extensive: flags.text("metrics") == Some("extensive"),
            enable_grpc_gateway: flags.is_true("enable-grpc-gateway"),
            auto_compaction: compaction::settings(flags)?,
            snapshot_schedule: snapshot_schedule::settings(flags)?,
            // An empty value is a kind of token of its own, and not the default.
            auth_token: flags.text("auth-token").unwrap_or("simple").to_owned(),
            auth_token_ttl: flags.unsigned_32("auth-token-ttl"),
            bcrypt_cost: bcrypt_cost(flags, &mut notices),
            warning_unary_request_duration: unary_warning(flags, slow_method),
            log,
            linearizable_reads: match flags.text_or_default("linearizable-reads") {
                "leader" => LinearizableReads::Leader,
                _ => LinearizableReads::Quorum,
            },
            heartbeat_interval: Duration::from_millis(flags.unsigned("heartbeat-interval")),
            election_timeout: Duration::from_millis(flags.unsigned("election-timeout")),
            strict_reconfig_check: flags.is_true("strict-reconfig-check"),
            max_learners: usize::try_from(flags.integer("max-learners")).unwrap_or(0),
            accept_data_loss: flags.is_true("accept-data-loss"),
            peer_urls: flags.urls("initial-advertise-peer-urls").into_iter().map(|url| url.text).collect(),
            migrates_from: Vec::new(),
            notices,
        })
    }
}

/// The quota; as in etcd, 0 means etcd's default.
pub(super) fn quota_bytes(flags: &FlagValues) -> i64 {
    match flags.integer("quota-backend-bytes") {
        0 => DEFAULT_QUOTA_BYTES,
        bytes => bytes,
    }
}

fn progress_interval(flags: &FlagValues) -> Duration {
    match flags.duration("watch-progress-notify-interval") {
        // As in etcd, 0 means etcd's default.
        Duration::ZERO => ETCD_PROGRESS_INTERVAL,
        interval => interval.max(MIN_PROGRESS_INTERVAL),
    }
}

/// kine's `slowMethod` means the same as the flag, which wins.
fn unary_warning(flags: &FlagValues, slow_method: Option<Duration>) -> Duration {
    const FLAG: &str = "warning-unary-request-duration";
    match (flags.duration(FLAG), slow_method) {
        (_, Some(slow)) if !flags.is_set(FLAG) => slow,
        // As in etcd, 0 means the default.
        (Duration::ZERO, _) => DEFAULT_UNARY_WARNING,
        (duration, _) => duration,
    }
}

fn bcrypt_cost(flags: &FlagValues, notices: &mut Vec<Notice>) -> u32 {
    let cost = flags.unsigned("bcrypt-cost");
    if let Ok(cost) = u32::try_from(cost)
        && BCRYPT_COSTS.contains(&cost)
    {
        return cost;
    }
    notices.push(Notice::warning(format!(
        "--bcrypt-cost {cost} is not between 4 and 31: {DEFAULT_BCRYPT_COST} is used"
    )));
    DEFAULT_BCRYPT_COST
}
