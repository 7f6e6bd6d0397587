//! The NATS that holds the data.

use super::endpoint::{self, BucketNameError, EndpointError, ParsedEndpoint};
use super::flag_values::FlagValues;
use super::nats_context::{self, ContextError, Folders};
use super::peers::{self, Cluster, PeerFlagsError};
use crate::log::{Auth, Endpoint, Rights};
use crate::nats_server::{self, SyncMode};
use std::path::PathBuf;
use thiserror::Error;

/// nats-server accepts messages of at most 64 MiB, headers included.
const MAX_EMBEDDED_REQUEST_BYTES: u64 = 63 << 20;
/// Flags that only an existing NATS needs.
const EXTERNAL_ONLY: [&str; 9] = [
    "nats-creds",
    "nats-nkey",
    "nats-token",
    "nats-ca-file",
    "nats-cert-file",
    "nats-key-file",
    "nats-tls-first",
    "nats-js-api-prefix",
    "nats-inbox-prefix",
];

/// Flags of NATS that make no sense.
#[derive(Debug, Error)]
pub(super) enum StorageFlagsError {
    #[error("--bucket {name}: {reason}")]
    Bucket { name: String, reason: BucketNameError },
    #[error("--{0}: is for a NATS that is there already: give --endpoint or --nats-context too")]
    NoEndpoint(&'static str),
    #[error(
        "--max-request-bytes {0}: is more than nats-server takes; give at most {MAX_EMBEDDED_REQUEST_BYTES}"
    )]
    RequestBytes(u64),
    #[error("--endpoint: {0}")]
    Endpoint(EndpointError),
    #[error("--nats-context: {0}")]
    Context(#[from] ContextError),
    #[error("--nats-context {0}: names the servers, as --endpoint does; leave the host of one of them away")]
    ContextAndHost(String),
    #[error("{0} and {1} exclude each other; give one of them")]
    Both(&'static str, &'static str),
    #[error("--nats-cert-file: needs its key: give --nats-key-file too")]
    NoKey,
    #[error("--nats-key-file: needs its certificate: give --nats-cert-file too")]
    NoCertificate,
    #[error("--nats-js-domain {0}: is no name of a domain; expected letters, digits, - and _")]
    Domain(String),
    #[error(
        "--{flag} {value}: is no beginning of subjects; expected names with dots between them, such as {example}"
    )]
    Subject { flag: &'static str, value: String, example: &'static str },
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
        /// Whether that file is `serverConfig` of kine's endpoint.
        config_is_of_kine: bool,
        /// Its JetStream domain.
        domain: Option<String>,
        /// Its durability.
        sync: SyncMode,
        /// Name of the bucket.
        bucket: String,
        /// The cluster that it is a member of.
        cluster: Option<Box<Cluster>>,
        /// The settings with which it becomes one of several members, and why it cannot.
        as_member: Box<Result<Cluster, PeerFlagsError>>,
    },
    /// An existing NATS.
    External(Box<Endpoint>),
}

/// The value of `--endpoint`, if there is one.
pub(super) fn endpoint(flags: &FlagValues) -> Result<Option<ParsedEndpoint>, StorageFlagsError> {
    let parsed = flags.non_empty("endpoint").map(endpoint::parse).transpose();
    parsed.map_err(StorageFlagsError::Endpoint)
}

/// The directory of the embedded server, which is named after the member by default.
pub(super) fn data_dir(
    flags: &FlagValues,
    name: &str,
    endpoint: Option<&ParsedEndpoint>,
) -> Result<PathBuf, StorageFlagsError> {
    let of_endpoint = endpoint.and_then(|endpoint| endpoint.data_dir.clone());
    let of_flag = flags.path("data-dir");
    let given = either(("--data-dir", of_flag), ("--endpoint …?dataDir=", of_endpoint))?;
    // The store of the server that kine would start is in a place that outlives it, such as a volume.
    let of_file = || nats_server::store_of_kine(endpoint?.server_config.as_deref()?);
    Ok(given.or_else(of_file).unwrap_or_else(|| flags.default_of("data-dir").replace("<name>", name).into()))
}

pub(super) fn settings(
    flags: &FlagValues,
    endpoint: Option<ParsedEndpoint>,
    name: &str,
    data_dir: PathBuf,
) -> Result<Storage, StorageFlagsError> {
    let bucket = bucket(flags)?;
    let parsed =
        endpoint.unwrap_or_else(|| ParsedEndpoint { is_embedded: true, ..ParsedEndpoint::default() });
    if parsed.is_embedded && flags.non_empty("nats-context").is_none() {
        embedded(flags, parsed, name, data_dir, bucket)
    } else {
        existing(flags, parsed, bucket).map(|endpoint| Storage::External(Box::new(endpoint)))
    }
}

/// The rights that the command line makes necessary. Without an existing NATS they are those for its bucket.
pub(super) fn rights(flags: &FlagValues) -> Result<Rights, StorageFlagsError> {
    Ok(Rights::of(&existing_endpoint(flags)?))
}

/// The existing NATS that the command line names, the default one if it names none.
pub(super) fn existing_endpoint(flags: &FlagValues) -> Result<Endpoint, StorageFlagsError> {
    let parsed = endpoint(flags)?.unwrap_or_default();
    existing(flags, parsed, bucket(flags)?)
}

fn bucket(flags: &FlagValues) -> Result<String, StorageFlagsError> {
    let bucket = flags.text_or_default("bucket").to_owned();
    match endpoint::check_bucket(&bucket) {
        Ok(()) => Ok(bucket),
        Err(reason) => Err(StorageFlagsError::Bucket { name: bucket, reason }),
    }
}

/// The one of two settings that is there.
fn either<T>(
    (one, first): (&'static str, Option<T>),
    (other, second): (&'static str, Option<T>),
) -> Result<Option<T>, StorageFlagsError> {
    if first.is_some() && second.is_some() {
        return Err(StorageFlagsError::Both(one, other));
    }
    Ok(first.or(second))
}

fn embedded(
    flags: &FlagValues,
    parsed: ParsedEndpoint,
    name: &str,
    data_dir: PathBuf,
    bucket: String,
) -> Result<Storage, StorageFlagsError> {
    if let Some(flag) = EXTERNAL_ONLY.into_iter().find(|flag| flags.non_empty(flag).is_some()) {
        return Err(StorageFlagsError::NoEndpoint(flag));
    }
    let largest = flags.unsigned("max-request-bytes");
    if largest > MAX_EMBEDDED_REQUEST_BYTES {
        return Err(StorageFlagsError::RequestBytes(largest));
    }
    let of_endpoint = ("--endpoint …?serverConfig=", parsed.server_config.clone());
    Ok(Storage::Embedded {
        as_member: Box::new(peers::as_member(flags, name, &data_dir)),
        data_dir,
        binary: flags.path("nats-server"),
        config_is_of_kine: parsed.server_config.is_some(),
        config: either(("--nats-config", flags.path("nats-config")), of_endpoint)?,
        domain: domain(flags)?,
        sync: match flags.text_or_default("sync") {
            "always" => SyncMode::Always,
            "lazy" => SyncMode::Lazy,
            _ => SyncMode::Group,
        },
        bucket: parsed.bucket.unwrap_or(bucket),
        cluster: None,
    })
}

fn existing(
    flags: &FlagValues,
    parsed: ParsedEndpoint,
    bucket: String,
) -> Result<Endpoint, StorageFlagsError> {
    let of_endpoint = parsed.context_file.map(|file| file.display().to_string());
    let of_flag = flags.non_empty("nats-context").map(str::to_owned);
    let context = either(("--nats-context", of_flag), ("--endpoint …?contextFile=", of_endpoint))?;
    let base = match context {
        Some(context) if !parsed.servers.is_empty() => {
            return Err(StorageFlagsError::ContextAndHost(context));
        }
        Some(context) => nats_context::read(&context, &Folders::of_user())?,
        None if parsed.servers.is_empty() => {
            Endpoint { servers: vec![endpoint::DEFAULT_SERVER.to_owned()], ..Endpoint::default() }
        }
        None => Endpoint { servers: parsed.servers, auth: parsed.auth, ..Endpoint::default() },
    };
    let client_cert = match (flags.path("nats-cert-file"), flags.path("nats-key-file")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => base.client_cert,
        (Some(_), None) => return Err(StorageFlagsError::NoKey),
        (None, Some(_)) => return Err(StorageFlagsError::NoCertificate),
    };
    let of_domain = domain(flags)?.map(|domain| Endpoint::domain_prefix(&domain));
    let of_prefix = subject(flags, "nats-js-api-prefix", "$JS.hub.API")?;
    let api_prefix = either(("--nats-js-domain", of_domain), ("--nats-js-api-prefix", of_prefix))?;
    Ok(Endpoint {
        servers: base.servers,
        auth: login(flags, parsed.creds_file)?.unwrap_or(base.auth),
        bucket: parsed.bucket.unwrap_or(bucket),
        replicas: parsed.replicas,
        mirror: parsed.mirror,
        standby: parsed.standby,
        ca_file: flags.path("nats-ca-file").or(base.ca_file),
        client_cert,
        tls_first: base.tls_first || flags.is_true("nats-tls-first"),
        api_prefix: api_prefix.or(base.api_prefix),
        inbox_prefix: subject(flags, "nats-inbox-prefix", "_INBOX.jetway")?.or(base.inbox_prefix),
        ..Endpoint::default()
    })
}

/// The credentials that flags give, or the endpoint beside its user part.
fn login(flags: &FlagValues, creds_file: Option<PathBuf>) -> Result<Option<Auth>, StorageFlagsError> {
    let given = [
        ("--nats-creds", flags.path("nats-creds").map(Auth::CredentialsFile)),
        ("--endpoint …?credsFile=", creds_file.map(Auth::CredentialsFile)),
        ("--nats-nkey", flags.path("nats-nkey").map(Auth::NkeyFile)),
        ("--nats-token", flags.non_empty("nats-token").map(|token| Auth::Token(token.to_owned()))),
    ];
    let mut given = given.into_iter().filter_map(|(name, auth)| Some((name, auth?)));
    let first = given.next();
    match (first, given.next()) {
        (Some((one, _)), Some((other, _))) => Err(StorageFlagsError::Both(one, other)),
        (first, _) => Ok(first.map(|(_, auth)| auth)),
    }
}

fn domain(flags: &FlagValues) -> Result<Option<String>, StorageFlagsError> {
    let Some(domain) = flags.non_empty("nats-js-domain") else { return Ok(None) };
    // The same characters as in the name of a bucket are safe in a subject.
    match endpoint::check_bucket(domain) {
        Ok(()) => Ok(Some(domain.to_owned())),
        Err(_) => Err(StorageFlagsError::Domain(domain.to_owned())),
    }
}

/// The beginning of subjects, without a dot at the end.
fn subject(
    flags: &FlagValues,
    flag: &'static str,
    example: &'static str,
) -> Result<Option<String>, StorageFlagsError> {
    let Some(value) = flags.non_empty(flag) else { return Ok(None) };
    match endpoint::check_subject(value) {
        Some(subject) => Ok(Some(subject.to_owned())),
        None => Err(StorageFlagsError::Subject { flag, value: value.to_owned(), example }),
    }
}
