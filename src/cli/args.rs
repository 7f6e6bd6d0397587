//! Flags as clap sees them. Names, defaults and meanings are etcd's where etcd has the notion.

use super::duration::{self, GoDuration};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The etcd v3 API over NATS JetStream.
///
/// Without arguments jetway serves the etcd API on http://127.0.0.1:2379 and keeps its data with an embedded
/// nats-server that it starts and supervises. With --endpoint it is a stateless shim over an existing NATS.
#[derive(Clone, Debug, Parser)]
#[command(name = "jetway", version, max_term_width = 110, args_override_self = true)]
pub struct Args {
    /// Name of this member, shown in the member list.
    #[arg(long, env = "ETCD_NAME", default_value = "default")]
    pub name: String,

    /// Where the embedded nats-server keeps its store; `<name>.jetway` if not given.
    #[arg(long, env = "ETCD_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Comma-separated URLs to serve clients on.
    #[arg(
        long,
        env = "ETCD_LISTEN_CLIENT_URLS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379"
    )]
    pub listen_client_urls: Vec<String>,

    /// Comma-separated URLs that the member list names for this member; the listen URLs if not given.
    #[arg(long, env = "ETCD_ADVERTISE_CLIENT_URLS", value_delimiter = ',')]
    pub advertise_client_urls: Vec<String>,

    /// Comma-separated URLs that serve /metrics, /health, /livez and /readyz only.
    #[arg(long, env = "ETCD_LISTEN_METRICS_URLS", value_delimiter = ',')]
    pub listen_metrics_urls: Vec<String>,

    /// TLS certificate of the client port (PEM).
    #[arg(long, env = "ETCD_CERT_FILE")]
    pub cert_file: Option<PathBuf>,

    /// Key of --cert-file (PEM).
    #[arg(long, env = "ETCD_KEY_FILE")]
    pub key_file: Option<PathBuf>,

    /// Authorities of client certificates (PEM).
    #[arg(long, env = "ETCD_TRUSTED_CA_FILE")]
    pub trusted_ca_file: Option<PathBuf>,

    /// Refuse clients without a certificate from --trusted-ca-file.
    #[arg(long, env = "ETCD_CLIENT_CERT_AUTH", num_args = 0..=1, default_missing_value = "true", default_value_t = false, require_equals = true, action = clap::ArgAction::Set, value_parser = go_bool)]
    pub client_cert_auth: bool,

    /// Largest write request in bytes.
    #[arg(long, env = "ETCD_MAX_REQUEST_BYTES", default_value_t = 1_572_864)]
    pub max_request_bytes: u32,

    /// Most operations in a transaction.
    #[arg(long, env = "ETCD_MAX_TXN_OPS", default_value_t = 128)]
    pub max_txn_ops: u32,

    /// Most concurrent streams of one client connection; 0 for no limit.
    #[arg(long, env = "ETCD_MAX_CONCURRENT_STREAMS", default_value_t = u32::MAX)]
    pub max_concurrent_streams: u32,

    /// Bytes of data above which writes are refused; 0 for etcd's default of 2 GiB, negative for no limit.
    #[arg(long, env = "ETCD_QUOTA_BACKEND_BYTES", default_value_t = 0, allow_negative_numbers = true)]
    pub quota_backend_bytes: i64,

    /// How often a watch that asked for it is told how far it is while nothing happens (etcd's default is 10m).
    #[arg(long, env = "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL", default_value = "5s", value_parser = duration::parse)]
    pub watch_progress_notify_interval: GoDuration,

    /// How often an idle client connection is pinged.
    #[arg(long, env = "ETCD_GRPC_KEEPALIVE_INTERVAL", default_value = "2h", value_parser = duration::parse)]
    pub grpc_keepalive_interval: GoDuration,

    /// How long such a ping may take.
    #[arg(long, env = "ETCD_GRPC_KEEPALIVE_TIMEOUT", default_value = "20s", value_parser = duration::parse)]
    pub grpc_keepalive_timeout: GoDuration,

    /// Accepted and without effect: clients may ping as often as they like.
    #[arg(long, env = "ETCD_GRPC_KEEPALIVE_MIN_TIME", hide = true, value_parser = duration::parse)]
    pub grpc_keepalive_min_time: Option<GoDuration>,

    /// Accepted and without effect: elections are NATS's business.
    #[arg(long, env = "ETCD_HEARTBEAT_INTERVAL", hide = true)]
    pub heartbeat_interval: Option<u64>,

    /// Accepted and without effect: elections are NATS's business.
    #[arg(long, env = "ETCD_ELECTION_TIMEOUT", hide = true)]
    pub election_timeout: Option<u64>,

    /// Accepted and without effect: there is no Raft log to cut.
    #[arg(long, env = "ETCD_SNAPSHOT_COUNT", hide = true)]
    pub snapshot_count: Option<u64>,

    /// debug, info, warn, error, panic or fatal; or a filter in the form of the tracing crate.
    #[arg(long, env = "ETCD_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// json or console.
    #[arg(long, env = "ETCD_LOG_FORMAT", default_value = "console")]
    pub log_format: LogFormat,

    /// URL of an existing NATS, as kine takes it: `nats://[user:password@|token@]host:port[,host:port…][?bucket=NAME&replicas=N]`;
    /// also jetstream:// and tls://. Without it jetway runs its own nats-server.
    #[arg(long, env = "JETWAY_ENDPOINT", hide_env_values = true, help_heading = "jetway")]
    pub endpoint: Option<String>,

    /// Bucket that holds the data; a bucket= in --endpoint wins.
    #[arg(long, env = "JETWAY_BUCKET", default_value = "jetway", help_heading = "jetway")]
    pub bucket: String,

    /// Credentials file (.creds) for NATS.
    #[arg(long, env = "JETWAY_NATS_CREDS", help_heading = "jetway")]
    pub nats_creds: Option<PathBuf>,

    /// Token for NATS.
    #[arg(long, env = "JETWAY_NATS_TOKEN", hide_env_values = true, help_heading = "jetway")]
    pub nats_token: Option<String>,

    /// Authorities to trust on the connection to NATS (PEM), beside the system's.
    #[arg(long, env = "JETWAY_NATS_CA_FILE", help_heading = "jetway")]
    pub nats_ca_file: Option<PathBuf>,

    /// Client certificate for NATS (PEM).
    #[arg(long, env = "JETWAY_NATS_CERT_FILE", requires = "nats_key_file", help_heading = "jetway")]
    pub nats_cert_file: Option<PathBuf>,

    /// Key of --nats-cert-file (PEM).
    #[arg(long, env = "JETWAY_NATS_KEY_FILE", requires = "nats_cert_file", help_heading = "jetway")]
    pub nats_key_file: Option<PathBuf>,

    /// The nats-server to run; looked for beside jetway and in PATH if not given.
    #[arg(long, env = "JETWAY_NATS_SERVER", help_heading = "jetway")]
    pub nats_server: Option<PathBuf>,

    /// nats-server configuration to merge into that of the embedded server.
    #[arg(long, env = "JETWAY_NATS_CONFIG", help_heading = "jetway")]
    pub nats_config: Option<PathBuf>,

    /// When the embedded server's writes are on disk: always (before they are answered) or lazy (within two minutes; a
    /// power failure can take back answered writes).
    #[arg(long, env = "JETWAY_SYNC", default_value = "always", help_heading = "jetway")]
    pub sync: Sync,

    /// How reads are made linearizable where others write to the bucket too: quorum, or leader (cheaper with several
    /// replicas, stale for about a second around a partition).
    #[arg(long, env = "JETWAY_LINEARIZABLE_READS", default_value = "quorum", help_heading = "jetway")]
    pub linearizable_reads: Reads,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Console,
}

/// Durability of the embedded server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sync {
    /// Before the answer.
    Always,
    /// Some time later.
    Lazy,
}

/// Source of linearizability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reads {
    /// A committed entry.
    Quorum,
    /// The leader's word.
    Leader,
}

impl Args {
    /// The command line and environment as etcd would read them; ends the process with a message where they are wrong,
    /// and after `--help` and `--version`.
    pub fn read(args: impl Iterator<Item = OsString>) -> Args {
        Args::try_read(args, |name| std::env::var_os(name)).unwrap_or_else(|error| error.exit())
    }

    fn try_read(
        args: impl Iterator<Item = OsString>,
        variable: impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<Args, clap::Error> {
        let command = without_empty_variables(Args::command(), variable);
        let mut matches = command.try_get_matches_from(normalize(args))?;
        Args::from_arg_matches_mut(&mut matches)
    }
}

/// As in etcd a variable that is set to nothing is not set; clap would take it for a value.
fn without_empty_variables(
    command: clap::Command,
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> clap::Command {
    command.mut_args(|arg| {
        let is_empty = arg.get_env().and_then(&variable).is_some_and(|value| value.is_empty());
        if is_empty { arg.env(None::<&'static str>) } else { arg }
    })
}

/// Lets etcd's single-dash flags through clap, and drops an explicit `serve`, which is what jetway does anyway.
fn normalize(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    args.enumerate()
        .filter(|(at, arg)| !(*at == 1 && arg == "serve"))
        .map(|(at, arg)| match arg.as_encoded_bytes() {
            [b'-', b'a'..=b'z', _, ..] if at > 0 => {
                let mut long = OsString::from("-");
                long.push(arg);
                long
            }
            _ => arg,
        })
        .collect()
}

/// What Go takes for a boolean.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        let args = std::iter::once("jetway").chain(args.iter().copied()).map(OsString::from);
        Args::try_read(args, |_| None)
    }

    #[test]
    fn a_variable_without_a_value_is_not_set() {
        let variable = |name: &OsStr| match name.to_str() {
            Some("ETCD_NAME") => Some(OsString::from("a")),
            Some("ETCD_DATA_DIR") => Some(OsString::new()),
            _ => None,
        };
        let command = without_empty_variables(Args::command(), variable);
        let of = |id: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id).expect("a flag");
            arg.get_env().is_some()
        };
        assert_eq!(["name", "data_dir", "cert_file"].map(of), [true, false, true]);
    }

    #[test]
    fn booleans_are_go_s() {
        for (arg, expected) in
            [("--client-cert-auth", true), ("--client-cert-auth=1", true), ("-client-cert-auth=F", false)]
        {
            assert_eq!(parse(&[arg]).expect(arg).client_cert_auth, expected, "{arg}");
        }
        let error = parse(&["--client-cert-auth=yes"]).expect_err("no boolean").to_string();
        assert!(error.contains("--client-cert-auth") && error.contains("yes"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn an_argument_that_is_no_text_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let args = [OsString::from("jetway"), OsString::from_vec(b"--name=\xff".to_vec())];
        Args::try_read(args.into_iter(), |_| None).expect_err("no text");
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        let args = parse(&["serve", "-name", "a", "--data-dir=d", "-quota-backend-bytes=-1"])
            .expect("etcd's own forms");
        assert_eq!((args.name.as_str(), args.quota_backend_bytes), ("a", -1));
    }

    #[test]
    fn an_unknown_flag_is_named() {
        let error = parse(&["--no-such-flag"]).expect_err("unknown").to_string();
        assert!(error.contains("--no-such-flag"), "{error}");
    }

    #[test]
    fn a_bad_value_is_named_with_its_flag() {
        let error = parse(&["--max-txn-ops", "many"]).expect_err("no number").to_string();
        assert!(error.contains("many") && error.contains("--max-txn-ops"), "{error}");
        let error = parse(&["--watch-progress-notify-interval", "5"]).expect_err("no unit").to_string();
        assert!(error.contains("--watch-progress-notify-interval") && error.contains("5s"), "{error}");
    }

    #[test]
    fn clap_finds_no_fault_with_the_flags() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}
