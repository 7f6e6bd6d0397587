//! Checked settings.

use super::args::{Args, LogFormat, Reads, Sync};
use super::endpoint;
use crate::engine::LinearizableReads;
use crate::jetstream::{Auth, Endpoint};
use crate::nats_server::SyncMode;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// The least interval of progress notifications, as in etcd.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// etcd's default quota.
const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;

/// nats-server takes messages of at most 64 MiB, headers included.
const MAX_EMBEDDED_REQUEST_BYTES: u32 = 63 << 20;

/// Flags that do not go together or mean nothing.
#[derive(Debug, Error)]
#[error("{flag}{}{value}: {reason}", if value.is_empty() { "" } else { " " })]
pub struct SettingsError {
    flag: &'static str,
    value: String,
    reason: String,
}

fn refuse<T>(
    flag: &'static str,
    value: impl Into<String>,
    reason: impl Into<String>,
) -> Result<T, SettingsError> {
    Err(SettingsError { flag, value: value.into(), reason: reason.into() })
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
    /// Most learners that a cluster may have.
    pub max_learners: u32,
    /// Unary calls that take longer are told in the log; zero for none.
    pub warning_unary_request_duration: Duration,
    /// Log filter.
    pub log_filter: String,
    /// Whether the log is JSON.
    pub log_json: bool,
    /// Source of linearizability.
    pub linearizable_reads: LinearizableReads,
    /// Flags that were given and mean nothing here, to be told so in the log.
    pub without_effect: Vec<&'static str>,
}

impl TryFrom<Args> for Settings {
    type Error = SettingsError;

    fn try_from(args: Args) -> Result<Settings, SettingsError> {
        let tls = tls_files(&args)?;
        let listen = listen_urls("--listen-client-urls", &args.listen_client_urls, tls.is_some())?;
        if listen.is_empty() {
            return refuse(
                "--listen-client-urls",
                "",
                "names no URL; leave it out for http://127.0.0.1:2379",
            );
        }
        let listen_metrics = listen_urls("--listen-metrics-urls", &args.listen_metrics_urls, tls.is_some())?;
        let advertise = if args.advertise_client_urls.is_empty() {
            args.listen_client_urls.clone()
        } else {
            args.advertise_client_urls.clone()
        };
        let log_filter = match args.log_level.as_str() {
            "dpanic" | "panic" | "fatal" => "error".to_owned(),
            // The client library tells of each connection at info; what matters of it we log ourselves.
            level @ ("debug" | "info" | "warn" | "error") => {
                format!("{level},async_nats=warn,h2=warn,hyper=warn,tower=warn")
            }
            filter => filter.to_owned(),
        };
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&log_filter) {
            return refuse(
                "--log-level",
                args.log_level,
                format!("{error}; expected debug, info, warn or error"),
            );
        }
        Ok(Settings {
            storage: storage(&args)?,
            without_effect: without_effect(&args),
            name: args.name,
            listen,
            advertise,
            listen_metrics,
            listen_client_http: Vec::new(),
            tls,
            max_request_bytes: args.max_request_bytes as usize,
            max_txn_ops: args.max_txn_ops as usize,
            // As in grpc-go, where no streams at all would make no sense either.
            max_concurrent_streams: match args.max_concurrent_streams {
                0 => u32::MAX,
                limit => limit,
            },
            quota_bytes: if args.quota_backend_bytes == 0 {
                DEFAULT_QUOTA_BYTES
            } else {
                args.quota_backend_bytes
            },
            progress_interval: args.watch_progress_notify_interval.0.max(MIN_PROGRESS_INTERVAL),
            keepalive_interval: args.grpc_keepalive_interval.0,
            keepalive_timeout: args.grpc_keepalive_timeout.0,
            keepalive_min_time: args.grpc_keepalive_min_time.map_or(Duration::from_secs(5), |time| time.0),
            socket_reuse_port: false,
            socket_reuse_address: false,
            cors: vec!["*".into()],
            host_whitelist: vec!["*".into()],
            enable_pprof: false,
            metrics_extensive: false,
            enable_grpc_gateway: true,
            auto_compaction: None,
            auth_token: "simple".into(),
            auth_token_ttl: 300,
            bcrypt_cost: 10,
            max_learners: 1,
            warning_unary_request_duration: Duration::from_millis(300),
            log_filter,
            log_json: args.log_format == LogFormat::Json,
            linearizable_reads: match args.linearizable_reads {
                Reads::Quorum => LinearizableReads::Quorum,
                Reads::Leader => LinearizableReads::Leader,
            },
        })
    }
}

fn without_effect(args: &Args) -> Vec<&'static str> {
    let external = args.endpoint.is_some();
    [
        ("--heartbeat-interval", args.heartbeat_interval.is_some()),
        ("--election-timeout", args.election_timeout.is_some()),
        ("--snapshot-count", args.snapshot_count.is_some()),
        // These are about an embedded server.
        ("--data-dir", external && args.data_dir.is_some()),
        ("--nats-server", external && args.nats_server.is_some()),
        ("--nats-config", external && args.nats_config.is_some()),
        ("--sync", external && args.sync == Sync::Lazy),
    ]
    .into_iter()
    .filter_map(|(flag, given)| given.then_some(flag))
    .collect()
}

fn storage(args: &Args) -> Result<Storage, SettingsError> {
    if let Err(reason) = endpoint::check_bucket(&args.bucket) {
        return refuse("--bucket", args.bucket.clone(), reason);
    }
    let Some(text) = &args.endpoint else {
        // Whoever gives these means a NATS that is there, and must not find the data in another one.
        for (flag, given) in [
            ("--nats-creds", args.nats_creds.is_some()),
            ("--nats-token", args.nats_token.is_some()),
            ("--nats-ca-file", args.nats_ca_file.is_some()),
            ("--nats-cert-file", args.nats_cert_file.is_some()),
        ] {
            if given {
                return refuse(flag, "", "is for a NATS that is there already: give --endpoint too");
            }
        }
        if args.max_request_bytes > MAX_EMBEDDED_REQUEST_BYTES {
            return refuse(
                "--max-request-bytes",
                args.max_request_bytes.to_string(),
                format!("is more than nats-server takes; give at most {MAX_EMBEDDED_REQUEST_BYTES}"),
            );
        }
        let data_dir =
            args.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.jetway", args.name)));
        let sync = match args.sync {
            Sync::Always => SyncMode::Always,
            Sync::Lazy => SyncMode::Lazy,
        };
        return Ok(Storage::Embedded {
            data_dir,
            binary: args.nats_server.clone(),
            config: args.nats_config.clone(),
            sync,
            bucket: args.bucket.clone(),
        });
    };
    let parsed = match endpoint::parse(text) {
        Ok(parsed) => parsed,
        // The URL may hold a password; the reason names the part that is wrong.
        Err(reason) => return refuse("--endpoint", "", reason),
    };
    let auth = match (&args.nats_creds, &args.nats_token) {
        (Some(_), Some(_)) => {
            return refuse("--nats-creds", "", "and --nats-token exclude each other; give one of them");
        }
        (Some(file), None) => Auth::CredentialsFile(file.clone()),
        (None, Some(token)) => Auth::Token(token.clone()),
        (None, None) => parsed.auth,
    };
    Ok(Storage::External(Endpoint {
        servers: parsed.servers,
        auth,
        bucket: parsed.bucket.unwrap_or_else(|| args.bucket.clone()),
        replicas: parsed.replicas.unwrap_or(1),
        ca_file: args.nats_ca_file.clone(),
        client_cert: args.nats_cert_file.clone().zip(args.nats_key_file.clone()),
    }))
}

fn tls_files(args: &Args) -> Result<Option<TlsSettings>, SettingsError> {
    let (cert, key) = match (&args.cert_file, &args.key_file) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        (None, None) if args.trusted_ca_file.is_none() && !args.client_cert_auth => return Ok(None),
        (Some(cert), None) => {
            return refuse("--cert-file", cert.display().to_string(), "needs its key: give --key-file too");
        }
        (None, Some(key)) => {
            return refuse(
                "--key-file",
                key.display().to_string(),
                "needs its certificate: give --cert-file too",
            );
        }
        (None, None) => {
            return refuse("--client-cert-auth", "true", "needs TLS: give --cert-file and --key-file");
        }
    };
    if args.client_cert_auth && args.trusted_ca_file.is_none() {
        return refuse(
            "--client-cert-auth",
            "true",
            "needs the authorities to check against: give --trusted-ca-file",
        );
    }
    let trusted_ca = args.trusted_ca_file.clone();
    // As in etcd, naming authorities is enough to ask for certificates from them.
    let require_client_cert = args.client_cert_auth || trusted_ca.is_some();
    Ok(Some(TlsSettings {
        cert: Some(cert),
        key: Some(key),
        trusted_ca,
        require_client_cert,
        client_cert_auth: args.client_cert_auth,
        crl_file: None,
        allowed_cn: Vec::new(),
        allowed_hostname: Vec::new(),
        cipher_suites: Vec::new(),
        min_version: TlsVersion::V12,
        max_version: None,
        auto_tls: false,
        auto_tls_dir: PathBuf::new(),
        self_signed_cert_validity_years: 1,
    }))
}

fn listen_urls(flag: &'static str, urls: &[String], has_tls: bool) -> Result<Vec<ListenUrl>, SettingsError> {
    let mut listen = Vec::new();
    for url in urls.iter().filter(|url| !url.is_empty()) {
        let Some((scheme, rest)) = url.split_once("://") else {
            return refuse(flag, url, "is no URL; expected http://address:port");
        };
        let tls = match scheme {
            "http" | "unix" => false,
            "https" | "unixs" if has_tls => true,
            "https" | "unixs" => {
                return refuse(flag, url, "asks for TLS: give --cert-file and --key-file, or use http://");
            }
            _ => return refuse(flag, url, "has an unknown scheme; expected http, https, unix or unixs"),
        };
        if scheme.starts_with("unix") {
            // As in etcd, the path is all that follows, relative or not, and whatever looks like a port is part of it.
            if rest.is_empty() {
                return refuse(flag, url, "names no socket; expected unix:///path/to/socket");
            }
            listen.push(ListenUrl { url: url.clone(), address: ListenAddress::Unix(rest.into()), tls });
            continue;
        }
        let rest = rest.trim_end_matches('/');
        let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host).trim_matches(['[', ']']);
        if host.parse::<std::net::IpAddr>().is_err() && host != "localhost" {
            return refuse(flag, url, "must name an IP address, not a host name; 0.0.0.0 stands for all");
        }
        let address = match rest.to_socket_addrs().map(|mut addresses| addresses.next()) {
            Ok(Some(address)) => address,
            Ok(None) => return refuse(flag, url, "names no address; expected http://address:port"),
            Err(error) => return refuse(flag, url, format!("{error}; expected http://address:port")),
        };
        listen.push(ListenUrl { url: url.clone(), address: ListenAddress::Tcp(address), tls });
    }
    Ok(listen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn settings(args: &[&str]) -> Result<Settings, SettingsError> {
        Args::try_parse_from(std::iter::once("jetway").chain(args.iter().copied()))
            .expect("clap is content")
            .try_into()
    }

    #[test]
    fn defaults_are_an_embedded_server_on_loopback() {
        let settings = settings(&[]).expect("defaults");
        assert_eq!(settings.listen[0].address, ListenAddress::Tcp(([127, 0, 0, 1], 2379).into()));
        assert!(
            matches!(settings.storage, Storage::Embedded { data_dir, .. } if data_dir.as_os_str() == "default.jetway")
        );
        assert_eq!(settings.quota_bytes, 2 << 30);
    }

    #[test]
    fn a_unix_socket_is_a_path() {
        let settings = settings(&["--listen-client-urls", "unix:///run/jetway.sock:2379"]).expect("a path");
        assert_eq!(settings.listen[0].address, ListenAddress::Unix("/run/jetway.sock:2379".into()));
    }

    #[test]
    fn mistakes_name_flag_value_and_remedy() {
        for (args, words) in [
            (
                &["--listen-client-urls", "127.0.0.1:1"][..],
                &["--listen-client-urls", "127.0.0.1:1", "http://"][..],
            ),
            (&["--listen-client-urls", "https://127.0.0.1:1"], &["--cert-file"]),
            (&["--listen-client-urls", "unix://"], &["--listen-client-urls", "unix:///path"]),
            (&["--listen-client-urls", "http://example.test:1"], &["example.test", "0.0.0.0"]),
            (&["--cert-file", "c"], &["--cert-file", "--key-file"]),
            (&["--client-cert-auth", "--cert-file", "c", "--key-file", "k"], &["--trusted-ca-file"]),
            (&["--endpoint", "nats://"], &["--endpoint", "host"]),
            (&["--bucket", "a.b"], &["--bucket", "a.b", "letters"]),
            (&["--nats-token", "t"], &["--nats-token: ", "--endpoint"]),
            (&["--max-request-bytes", "100000000"], &["--max-request-bytes", "100000000", "at most"]),
        ] {
            let error = settings(args).expect_err("a mistake").to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn flags_without_effect_are_told() {
        // All that the environment of a test run may set is given here too.
        let given = [
            "--heartbeat-interval",
            "100",
            "--data-dir",
            "d",
            "--nats-server",
            "n",
            "--endpoint",
            "nats://h",
        ];
        let settings = settings(&given).expect("harmless");
        assert_eq!(settings.without_effect, ["--heartbeat-interval", "--data-dir", "--nats-server"]);
    }
}
