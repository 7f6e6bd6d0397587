//! The table of flags: all of etcd 3.7's and our own. The parser, the config file, `--help` and `FLAGS.md`
//! follow it.

use super::program::Program;

/// The kind of a value. The rules are those of Go's `flag` package and of etcd's own kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// A whole number from 0.
    Uint,
    /// The same in 32 bits, with another error.
    Uint32,
    /// A whole number.
    Int,
    Duration,
    Text,
    /// Texts with commas between them. In a config file a text, or a list where `true`.
    Texts(bool),
    /// URLs with commas between them; an empty value stands for the default.
    Urls,
    /// URLs with commas between them; `*` stands for any, and an empty value for none.
    Origins,
    Choice(&'static [&'static str]),
    Choices(&'static [&'static str]),
    FeatureGates,
    /// Any value; it is not read.
    Anything,
}

/// The effect of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// That of etcd.
    Same,
    /// None: it is accepted, for the reason that nothing depends on it.
    None(&'static str),
    /// Another one than in etcd, as described: it may be accepted in some cases and refused in others.
    Other(&'static str),
    /// It is refused, for this reason.
    Refused(&'static str),
    /// It is not etcd's.
    Own,
}

/// An entry of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// etcd's default, as on the command line; empty for none.
    pub(super) default: &'static str,
    /// The default of jetway under its own name, if it is another one.
    pub(super) own_default: Option<&'static str>,
    pub(super) effect: Effect,
    pub(super) help: &'static str,
}

pub(super) const fn same(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, own_default: None, effect: Effect::Same, help }
}

pub(super) const fn idle(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, kind, default, own_default: None, effect: Effect::None(why), help: why }
}

pub(super) const fn other(name: &'static str, kind: Kind, default: &'static str, how: &'static str) -> Flag {
    Flag { name, kind, default, own_default: None, effect: Effect::Other(how), help: how }
}

const fn refused(name: &'static str, kind: Kind, why: &'static str) -> Flag {
    Flag { name, kind, default: "", own_default: None, effect: Effect::Refused(why), help: why }
}

const fn own(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, own_default: None, effect: Effect::Own, help }
}

use Kind::{
    Anything, Bool, Choice, Choices, Duration, FeatureGates, Int, Origins, Text, Texts, Uint, Uint32, Urls,
};

const RAFT: &str = "order and durability are JetStream's: there is no Raft to tune";
const FILES: &str = "there are no snapshot or WAL files of etcd's form";
const BACKEND: &str = "there is no bbolt file";
const PEERS: &str = "the peer port is nats-server's, whose timeouts are constants";
const BOOTSTRAP: &str = "name the members with --initial-cluster, or a NATS cluster with --endpoint";
const DISCOVERY: &str = "only used with the discovery that is refused";
const CHECKS: &str = "each instance compares itself with the stream all the time";
const COMPACTION: &str = "compactions take turns of a fixed size";
const TRACING: &str = "there is no export of traces";
const GONE: &str = "etcd ignores it too";

/// Name of etcd's flag for the file that replaces all others.
pub(super) const CONFIG_FILE: &str = "config-file";
/// A key of etcd's config file that has no flag: common names that client certificates may have.
pub(super) const ALLOWED_CN: &str = "client-cert-allowed-cn";

/// Headings and their flags, in etcd's order.
#[rustfmt::skip]
pub(super) const SECTIONS: &[(&str, &[Flag])] = &[
    ("Member", &[
        same("name", Text, "default", "Name of this member, shown in the member list."),
        same("data-dir", Text, "<name>.etcd", "Where the embedded nats-server keeps its store.").as_jetway("<name>.jetway"),
        idle("wal-dir", Text, "", FILES),
        idle("snapshot-count", Uint, "10000", FILES),
        same("heartbeat-interval", Uint, "100", "Milliseconds between the writer's signs of life, where there are several instances."),
        same("election-timeout", Uint, "1000", "Milliseconds of the writer's silence after which another instance takes over."),
        idle("initial-election-tick-advance", Bool, "true", RAFT),
        same("listen-peer-urls", Urls, "http://localhost:2380", "URL on which a member of a cluster expects the others; one that is alone opens it when a second one is added."),
        same("listen-client-urls", Urls, "http://localhost:2379", "URLs to serve clients on: gRPC, and HTTP unless --listen-client-http-urls is given.").as_jetway("http://127.0.0.1:2379"),
        same("listen-client-http-urls", Urls, "", "URLs that serve clients HTTP only."),
        idle("max-snapshots", Uint, "5", FILES),
        idle("max-wals", Uint, "5", FILES),
        idle("memory-mlock", Bool, "false", BACKEND),
        same("quota-backend-bytes", Int, "0", "Bytes of data above which writes are refused; 0 for 2 GiB, negative for no limit."),
        idle("backend-bbolt-freelist-type", Text, "map", BACKEND),
        idle("backend-batch-interval", Duration, "0s", BACKEND),
        idle("backend-batch-limit", Int, "0", BACKEND),
        same("max-txn-ops", Uint, "128", "Most operations in a transaction."),
        same("max-request-bytes", Uint, "1572864", "Largest write request in bytes; at most 63 MiB with the embedded server."),
        same("max-concurrent-streams", Uint32, "4294967295", "Most concurrent streams of one client connection; 0 for no limit."),
        same("grpc-keepalive-min-time", Duration, "5s", "Least time between two pings of a client; one that pings more often is sent away."),
        same("grpc-keepalive-interval", Duration, "2h", "How often an idle client connection is pinged; 0 for never."),
        same("grpc-keepalive-timeout", Duration, "20s", "How long such a ping may take."),
        same("socket-reuse-port", Bool, "false", "Open ports with SO_REUSEPORT."),
        same("socket-reuse-address", Bool, "false", "Open ports with SO_REUSEADDR, as they are anyway."),
        same("enable-grpc-gateway", Bool, "true", "Serve JSON over HTTP under /v3."),
        idle("raft-read-timeout", Duration, "5s", PEERS),
        idle("raft-write-timeout", Duration, "5s", PEERS),
        idle("feature-gates", FeatureGates, "", "names and values are checked; nothing here hangs on one of etcd's gates"),
    ]),
    ("Clustering", &[
        same("initial-advertise-peer-urls", Urls, "http://localhost:2380", "Peer URL of this member, for the others and in the member list."),
        same("initial-cluster", Text, "", "All founding members, as name=URL,…; two to five of them form a cluster."),
        same("initial-cluster-state", Choice(&["new", "existing"]), "new", "`existing` joins a cluster to which this member was added."),
        same("initial-cluster-token", Text, "etcd-cluster", "Secret that the members of a cluster share, and that keeps others out."),
        other("advertise-client-urls", Urls, "", "the member list names them; without it the listen URLs, but called as etcd it is required with --listen-client-urls"),
        refused("discovery-token", Text, BOOTSTRAP),
        refused("discovery-endpoints", Texts(true), BOOTSTRAP),
        idle("discovery-dial-timeout", Duration, "2s", DISCOVERY),
        idle("discovery-request-timeout", Duration, "5s", DISCOVERY),
        idle("discovery-keepalive-time", Duration, "2s", DISCOVERY),
        idle("discovery-keepalive-timeout", Duration, "6s", DISCOVERY),
        idle("discovery-insecure-transport", Bool, "true", DISCOVERY),
        idle("discovery-insecure-skip-tls-verify", Bool, "false", DISCOVERY),
        idle("discovery-cert", Text, "", DISCOVERY),
        idle("discovery-key", Text, "", DISCOVERY),
        idle("discovery-cacert", Text, "", DISCOVERY),
        idle("discovery-user", Text, "", DISCOVERY),
        idle("discovery-password", Text, "", DISCOVERY),
        idle("discovery-fallback", Choice(&["exit", "proxy"]), "exit", "as in etcd it can only be exit"),
        same("discovery-srv", Text, "", "Domain whose SRV records name the founding members."),
        same("discovery-srv-name", Text, "", "Ending of the service names in those records: _etcd-server-NAME."),
        same("strict-reconfig-check", Bool, "true", "Refuse changes of the members that could cost the majority."),
        idle("pre-vote", Bool, "true", RAFT),
        same("auto-compaction-retention", Text, "0", "How much history to keep without being asked to compact: hours or a duration, or a number of revisions; 0 for all."),
        same("auto-compaction-mode", Text, "periodic", "What --auto-compaction-retention counts: periodic or revision."),
        idle("v2-deprecation", Choices(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "", GONE),
    ]),
    ("Security", &[
        same("cert-file", Text, "", "TLS certificate of the client ports (PEM)."),
        same("key-file", Text, "", "Key of --cert-file (PEM)."),
        same("client-cert-auth", Bool, "false", "Clients need a certificate, whose common name is their user; without --trusted-ca-file from one of the system's authorities."),
        idle("client-cert-file", Text, "", "jetway is no client of its own port"),
        idle("client-key-file", Text, "", "jetway is no client of its own port"),
        same("client-crl-file", Text, "", "Revoked client certificates."),
        same("client-cert-allowed-hostname", Texts(true), "", "Host names of which client certificates must have one."),
        same("trusted-ca-file", Text, "", "Authorities of client certificates (PEM); clients then need one."),
        same("auto-tls", Bool, "false", "Serve TLS with a certificate that is made at the start."),
        same("peer-cert-file", Text, "", "TLS certificate of the peer port and of connections to other members (PEM)."),
        same("peer-key-file", Text, "", "Key of --peer-cert-file (PEM)."),
        idle("peer-client-cert-auth", Bool, "false", "members that use TLS always check each other's certificates"),
        other("peer-client-cert-file", Text, "", "a member shows one certificate in both directions: another one than --peer-cert-file is refused"),
        idle("peer-client-key-file", Text, "", "a member shows one certificate in both directions"),
        same("peer-trusted-ca-file", Text, "", "Authorities of the members' certificates (PEM); the system's if not given."),
        other("peer-cert-allowed-cn", Texts(true), "", "refused in a cluster: nats-server cannot enforce it"),
        other("peer-cert-allowed-hostname", Texts(true), "", "refused in a cluster: nats-server cannot enforce it"),
        same("peer-auto-tls", Bool, "false", "Use TLS between members with certificates that are made at the start; their authority follows from --initial-cluster-token."),
        same("self-signed-cert-validity", Uint, "1", "How long a certificate of --auto-tls is valid, in years."),
        other("peer-crl-file", Text, "", "refused in a cluster: nats-server cannot enforce it"),
        same("cipher-suites", Texts(true), "", "Cipher suites of TLS 1.2, by Go's names."),
        same("cors", Origins, "*", "Origins that browsers may call from."),
        same("host-whitelist", Texts(false), "*", "Host headers that HTTP requests may have where there is no TLS."),
        same("tls-min-version", Text, "TLS1.2", "Oldest version of TLS taken: TLS1.2 or TLS1.3."),
        same("tls-max-version", Text, "", "Newest version of TLS taken."),
        idle("peer-skip-client-san-verification", Bool, "false", "members check the chain of a client certificate and not its names"),
    ]),
    ("Auth", &[
        same("auth-token", Text, "simple", "Kind of tokens and its options: simple, or jwt,pub-key=…,priv-key=…,sign-method=…,ttl=…."),
        same("bcrypt-cost", Uint, "10", "Cost of a password's hash, 4 to 31."),
        same("auth-token-ttl", Uint, "300", "How long a simple token lives without use, in seconds."),
    ]),
    ("Profiling and monitoring", &[
        other("enable-pprof", Bool, "false", "/debug/pprof is answered, with a sentence: there is no Go runtime to profile"),
        same("metrics", Text, "basic", "basic or extensive, which adds histograms of the gRPC calls."),
        same("listen-metrics-urls", Urls, "", "URLs that serve /metrics, /health, /livez and /readyz only."),
    ]),
    ("Logging", &[
        same("logger", Text, "zap", "The form that etcd's logs have is called zap; there is no other."),
        same("log-outputs", Texts(true), "default", "stderr, stdout, systemd/journal or paths of files; default is stderr."),
        same("log-level", Text, "info", "debug, info, warn, error, panic or fatal; or filters in the form of the tracing crate, with a =."),
        same("log-format", Text, "json", "json or console.").as_jetway("console"),
        same("enable-log-rotation", Bool, "false", "Start a new log file when the one of --log-outputs is full."),
        other("log-rotation-config-json", Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, "maxsize, maxage and maxbackups as in etcd; old files are named in UTC and not compressed"),
        same("warning-unary-request-duration", Duration, "300ms", "Unary calls that take longer are reported in the log."),
    ]),
    ("Distributed tracing", &[
        idle("enable-distributed-tracing", Bool, "false", TRACING),
        idle("distributed-tracing-address", Text, "localhost:4317", TRACING),
        idle("distributed-tracing-service-name", Text, "etcd", TRACING),
        idle("distributed-tracing-instance-id", Text, "", TRACING),
        idle("distributed-tracing-sampling-rate", Int, "0", TRACING),
    ]),
    ("Features", &[
        idle("corrupt-check-time", Duration, "0s", CHECKS),
        idle("compact-hash-check-time", Duration, "1m", CHECKS),
        idle("compaction-batch-limit", Int, "0", COMPACTION),
        idle("compaction-sleep-interval", Duration, "0s", COMPACTION),
        same("watch-progress-notify-interval", Duration, "10m", "Interval of progress notifications on an idle watch that asked for them.").as_jetway("5s"),
        idle("warning-apply-duration", Duration, "100ms", "nothing is applied on its own: see --warning-unary-request-duration"),
        idle("bootstrap-defrag-threshold-megabytes", Uint, "0", BACKEND),
        same("max-learners", Int, "1", "Most learners of a cluster."),
        idle("downgrade-check-time", Duration, "5s", "there is no cluster version to lower"),
        idle("snapshot-catchup-entries", Uint, "5000", FILES),
    ]),
    ("Unsafe", &[
        idle("force-new-cluster", Bool, "false", "an instance with an embedded server is its only member already, and keeps its data"),
        idle("unsafe-no-fsync", Bool, "false", "writes stay durable; see --sync"),
    ]),
    ("Start", &[
        same(CONFIG_FILE, Text, "", "A YAML file with etcd's keys; other flags of etcd and ETCD_ variables are ignored then."),
        same("version", Bool, "false", "Print the version and exit."),
    ]),
    ("jetway", &[
        own("endpoint", Text, "", "URL of an existing NATS, as kine takes it: nats://[user:password@|token@]host[:port][,host…][?parameters]; also tls:// and jetstream://. Parameters: bucket, replicas (1 to 5), slowMethod, contextFile, credsFile, noEmbed; mirror or standby with the JetStream domain of another region; without a host also dataDir and serverConfig. Without a host, or without the flag, jetway runs its own nats-server."),
        own("bucket", Text, "jetway", "Bucket that holds the data; a bucket= in --endpoint wins."),
        own("nats-context", Text, "", "Context of the nats command line, by name or file: servers, credentials, TLS, domain and prefixes. Other flags win over it."),
        own("nats-creds", Text, "", "Credentials file (.creds) for NATS; read again at each connection."),
        own("nats-nkey", Text, "", "File with the seed of an nkey for NATS; read again at each connection."),
        own("nats-token", Text, "", "Token for NATS."),
        own("nats-ca-file", Text, "", "Authorities to trust on the connection to NATS (PEM), beside the system's."),
        own("nats-cert-file", Text, "", "Client certificate for NATS (PEM)."),
        own("nats-key-file", Text, "", "Key of --nats-cert-file (PEM)."),
        own("nats-tls-first", Bool, "false", "Begin TLS to NATS before the server has introduced itself, as with handshake_first."),
        own("nats-js-domain", Text, "", "JetStream domain that holds the bucket; with the embedded nats-server its own domain."),
        own("nats-js-api-prefix", Text, "", "Beginning of the subjects of JetStream's API, where an account imports it; $JS.API if not given."),
        own("nats-inbox-prefix", Text, "", "Beginning of the subjects for answers of NATS; _INBOX if not given."),
        own("nats-server", Text, "", "The nats-server to run, at least 2.14.4. If not given: the one that JETWAY_NATS_SERVER names, the one that jetway carries (see --version), one beside jetway, one in PATH."),
        own("nats-config", Text, "", "nats-server configuration to merge into that of the embedded server."),
        own("sync", Choice(&["group", "always", "lazy"]), "group", "When the embedded server's writes are on disk: group (before they are answered, many with one sync), always (before they are answered, each with a sync of its own) or lazy (within two minutes; a power failure can take back answered writes)."),
        own("linearizable-reads", Choice(&["quorum", "leader"]), "quorum", "How reads are made linearizable where others write to the bucket too: quorum, or leader (cheaper with several replicas, stale for about a second around a partition)."),
        own("snapshot-schedule", Text, "", "When to save a snapshot: an interval such as 1h, or cron's five fields in UTC such as \"0 3 * * *\"; empty for never. The instance that writes saves it, checks it, and then gives it its name."),
        own("snapshot-dir", Text, "", "Directory of the snapshots of --snapshot-schedule, made if it does not exist; or s3://BUCKET/PREFIX, with region, endpoint and credentials from AWS' variables such as AWS_ENDPOINT_URL."),
        own("snapshot-retention", Uint, "5", "Snapshots of --snapshot-schedule to keep; older ones of the same bucket are removed."),
        own("accept-data-loss", Bool, "false", "Serve what is left of data that was lost or damaged. Reported in the log and the metric jetway_lost_messages."),
    ]),
];

/// Flags that etcd once had and still ignores.
#[rustfmt::skip]
pub(super) const IGNORED: &[Flag] = &[
    idle("cluster-active-size", Anything, "", GONE),
    idle("cluster-remove-delay", Anything, "", GONE),
    idle("cluster-sync-interval", Anything, "", GONE),
    idle("config", Anything, "", GONE),
    idle("force", Anything, "", GONE),
    idle("max-result-buffer", Anything, "", GONE),
    idle("max-retry-attempts", Anything, "", GONE),
    idle("peer-heartbeat-interval", Anything, "", GONE),
    idle("peer-election-timeout", Anything, "", GONE),
    idle("retry-interval", Anything, "", GONE),
    idle("snapshot", Anything, "", GONE),
    idle("v", Anything, "", GONE),
    idle("vv", Anything, "", GONE),
    idle("test.coverprofile", Anything, "", GONE),
    idle("test.outputdir", Anything, "", GONE),
];

/// All flags, the ignored ones included.
pub(super) fn all() -> impl Iterator<Item = &'static Flag> {
    SECTIONS.iter().flat_map(|(_, flags)| flags.iter()).chain(IGNORED)
}

/// The flag of a name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

impl Flag {
    const fn as_jetway(self, default: &'static str) -> Flag {
        Flag { own_default: Some(default), ..self }
    }

    /// The default of a program by this name.
    pub(super) fn default_of(&self, program: Program) -> &'static str {
        match (program, self.own_default) {
            (Program::Etcd, _) | (_, None) => self.default,
            (Program::Jetway | Program::Kine, Some(default)) => default,
        }
    }

    /// Whether it may stand without a value.
    pub(super) fn stands_alone(&self) -> bool {
        matches!(self.kind, Bool | Anything)
    }

    /// Its environment variable.
    pub(super) fn variable(&self) -> String {
        let prefix = if self.effect == Effect::Own { "JETWAY" } else { "ETCD" };
        format!("{prefix}_{}", self.name.to_uppercase().replace('-', "_"))
    }
}
