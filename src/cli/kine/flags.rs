//! The table of kine's flags, all of v0.16.4.

use super::super::flags::Kind::{Bool, Duration, Int, Text};
use super::super::flags::{Flag, idle, other, same};

const SQL: &str = "there is no SQL database";
const T4: &str = "only kine's T4 driver has a use for it, and jetway keeps its data in NATS";
const FIXED_TURNS: &str = "compactions take turns of a fixed size";

/// Flags in kine's order.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    same("listen-address", Text, "0.0.0.0:2379", "Address to serve clients on: host:port, or unix:// and a path."),
    other("endpoint", Text, "", "nats:// or jetstream://, as in kine. Without it jetway runs its own nats-server, where kine uses SQLite."),
    same("ca-file", Text, "", "Authorities to trust on the connection to NATS (PEM), beside the system's."),
    same("cert-file", Text, "", "Client certificate for NATS (PEM)."),
    same("key-file", Text, "", "Key of --cert-file (PEM)."),
    idle("skip-verify", Bool, "false", "NATS servers are always verified, as by kine's NATS driver"),
    other("log-format", Text, "plain", "plain or json; JSON has etcd's names, such as level and msg"),
    same("metrics-bind-address", Text, ":8080", "Address to serve /metrics on; 0 for none. Health is served there too."),
    same("server-cert-file", Text, "", "TLS certificate of the client and metrics ports (PEM)."),
    same("server-key-file", Text, "", "Key of --server-cert-file (PEM)."),
    other("trusted-ca-file", Text, "", "Authorities of client certificates (PEM); clients then need one, on the metrics port too"),
    idle("datastore-max-idle-connections", Int, "20", SQL),
    idle("datastore-max-open-connections", Int, "0", SQL),
    idle("datastore-connection-max-lifetime", Duration, "0s", SQL),
    idle("datastore-connection-max-idle-time", Duration, "2m0s", SQL),
    idle("slow-sql-threshold", Duration, "1s", SQL),
    idle("slow-sql-warning-threshold", Duration, "5s", SQL),
    idle("metrics-enable-profiling", Bool, "false", "there is no Go runtime to profile"),
    same("metrics-ignore-tls-config", Bool, "false", "Serve metrics without TLS, whatever the client port has."),
    same("watch-progress-notify-interval", Duration, "5s", "Interval of progress notifications on an idle watch that asked for them."),
    idle("emulated-etcd-version", Text, "3.6.11", "jetway reports the version of etcd that it follows"),
    same("compact-interval", Duration, "0s", "Time between automatic compactions; 0 for none."),
    idle("compact-interval-jitter", Int, "0", "instances that compact at the same time do not disturb each other"),
    idle("compact-timeout", Duration, "5s", FIXED_TURNS),
    same("compact-min-retain", Int, "1000", "Revisions that an automatic compaction leaves."),
    idle("compact-batch-size", Int, "1000", FIXED_TURNS),
    idle("poll-batch-size", Int, "500", SQL),
    idle("peer-bind-address", Text, "", T4),
    idle("peer-advertise-address", Text, "", T4),
    idle("s3-bucket", Text, "", T4),
    idle("s3-folder", Text, "", T4),
    idle("s3-endpoint", Text, "", T4),
    idle("s3-region", Text, "", T4),
    idle("s3-access-key", Text, "", T4),
    idle("s3-secret-key", Text, "", T4),
    idle("s3-session-token", Text, "", T4),
    idle("s3-profile", Text, "", T4),
    idle("s3-ca-bundle", Text, "", T4),
    same("debug", Bool, "false", "Log at level debug."),
    same("version", Bool, "false", "Print the version and exit."),
];

/// The environment variable of a flag. kine reads those of S3 from variables of Amazon's tools, which are no
/// wish to jetway.
pub(super) fn variable(flag: &Flag) -> Option<String> {
    let has_none =
        flag.name.starts_with("s3-") && !matches!(flag.name, "s3-bucket" | "s3-folder" | "s3-endpoint");
    (!has_none && flag.name != "version")
        .then(|| format!("KINE_{}", flag.name.to_uppercase().replace('-', "_")))
}
