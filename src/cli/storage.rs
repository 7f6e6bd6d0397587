//! The NATS that holds the data.

use super::endpoint::{self, BucketNameError, EndpointError};
use super::flag_values::FlagValues;
use super::peers::Cluster;
use crate::log::{Auth, Endpoint};
use crate::nats_server::SyncMode;
use std::path::PathBuf;
use thiserror::Error;

/// nats-server accepts messages of at most 64 MiB, headers included.
const MAX_EMBEDDED_REQUEST_BYTES: u64 = 63 << 20;
/// Flags that only an existing NATS needs.
const EXTERNAL_ONLY: [&str; 5] =
    ["nats-creds", "nats-token", "nats-ca-file", "nats-cert-file", "nats-key-file"];

/// Flags of NATS that make no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum StorageFlagsError {
    #[error("--bucket {name}: {reason}")]
    Bucket { name: String, reason: BucketNameError },
    #[error("--{0}: is for a NATS that is there already: give --endpoint too")]
    NoEndpoint(&'static str),
    #[error(
        "--max-request-bytes {0}: is more than nats-server takes; give at most {MAX_EMBEDDED_REQUEST_BYTES}"
    )]
    RequestBytes(u64),
    #[error("--endpoint: {0}")]
    Endpoint(EndpointError),
    #[error("--nats-creds: and --nats-token exclude each other; give one of them")]
    TwoLogins,
    #[error("--nats-cert-file: needs its key: give --nats-key-file too")]
    NoKey,
    #[error("--nats-key-file: needs its certificate: give --nats-cert-file too")]
    NoCertificate,
}

/// The NATS that holds the data.
#[derive(Clone, Debug)]
pub enum Storage {
    /// The embedded nats-server.
    Embedded {
        /// Its directory.
        data_dir: PathBuf,
        /// Its executable.
        binary: Option<PathBuf>,
        /// A configuration file to merge into its own.
        config: Option<PathBuf>,
        /// Its durability.
        sync: SyncMode,
        /// Name of the bucket.
        bucket: String,
        /// The cluster that it is a member of.
        cluster: Option<Box<Cluster>>,
    },
    /// An existing NATS.
    External(Endpoint),
}

/// The directory of the embedded server, which is named after the member by default.
pub(super) fn data_dir(flags: &FlagValues, name: &str) -> PathBuf {
    flags.path("data-dir").unwrap_or_else(|| flags.default_of("data-dir").replace("<name>", name).into())
}

pub(super) fn settings(flags: &FlagValues, data_dir: PathBuf) -> Result<Storage, StorageFlagsError> {
    let bucket = flags.text_or_default("bucket").to_owned();
    if let Err(reason) = endpoint::check_bucket(&bucket) {
        return Err(StorageFlagsError::Bucket { name: bucket, reason });
    }
    match flags.non_empty("endpoint") {
        Some(endpoint) => external(flags, endpoint, bucket).map(Storage::External),
        None => embedded(flags, data_dir, bucket),
    }
}

fn embedded(flags: &FlagValues, data_dir: PathBuf, bucket: String) -> Result<Storage, StorageFlagsError> {
    if let Some(flag) = EXTERNAL_ONLY.into_iter().find(|flag| flags.non_empty(flag).is_some()) {
        return Err(StorageFlagsError::NoEndpoint(flag));
    }
    let largest = flags.unsigned("max-request-bytes");
    if largest > MAX_EMBEDDED_REQUEST_BYTES {
        return Err(StorageFlagsError::RequestBytes(largest));
    }
    Ok(Storage::Embedded {
        data_dir,
        binary: flags.path("nats-server"),
        config: flags.path("nats-config"),
        sync: match flags.text_or_default("sync") {
            "always" => SyncMode::Always,
            "lazy" => SyncMode::Lazy,
            _ => SyncMode::Group,
        },
        bucket,
        cluster: None,
    })
}

fn external(flags: &FlagValues, endpoint: &str, bucket: String) -> Result<Endpoint, StorageFlagsError> {
    let parsed = endpoint::parse(endpoint).map_err(StorageFlagsError::Endpoint)?;
    let auth = match (flags.path("nats-creds"), flags.non_empty("nats-token")) {
        (Some(_), Some(_)) => return Err(StorageFlagsError::TwoLogins),
        (Some(file), None) => Auth::CredentialsFile(file),
        (None, Some(token)) => Auth::Token(token.to_owned()),
        (None, None) => parsed.auth,
    };
    let client_cert = match (flags.path("nats-cert-file"), flags.path("nats-key-file")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return Err(StorageFlagsError::NoKey),
        (None, Some(_)) => return Err(StorageFlagsError::NoCertificate),
    };
    Ok(Endpoint {
        servers: parsed.servers,
        auth,
        bucket: parsed.bucket.unwrap_or(bucket),
        replicas: parsed.replicas,
        own_cluster: None,
        ca_file: flags.path("nats-ca-file"),
        client_cert,
    })
}
