//! Checked settings.

use super::flags::ALLOWED_CN;
use super::given::Given;
use super::urls::{self, EtcdUrl};
use super::values;
use super::{Notice, Personality, duration, endpoint, logging};
use crate::engine::LinearizableReads;
use crate::log::{Auth, Endpoint};
use crate::nats_server::SyncMode;
use crate::telemetry::LogSettings;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// The least interval of progress notifications, as in etcd.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// What Kubernetes asks for, which most who start jetway by its own name run.
const OWN_PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// etcd's default quota.
const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;

/// nats-server takes messages of at most 64 MiB, headers included.
const MAX_EMBEDDED_REQUEST_BYTES: u64 = 63 << 20;
/// Range and default of bcrypt's cost.
const BCRYPT_COSTS: std::ops::RangeInclusive<u64> = 4..=31;
const DEFAULT_BCRYPT_COST: u32 = 10;
/// etcd's longest election.
const MAX_ELECTION_MS: u64 = 50_000;
/// Where the embedded server keeps its own below `--data-dir`; who has data has this.
const STORE: &str = "nats";

/// Flags that do not go together or mean nothing.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SettingsError(pub(super) String);

/// In etcd's words, where there are any.
fn refuse<T>(reason: impl Into<String>) -> Result<T, SettingsError> {
    Err(SettingsError(reason.into()))
}

/// Where the data is.
#[derive(Clone, Debug)]
pub enum Storage {
    /// With a nats-server of our own.
    Embedded {
        /// Its directory.
        data_dir: PathBuf,
        /// Its executable.
        binary: Option<PathBuf>,
        /// More configuration for it.
        config: Option<PathBuf>,
        /// Its durability.
        sync: SyncMode,
        /// Name of the bucket.
        bucket: String,
    },
    /// With somebody else's NATS.
    External(Endpoint),
}

/// Where a URL says to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A port.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

/// An address to serve on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenUrl {
    /// As given.
    pub url: String,
    /// What it names.
    pub address: ListenAddress,
    /// Whether it asks for TLS.
    pub tls: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// TLS of the client listeners.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Certificate chain, and `None` only where `auto_tls` makes one.
    pub cert: Option<PathBuf>,
    /// Its key, given exactly if `cert` is.
    pub key: Option<PathBuf>,
    /// Authorities of client certificates.
    pub trusted_ca: Option<PathBuf>,
    /// Whether a client must have a certificate: with `--client-cert-auth`, and as in etcd with authorities alone.
    pub require_client_cert: bool,
    /// `--client-cert-auth` itself: only then is a certificate's common name a user.
    pub client_cert_auth: bool,
    /// Revoked client certificates.
    pub crl_file: Option<PathBuf>,
    /// Common names that client certificates may have; empty for any.
    pub allowed_cn: Vec<String>,
    /// Host names of which a client certificate must have one; empty for any.
    pub allowed_hostname: Vec<String>,
    /// Go's names of the cipher suites to offer for TLS 1.2; empty for the library's choice.
    pub cipher_suites: Vec<String>,
    /// Oldest version taken.
    pub min_version: TlsVersion,
    /// Newest version taken; `None` for the newest there is.
    pub max_version: Option<TlsVersion>,
    /// Whether to serve with a certificate made by jetway, kept in `auto_tls_dir`.
    pub auto_tls: bool,
    /// Where such a certificate and its key are kept.
    pub auto_tls_dir: PathBuf,
    /// How long such a certificate is valid, in years of 365 days.
    pub self_signed_cert_validity_years: u32,
}

/// When to compact without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// What is older than this goes.
    Periodic(Duration),
    /// All but this many revisions go.
    Revision(i64),
}

/// Everything the program needs to know.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own, and no two go together")]
pub struct Settings {
    /// Member name.
    pub name: String,
    /// Where the data is.
    pub storage: Storage,
    /// Client listeners, never empty.
    pub listen: Vec<ListenUrl>,
    /// What the member list names.
    pub advertise: Vec<String>,
    /// Listeners for metrics and health.
    pub listen_metrics: Vec<ListenUrl>,
    /// Listeners for HTTP without gRPC; if there are any, `listen` has gRPC only.
    pub listen_client_http: Vec<ListenUrl>,
    /// TLS of all listeners.
    pub tls: Option<TlsSettings>,
    /// Largest write.
    pub max_request_bytes: usize,
    /// Largest transaction.
    pub max_txn_ops: usize,
    /// HTTP/2 streams of a connection.
    pub max_concurrent_streams: u32,
    /// Bytes of data; negative for no limit.
    pub quota_bytes: i64,
    /// Interval of progress notifications.
    pub progress_interval: Duration,
    /// Server pings.
    pub keepalive_interval: Duration,
    /// Their time-out.
    pub keepalive_timeout: Duration,
    /// Least time between two pings of a client; one that pings faster is sent away.
    pub keepalive_min_time: Duration,
    /// Whether ports are opened with SO_REUSEPORT.
    pub socket_reuse_port: bool,
    /// Whether ports are opened with SO_REUSEADDR.
    pub socket_reuse_address: bool,
    /// Origins that browsers may call from; `*` for any.
    pub cors: Vec<String>,
    /// Values of `Host` that plain HTTP requests may have; `*` or none for any.
    pub host_whitelist: Vec<String>,
    /// Whether /debug/pprof is there.
    pub enable_pprof: bool,
    /// Whether there are histograms of the gRPC calls, as with `--metrics=extensive`.
    pub metrics_extensive: bool,
    /// Whether /v3 is there.
    pub enable_grpc_gateway: bool,
    /// When to compact without being asked; `None` for never.
    pub auto_compaction: Option<AutoCompaction>,
    /// `simple`, or `jwt` with its options.
    pub auth_token: String,
    /// How long a simple token lives without use, in seconds.
    pub auth_token_ttl: u32,
    /// Cost of a password's hash, 4 to 31.
    pub bcrypt_cost: u32,
    /// Unary calls that take longer are told in the log.
    pub warning_unary_request_duration: Duration,
    /// Form and place of the log.
    pub log: LogSettings,
    /// Source of linearizability.
    pub linearizable_reads: LinearizableReads,
    /// How often the writer says that it lives.
    pub heartbeat_interval: Duration,
    /// Silence of the writer after which another instance takes over.
    pub election_timeout: Duration,
    /// Messages that are missing from the log are given up.
    pub accept_data_loss: bool,
    /// Shown in the member list.
    pub peer_urls: Vec<String>,
    /// Flags that were given and mean nothing here, to be told so in the log.
    pub without_effect: Vec<&'static str>,
    /// What else is to be told in the log.
    pub notices: Vec<Notice>,
}

impl Settings {
    /// Checks what was given and fills in what was not.
    pub(super) fn new(given: &Given, personality: Personality) -> Result<Settings, SettingsError> {
        let mut notices = given.notices.clone();
        let log = logging::settings(given, personality, &mut notices)?;
        check_without_effect(given)?;
        let name = given.text_or_default("name").to_owned();
        let data_dir = data_dir(given, personality, &name);
        let client_urls = client_urls(given, personality)?;
        let listen = listen_urls("--listen-client-urls", &client_urls)?;
        let listen_client_http =
            listen_urls("--listen-client-http-urls", &url_list(given, "listen-client-http-urls"))?;
        let listen_metrics = listen_urls("--listen-metrics-urls", &url_list(given, "listen-metrics-urls"))?;
        check_addresses(&listen, &listen_client_http)?;
        let advertise = advertise(given, personality, &client_urls)?;
        let tls = tls(given, &data_dir, [&listen, &listen_client_http, &listen_metrics], &mut notices)?;
        let storage = storage(given, data_dir)?;
        if let Storage::Embedded { data_dir, .. } = &storage {
            check_bootstrap(given, &name, data_dir)?;
        }
        Ok(Settings {
            without_effect: without_effect(given, &storage),
            storage,
            name,
            listen,
            advertise,
            listen_metrics,
            listen_client_http,
            tls,
            max_request_bytes: usize::try_from(given.unsigned("max-request-bytes")).unwrap_or(usize::MAX),
            max_txn_ops: usize::try_from(given.unsigned("max-txn-ops")).unwrap_or(usize::MAX),
            // As in grpc-go, where no streams at all would make no sense either.
            max_concurrent_streams: match small(given.unsigned("max-concurrent-streams")) {
                0 => u32::MAX,
                limit => limit,
            },
            quota_bytes: match given.integer("quota-backend-bytes") {
                0 => DEFAULT_QUOTA_BYTES,
                bytes => bytes,
            },
            progress_interval: progress_interval(given, personality),
            keepalive_interval: given.duration("grpc-keepalive-interval"),
            keepalive_timeout: given.duration("grpc-keepalive-timeout"),
            keepalive_min_time: given.duration("grpc-keepalive-min-time"),
            socket_reuse_port: given.is_true("socket-reuse-port"),
            socket_reuse_address: given.is_true("socket-reuse-address"),
            cors: given.texts("cors"),
            host_whitelist: given.texts("host-whitelist"),
            enable_pprof: given.is_true("enable-pprof"),
            // As in etcd any other word means basic.
            metrics_extensive: given.text("metrics") == Some("extensive"),
            enable_grpc_gateway: given.is_true("enable-grpc-gateway"),
            auto_compaction: auto_compaction(given)?,
            // Given as empty it is a kind of its own.
            auth_token: given.text("auth-token").unwrap_or("simple").to_owned(),
            auth_token_ttl: small(given.unsigned("auth-token-ttl")),
            bcrypt_cost: bcrypt_cost(given, &mut notices),
            // As in etcd, nothing means the default.
            warning_unary_request_duration: match given.duration("warning-unary-request-duration") {
                Duration::ZERO => Duration::from_millis(300),
                duration => duration,
            },
            log,
            linearizable_reads: match given.text_or_default("linearizable-reads") {
                "leader" => LinearizableReads::Leader,
                _ => LinearizableReads::Quorum,
            },
            heartbeat_interval: Duration::from_millis(given.unsigned("heartbeat-interval")),
            election_timeout: Duration::from_millis(given.unsigned("election-timeout")),
            accept_data_loss: given.is_true("accept-data-loss"),
            peer_urls: url_list(given, "initial-advertise-peer-urls")
                .into_iter()
                .map(|url| url.text)
                .collect(),
            notices,
        })
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn data_dir(given: &Given, personality: Personality, name: &str) -> PathBuf {
    match (given.text_or_default("data-dir"), personality) {
        ("", Personality::Jetway) => PathBuf::from(format!("{name}.jetway")),
        ("", Personality::Etcd) => PathBuf::from(format!("{name}.etcd")),
        (path, _) => PathBuf::from(path),
    }
}

/// The file's or the flag's URLs were checked when they came in; so were the defaults.
fn url_list(given: &Given, flag: &'static str) -> Vec<EtcdUrl> {
    match given.text_or_default(flag) {
        "" => Vec::new(),
        text => urls::parse_list(text).expect("checked URLs"),
    }
}

fn client_urls(given: &Given, personality: Personality) -> Result<Vec<EtcdUrl>, SettingsError> {
    if given.text("listen-client-urls").is_some_and(|text| !text.is_empty())
        || personality == Personality::Etcd
    {
        return Ok(url_list(given, "listen-client-urls"));
    }
    urls::parse_list("http://127.0.0.1:2379").map_err(SettingsError)
}

fn listen_urls(flag: &str, urls: &[EtcdUrl]) -> Result<Vec<ListenUrl>, SettingsError> {
    urls.iter()
        .map(EtcdUrl::listen)
        .collect::<Result<_, _>>()
        .map_err(|reason| SettingsError(format!("{flag}: {reason}")))
}

fn check_addresses(listen: &[ListenUrl], http: &[ListenUrl]) -> Result<(), SettingsError> {
    for (at, one) in listen.iter().enumerate() {
        if http.iter().any(|other| urls::same_address(one, other)) {
            return refuse(format!(
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {}",
                one.url
            ));
        }
        if let Some(other) = listen[at + 1..].iter().find(|other| urls::same_address(one, other)) {
            return refuse(format!(
                "--listen-client-urls: {} and {} are one port, which serves with TLS or without: leave one out",
                one.url, other.url
            ));
        }
    }
    Ok(())
}

fn advertise(
    given: &Given,
    personality: Personality,
    listen: &[EtcdUrl],
) -> Result<Vec<String>, SettingsError> {
    let advertise = url_list(given, "advertise-client-urls");
    if let Some(reason) = advertise.iter().find_map(|url| url.check_advertised().err()) {
        return refuse(format!(
            "--advertise-client-urls {:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" ({reason})",
            given.text_or_default("advertise-client-urls")
        ));
    }
    let text = |urls: &[EtcdUrl]| urls.iter().map(|url| url.text.clone()).collect();
    if !advertise.is_empty() {
        return Ok(text(&advertise));
    }
    if personality == Personality::Etcd {
        // etcd does not ask this of a config file.
        let alone = given.is_set("listen-client-urls") && !given.is_set("advertise-client-urls");
        if alone && !given.from_file {
            return refuse("--advertise-client-urls is required when --listen-client-urls is set explicitly");
        }
        return Ok(vec!["http://localhost:2379".to_owned()]);
    }
    Ok(text(listen))
}

fn progress_interval(given: &Given, personality: Personality) -> Duration {
    let given_interval = given.is_set("watch-progress-notify-interval");
    match given.duration("watch-progress-notify-interval") {
        _ if !given_interval && personality == Personality::Jetway => OWN_PROGRESS_INTERVAL,
        // Nothing means etcd's default there.
        Duration::ZERO => Duration::from_mins(10),
        interval => interval.max(MIN_PROGRESS_INTERVAL),
    }
}

fn bcrypt_cost(given: &Given, notices: &mut Vec<Notice>) -> u32 {
    let cost = given.unsigned("bcrypt-cost");
    if BCRYPT_COSTS.contains(&cost) {
        return small(cost);
    }
    notices.push(Notice::warning(format!(
        "--bcrypt-cost {cost} is not between 4 and 31: {DEFAULT_BCRYPT_COST} is used"
    )));
    DEFAULT_BCRYPT_COST
}

fn auto_compaction(given: &Given) -> Result<Option<AutoCompaction>, SettingsError> {
    let mode = match given.text("auto-compaction-mode").unwrap_or("periodic") {
        "" => return refuse("undefined auto-compaction-mode: expected periodic or revision"),
        mode @ ("periodic" | "revision") => mode,
        mode => {
            return refuse(format!("unknown auto-compaction-mode {mode:?}: expected periodic or revision"));
        }
    };
    let retention = given.text_or_default("auto-compaction-retention");
    // A bare number is hours or revisions; with a unit it is a duration, and as revisions its nanoseconds.
    let number = retention.strip_prefix('+').unwrap_or(retention);
    let (revisions, period) = match number.parse::<u32>() {
        Ok(number) => (i64::from(number), Duration::from_secs(u64::from(number) * 3600)),
        Err(_) => match number.parse::<i64>() {
            Ok(number) if number >= 0 && mode == "revision" => (number, Duration::MAX),
            _ => match duration::parse(retention) {
                Ok(period) => (i64::try_from(period.as_nanos()).unwrap_or(i64::MAX), period),
                Err(reason) => {
                    return refuse(format!(
                        "--auto-compaction-retention: error parsing CompactionRetention: time: invalid duration \
                         {retention:?} ({reason})"
                    ));
                }
            },
        },
    };
    Ok(match mode {
        _ if revisions == 0 => None,
        "revision" => Some(AutoCompaction::Revision(revisions)),
        _ => Some(AutoCompaction::Periodic(period)),
    })
}

/// Flags without effect are checked all the same: a command line that etcd refuses is mistaken, whatever it is for.
fn check_without_effect(given: &Given) -> Result<(), SettingsError> {
    listen_urls("--listen-peer-urls", &url_list(given, "listen-peer-urls"))?;
    for url in url_list(given, "initial-advertise-peer-urls") {
        if let Err(reason) = url.check_advertised() {
            return refuse(format!(
                "--initial-advertise-peer-urls {:?} must be \"host:port\" ({reason})",
                given.text_or_default("initial-advertise-peer-urls")
            ));
        }
    }
    if given.text("discovery-fallback") == Some("proxy") {
        return refuse("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"");
    }
    let (tick, election) = (given.unsigned("heartbeat-interval"), given.unsigned("election-timeout"));
    if tick == 0 {
        return refuse("--heartbeat-interval must be >0 (set to 0ms)");
    }
    if election == 0 {
        return refuse("--election-timeout must be >0 (set to 0ms)");
    }
    if tick.saturating_mul(5) > election {
        return refuse(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{tick}ms]"
        ));
    }
    if election > MAX_ELECTION_MS {
        return refuse(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_MS}ms"
        ));
    }
    if given.duration("compact-hash-check-time").is_zero() {
        return refuse("--compact-hash-check-time must be >0 (set to 0s)");
    }
    let gates = values::feature_gates(given.text_or_default("feature-gates")).expect("checked gates");
    let is_on = |gate: &str| {
        let of = |name: &str| gates.iter().rev().find(|(gate, _)| *gate == name).map(|(_, on)| *on);
        of(gate).or(of("AllAlpha")).unwrap_or(false)
    };
    if is_on("LeaseCheckpointPersist") && !is_on("LeaseCheckpoint") {
        return refuse(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        );
    }
    let rate = given.integer("distributed-tracing-sampling-rate");
    if given.is_true("enable-distributed-tracing") && !(0..=1_000_000).contains(&rate) {
        return refuse(format!(
            "distributed tracing configurition is not valid: --distributed-tracing-sampling-rate {rate} is not between \
             0 and 1000000"
        ));
    }
    Ok(())
}

/// An embedded server is a cluster of one. Whoever asks for more, or for members that are elsewhere, must not get several
/// stores that know nothing of each other.
fn check_bootstrap(given: &Given, name: &str, data_dir: &Path) -> Result<(), SettingsError> {
    const REMEDY: &str = "the embedded nats-server is a cluster of one; for several jetway over one store, run a NATS \
                          cluster and give each of them --endpoint nats://…";
    let given_text = |flag: &str| given.text(flag).filter(|text| !text.is_empty());
    let cluster = given_text("initial-cluster");
    let discovers = ["discovery-srv", "discovery-endpoints"].map(|flag| given_text(flag).is_some());
    if [cluster.is_some(), discovers[0], discovers[1]].into_iter().filter(|given| *given).count() > 1 {
        return refuse(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        );
    }
    if given_text("discovery-token").is_some() != discovers[1] {
        return refuse("both --discovery-token and --discovery-endpoints must be set");
    }
    for flag in ["discovery-srv", "discovery-endpoints"] {
        if let Some(value) = given_text(flag) {
            return refuse(format!("--{flag} {value}: there are no members to discover: {REMEDY}"));
        }
    }
    if let Some(cluster) = cluster {
        let mut members: Vec<&str> = Vec::new();
        for member in cluster.split(',') {
            let Some((member, url)) = member.trim().split_once('=') else {
                return refuse(format!(
                    "--initial-cluster {cluster}: {member:?} is no member; expected name=http://host:port"
                ));
            };
            urls::parse_list(url)
                .map_err(|reason| SettingsError(format!("error setting up initial cluster: {reason}")))?;
            if !members.contains(&member) {
                members.push(member);
            }
        }
        if members.len() > 1 {
            return refuse(format!(
                "--initial-cluster {cluster}: names {} members, and {REMEDY}",
                members.len()
            ));
        }
        if !members.contains(&name) {
            return refuse(format!(
                "couldn't find local name {name:?} in the initial cluster configuration: --initial-cluster {cluster}"
            ));
        }
    }
    if data_dir.join("member").exists() {
        return refuse(format!(
            "--data-dir {}: holds the data of an etcd, which jetway does not read and will not hide behind an empty \
             store; give an empty directory, or move this one away",
            data_dir.display()
        ));
    }
    if given.text("initial-cluster-state") == Some("existing") && !data_dir.join(STORE).exists() {
        return refuse(format!(
            "--initial-cluster-state existing: --data-dir {} holds no data, and there is no cluster to get it from: {REMEDY}; \
             to start with an empty store give new",
            data_dir.display()
        ));
    }
    Ok(())
}

fn without_effect(given: &Given, storage: &Storage) -> Vec<&'static str> {
    let external = matches!(storage, Storage::External(_));
    // These are about an embedded server.
    let embedded = ["data-dir", "nats-server", "nats-config", "sync", "initial-cluster-state"];
    let embedded = embedded.into_iter().filter(|flag| external && given.is_set(flag));
    // One member is what there is.
    let cluster = given.is_set("initial-cluster").then_some("initial-cluster");
    given.without_effect().map(|flag| flag.name).chain(embedded).chain(cluster).collect()
}

fn path(given: &Given, flag: &str) -> Option<PathBuf> {
    given.text(flag).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn storage(given: &Given, data_dir: PathBuf) -> Result<Storage, SettingsError> {
    let bucket = given.text_or_default("bucket").to_owned();
    if let Err(reason) = endpoint::check_bucket(&bucket) {
        return refuse(format!("--bucket {bucket}: {reason}"));
    }
    let optional = |flag: &str| given.text(flag).filter(|text| !text.is_empty());
    let Some(text) = optional("endpoint") else {
        // Whoever gives these means a NATS that is there, and must not find the data in another one.
        for flag in ["nats-creds", "nats-token", "nats-ca-file", "nats-cert-file", "nats-key-file"] {
            if optional(flag).is_some() {
                return refuse(format!("--{flag}: is for a NATS that is there already: give --endpoint too"));
            }
        }
        let largest = given.unsigned("max-request-bytes");
        if largest > MAX_EMBEDDED_REQUEST_BYTES {
            return refuse(format!(
                "--max-request-bytes {largest}: is more than nats-server takes; give at most {MAX_EMBEDDED_REQUEST_BYTES}"
            ));
        }
        return Ok(Storage::Embedded {
            data_dir,
            binary: path(given, "nats-server"),
            config: path(given, "nats-config"),
            sync: match given.text_or_default("sync") {
                "always" => SyncMode::Always,
                "lazy" => SyncMode::Lazy,
                _ => SyncMode::Group,
            },
            bucket,
        });
    };
    // The URL may hold a password; the reason names the part that is wrong.
    let parsed = endpoint::parse(text).map_err(|reason| SettingsError(format!("--endpoint: {reason}")))?;
    let auth = match (path(given, "nats-creds"), optional("nats-token")) {
        (Some(_), Some(_)) => {
            return refuse("--nats-creds: and --nats-token exclude each other; give one of them");
        }
        (Some(file), None) => Auth::CredentialsFile(file),
        (None, Some(token)) => Auth::Token(token.to_owned()),
        (None, None) => parsed.auth,
    };
    let client_cert = match (path(given, "nats-cert-file"), path(given, "nats-key-file")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return refuse("--nats-cert-file: needs its key: give --nats-key-file too"),
        (None, Some(_)) => {
            return refuse("--nats-key-file: needs its certificate: give --nats-cert-file too");
        }
    };
    Ok(Storage::External(Endpoint {
        servers: parsed.servers,
        auth,
        bucket: parsed.bucket.unwrap_or(bucket),
        replicas: parsed.replicas,
        ca_file: path(given, "nats-ca-file"),
        client_cert,
    }))
}

fn tls(
    given: &Given,
    data_dir: &Path,
    listen: [&Vec<ListenUrl>; 3],
    notices: &mut Vec<Notice>,
) -> Result<Option<TlsSettings>, SettingsError> {
    let (min_version, max_version) = tls_versions(given)?;
    let (cert, key) = (path(given, "cert-file"), path(given, "key-file"));
    let client_cert_auth = given.is_true("client-cert-auth");
    let has_files = cert.is_some() || key.is_some();
    let [clients, http, _] = listen;
    for url in clients.iter().chain(http).filter(|url| !url.tls) {
        if has_files {
            notices.push(Notice::warning(format!(
                "scheme is http or unix while key and cert files are present; ignoring key and cert files for {}",
                url.url
            )));
        }
        if client_cert_auth {
            notices.push(Notice::warning(format!(
                "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for {}",
                url.url
            )));
        }
    }
    let flags = ["--listen-client-urls", "--listen-client-http-urls", "--listen-metrics-urls"];
    let mut secure = flags
        .into_iter()
        .zip(listen)
        .filter_map(|(flag, urls)| Some((flag, urls.iter().find(|url| url.tls)?)));
    let Some((flag, secure)) = secure.next() else { return Ok(None) };
    let auto_tls = given.is_true("auto-tls");
    match (&cert, &key) {
        (None, None) if !auto_tls => {
            return refuse(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {} with HTTPS scheme in {flag}",
                secure.url
            ));
        }
        (Some(_), None) | (None, Some(_)) => {
            let text = |path: &Option<PathBuf>| {
                path.as_ref().map_or(String::new(), |path| path.display().to_string())
            };
            return refuse(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]: give --cert-file and --key-file",
                text(&key),
                text(&cert)
            ));
        }
        _ => {}
    }
    let trusted_ca = path(given, "trusted-ca-file");
    Ok(Some(TlsSettings {
        // As in etcd, naming authorities is enough to ask for certificates from them.
        require_client_cert: client_cert_auth || trusted_ca.is_some(),
        cert,
        key,
        trusted_ca,
        client_cert_auth,
        crl_file: path(given, "client-crl-file"),
        allowed_cn: given.texts(ALLOWED_CN),
        allowed_hostname: given.texts("client-cert-allowed-hostname"),
        cipher_suites: given.texts("cipher-suites"),
        min_version,
        max_version,
        auto_tls,
        auto_tls_dir: data_dir.join("fixtures").join("client"),
        // Nothing is a mistake on the command line and the default in a config file, as in etcd.
        self_signed_cert_validity_years: match small(given.unsigned("self-signed-cert-validity")) {
            0 if given.from_file => 1,
            years => years,
        },
    }))
}

fn tls_versions(given: &Given) -> Result<(TlsVersion, Option<TlsVersion>), SettingsError> {
    let version = |flag: &'static str, text: &str| match text {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(TlsVersion::V12)),
        "TLS1.3" => Ok(Some(TlsVersion::V13)),
        other => {
            refuse(format!("--{flag}: unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)"))
        }
    };
    // Nothing leaves the choice to the library, whose oldest is 1.2 as well.
    let oldest = version("tls-min-version", given.text("tls-min-version").unwrap_or("TLS1.2"))?;
    let newest = version("tls-max-version", given.text("tls-max-version").unwrap_or_default())?;
    if let (Some(TlsVersion::V13), Some(TlsVersion::V12)) = (oldest, newest) {
        return refuse(
            "min version (TLS1.3) is greater than max version (TLS1.2): --tls-min-version, --tls-max-version",
        );
    }
    if oldest == Some(TlsVersion::V13) && !given.texts("cipher-suites").is_empty() {
        return refuse("--cipher-suites: cipher suites cannot be configured when only TLS1.3 is enabled");
    }
    Ok((oldest.unwrap_or(TlsVersion::V12), newest))
}

#[cfg(test)]
mod tests {
    use super::super::given::Request;
    use super::*;

    fn settings_of(personality: Personality, args: &[&str]) -> Result<Settings, SettingsError> {
        let args = args.iter().map(std::ffi::OsString::from);
        match Given::read(args, std::iter::empty()) {
            Ok(Request::Serve(given)) => Settings::new(&given, personality),
            other => panic!("{other:?}"),
        }
    }

    fn settings(args: &[&str]) -> Result<Settings, SettingsError> {
        settings_of(Personality::Jetway, args)
    }

    #[test]
    fn defaults_are_an_embedded_server_on_loopback() {
        let settings = settings(&[]).expect("defaults");
        assert_eq!(settings.listen[0].address, ListenAddress::Tcp(([127, 0, 0, 1], 2379).into()));
        assert_eq!(settings.advertise, ["http://127.0.0.1:2379"]);
        assert!(
            matches!(settings.storage, Storage::Embedded { data_dir, .. } if data_dir.as_os_str() == "default.jetway")
        );
        assert_eq!((settings.quota_bytes, settings.progress_interval), (2 << 30, Duration::from_secs(5)));
        assert!(settings.tls.is_none() && settings.notices.is_empty() && settings.without_effect.is_empty());
    }

    #[test]
    fn called_as_etcd_the_defaults_are_etcd_s() {
        let settings = settings_of(Personality::Etcd, &[]).expect("defaults");
        assert_eq!(settings.advertise, ["http://localhost:2379"]);
        assert!(
            matches!(settings.storage, Storage::Embedded { data_dir, .. } if data_dir.as_os_str() == "default.etcd")
        );
        assert_eq!(settings.progress_interval, Duration::from_mins(10));
        let error = settings_of(Personality::Etcd, &["--listen-client-urls", "http://127.0.0.1:1"])
            .expect_err("etcd refuses it")
            .to_string();
        assert!(error.contains("--advertise-client-urls is required"), "{error}");
    }

    #[test]
    fn auto_compaction_is_read_as_etcd_reads_it() {
        use AutoCompaction::{Periodic, Revision};
        let hours = |hours: u64| Periodic(Duration::from_secs(hours * 3600));
        for (mode, retention, expected) in [
            ("periodic", "0", None),
            ("periodic", "5", Some(hours(5))),
            ("periodic", "5m", Some(Periodic(Duration::from_mins(5)))),
            ("revision", "1000", Some(Revision(1000))),
            ("revision", "0", None),
            ("revision", "1s", Some(Revision(1_000_000_000))),
        ] {
            let args = ["--auto-compaction-mode", mode, "--auto-compaction-retention", retention];
            assert_eq!(settings(&args).expect(retention).auto_compaction, expected, "{args:?}");
        }
    }

    #[test]
    fn mistakes_name_flag_value_and_remedy() {
        let two = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
        for (args, words) in [
            (
                &["--listen-client-urls", "https://127.0.0.1:1"][..],
                &["--cert-file", "https://127.0.0.1:1"][..],
            ),
            (&["--listen-client-urls", "unix://"], &["--listen-client-urls", "unix:///path"]),
            (&["--listen-client-urls", "http://example.test:1"], &["example.test", "0.0.0.0"]),
            (
                &["--listen-client-urls", "http://127.0.0.1:1,https://127.0.0.1:1"],
                &["one port", "--listen-client-urls"],
            ),
            (
                &["--listen-client-urls=http://127.0.0.1:1", "--listen-client-http-urls=http://127.0.0.1:1"],
                &["cannot bind both"],
            ),
            (
                &["--cert-file", "c", "--listen-client-urls", "https://127.0.0.1:1"],
                &["must both be present", "--key-file"],
            ),
            (
                &["--advertise-client-urls", "http://:1"],
                &["--advertise-client-urls", "unexpected empty host"],
            ),
            (&["--endpoint", "nats://"], &["--endpoint", "host"]),
            (&["--bucket", "a.b"], &["--bucket", "a.b", "letters"]),
            (&["--nats-token", "t"], &["--nats-token: ", "--endpoint"]),
            (&["--max-request-bytes", "100000000"], &["--max-request-bytes", "100000000", "at most"]),
            (&["--name", "a", "--initial-cluster", two], &["--initial-cluster", "2 members", "--endpoint"]),
            (&["--initial-cluster", "b=http://127.0.0.1:2"], &["couldn't find local name \"default\""]),
            (&["--initial-cluster", "default"], &["--initial-cluster", "name=http"]),
            (&["--initial-cluster-state", "existing"], &["existing", "default.jetway", "new"]),
            (&["--discovery-srv", "example.test"], &["--discovery-srv", "--endpoint"]),
            (&["--discovery-token", "t"], &["both --discovery-token and --discovery-endpoints"]),
            (&["--discovery-fallback", "proxy"], &["v2 proxy is deprecated"]),
            (&["--auto-compaction-mode", "weekly"], &["unknown auto-compaction-mode \"weekly\""]),
            (&["--auto-compaction-retention", "a"], &["error parsing CompactionRetention"]),
            (&["--heartbeat-interval", "500"], &["--election-timeout[1000ms] should be at least"]),
            (&["--tls-min-version", "1"], &["unexpected TLS version"]),
            (&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"], &["is greater than max"]),
            (&["--feature-gates", "LeaseCheckpointPersist=true"], &["requires enabling feature gate"]),
            (&["--log-level", "loud"], &["unrecognized level"]),
            (&["--log-format", "xml"], &["unknown log format: xml"]),
            (&["--logger", "capnslog"], &["--logger=capnslog is removed"]),
            (&["--log-outputs", "default,stdout"], &["multi logoutput for \"default\""]),
            (&["--enable-log-rotation"], &["--log-outputs requires a single file path"]),
        ] {
            let error = settings(args).expect_err("a mistake").to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{args:?}: {error}");
        }
    }

    #[test]
    fn a_cluster_is_refused_only_where_there_would_be_several() {
        let two = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
        settings(&["--endpoint", "nats://h", "--name", "a", "--initial-cluster", two])
            .expect("one store for all");
        settings(&["--name", "a", "--initial-cluster", "a=http://127.0.0.1:1,a=http://127.0.0.2:1"])
            .expect("one member");
    }

    #[test]
    fn the_data_of_an_etcd_is_not_hidden() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("member")).expect("made");
        let path = dir.path().display().to_string();
        let error = settings(&["--data-dir", &path]).expect_err("not ours").to_string();
        assert!(error.contains(&path) && error.contains("data of an etcd"), "{error}");
    }

    #[test]
    fn certificates_for_a_port_without_tls_are_told() {
        let settings = settings(&["--cert-file", "c", "--client-cert-auth"]).expect("as etcd");
        let told: Vec<_> = settings.notices.iter().map(|notice| notice.text.as_str()).collect();
        assert!(settings.tls.is_none());
        assert!(
            told[0].contains("ignoring key and cert files") && told[1].contains("ignoring client cert auth")
        );
    }

    #[test]
    fn flags_without_effect_are_told() {
        let given = [
            "--heartbeat-interval",
            "100",
            "--peer-cert-file",
            "c",
            "--data-dir",
            "d",
            "--nats-server",
            "n",
            "--endpoint",
            "nats://h",
        ];
        let settings = settings(&given).expect("harmless");
        assert_eq!(settings.without_effect, ["peer-cert-file", "data-dir", "nats-server"]);
    }
}
