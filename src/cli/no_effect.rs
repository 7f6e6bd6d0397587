//! Flags that have no effect on jetway.
//!
//! They are checked all the same: jetway refuses a command line that etcd refuses.

use super::flag_values::FlagValues;
use super::listen::{self, ListenError};
use super::storage::Storage;
use super::urls::EmptyHost;
use super::values;
use thiserror::Error;

/// The longest election timeout that etcd accepts.
const MAX_ELECTION_MS: u64 = 50_000;
/// Flags of a member that others join, or that joins them.
const CLUSTER_ONLY: [&str; 11] = [
    "initial-cluster",
    "initial-cluster-token",
    "listen-peer-urls",
    "peer-cert-file",
    "peer-key-file",
    "peer-client-cert-file",
    "peer-trusted-ca-file",
    "peer-auto-tls",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
    "peer-crl-file",
];
/// Flags that only an embedded server uses.
const EMBEDDED_ONLY: [&str; 7] = [
    "data-dir",
    "nats-server",
    "nats-config",
    "sync",
    "initial-cluster-state",
    "discovery-srv",
    "discovery-srv-name",
];

/// A value that etcd refuses. The texts are etcd's.
#[derive(Debug, Error)]
pub(super) enum NoEffectError {
    #[error(transparent)]
    ListenPeer(#[from] ListenError),
    #[error("--initial-advertise-peer-urls {urls:?} must be \"host:port\" ({reason})")]
    AdvertisePeer { urls: String, reason: EmptyHost },
    #[error("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"")]
    Proxy,
    #[error("--heartbeat-interval must be >0 (set to 0ms)")]
    NoHeartbeat,
    #[error("--election-timeout must be >0 (set to 0ms)")]
    NoElection,
    #[error(
        "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
    )]
    ShortElection { election: u64, heartbeat: u64 },
    #[error("--election-timeout[{0}ms] is too long, and should be set less than {MAX_ELECTION_MS}ms")]
    LongElection(u64),
    #[error("--compact-hash-check-time must be >0 (set to 0s)")]
    NoHashCheck,
    #[error("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")]
    LeaseCheckpoint,
    #[error(
        "distributed tracing configurition is not valid: --distributed-tracing-sampling-rate {0} is not between \
         0 and 1000000"
    )]
    SamplingRate(i64),
}

/// Checks the values as etcd does.
pub(super) fn check(flags: &FlagValues) -> Result<(), NoEffectError> {
    listen::listen_urls("--listen-peer-urls", &flags.urls("listen-peer-urls"))?;
    for url in flags.urls("initial-advertise-peer-urls") {
        if let Err(reason) = url.check_advertised() {
            let urls = flags.text_or_default("initial-advertise-peer-urls").to_owned();
            return Err(NoEffectError::AdvertisePeer { urls, reason });
        }
    }
    if flags.text("discovery-fallback") == Some("proxy") {
        return Err(NoEffectError::Proxy);
    }
    check_election(flags)?;
    if flags.duration("compact-hash-check-time").is_zero() {
        return Err(NoEffectError::NoHashCheck);
    }
    let gates = values::feature_gates(flags.text_or_default("feature-gates")).expect("checked gates");
    let is_on = |gate: &str| {
        let of = |name: &str| gates.iter().rev().find(|(gate, _)| *gate == name).map(|(_, on)| *on);
        of(gate).or(of("AllAlpha")).unwrap_or(false)
    };
    if is_on("LeaseCheckpointPersist") && !is_on("LeaseCheckpoint") {
        return Err(NoEffectError::LeaseCheckpoint);
    }
    let rate = flags.integer("distributed-tracing-sampling-rate");
    if flags.is_true("enable-distributed-tracing") && !(0..=1_000_000).contains(&rate) {
        return Err(NoEffectError::SamplingRate(rate));
    }
    Ok(())
}

/// These have no effect with one instance alone.
fn check_election(flags: &FlagValues) -> Result<(), NoEffectError> {
    let (heartbeat, election) = (flags.unsigned("heartbeat-interval"), flags.unsigned("election-timeout"));
    if heartbeat == 0 {
        return Err(NoEffectError::NoHeartbeat);
    }
    if election == 0 {
        return Err(NoEffectError::NoElection);
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(NoEffectError::ShortElection { election, heartbeat });
    }
    if election > MAX_ELECTION_MS {
        return Err(NoEffectError::LongElection(election));
    }
    Ok(())
}

/// The flags that have a value and no effect with this storage.
pub(super) fn names(flags: &FlagValues, storage: &Storage) -> Vec<&'static str> {
    let is_external = matches!(storage, Storage::External(_));
    let embedded = EMBEDDED_ONLY.into_iter().filter(|flag| is_external && flags.is_set(flag));
    let cluster = CLUSTER_ONLY.into_iter().filter(|flag| is_external && flags.is_set(flag));
    // Each message of a cluster is synced.
    let sync = (matches!(storage, Storage::Embedded { cluster: Some(_), .. }) && flags.is_set("sync"))
        .then_some("sync");
    flags.without_effect().map(|flag| flag.name).chain(embedded).chain(cluster).chain(sync).collect()
}
