//! `--endpoint`: a NATS URL in kine's form.
//!
//! Every parameter of kine's has kine's meaning, or a notice says why it has none here. A unit test compares
//! the readings of both for the same endpoints.

mod parameters;

use super::notice::Notice;
use crate::log::Auth;
use parameters::{PARAMETERS, Parameters};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use url::Url;

/// The server of an endpoint without a host, as in NATS' clients.
pub(super) const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";
const DEFAULT_PORT: u16 = 4222;

/// An endpoint that jetway cannot use. The URL may hold a password, so the text has only the wrong part of
/// it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum EndpointError {
    #[error("it has no scheme; expected nats://host:port")]
    NoScheme,
    #[error(
        "scheme {0} is not served: the log needs a plain connection; give the server's nats:// or tls:// URL"
    )]
    WebSocket(String),
    #[error("scheme {0} is unknown; expected nats, jetstream or tls")]
    Scheme(String),
    #[error("{host}: {reason}; expected host:port")]
    Host { host: String, reason: url::ParseError },
    #[error("{0:?} names no host; expected host:port")]
    NoHost(String),
    #[error("{host} has the path {path}, which means nothing to NATS; leave it away")]
    Path { host: String, path: String },
    #[error("two servers have different credentials; give one user part, which counts for all servers")]
    SeveralLogins,
    #[error("two servers have parameters; put all of them behind one server")]
    SeveralQueries,
    #[error("bucket={name}: {reason}")]
    Bucket { name: String, reason: BucketNameError },
    #[error("replicas={0}: expected 1 to 5")]
    Replicas(String),
    #[error(
        "replicas={0}: the embedded nats-server is a single server, which keeps one replica; name the servers of a NATS \
         cluster, or leave replicas away"
    )]
    EmbeddedReplicas(usize),
    #[error("revHistory={0}: expected 2 to 64")]
    History(String),
    #[error("slowMethod={0}: expected a duration with its unit, such as 500ms")]
    SlowMethod(String),
    #[error(
        "contextFile={0}: the context names the servers; leave the host of the endpoint away, or the context"
    )]
    ContextAndHost(String),
    #[error(
        "{name}={value}: is for an embedded nats-server, and a host names an existing one; leave the host away, or add \
         noEmbed to use the existing one"
    )]
    EmbeddedAndHost { name: &'static str, value: String },
    #[error(
        "{name}={value}: expected a JetStream domain, or the beginning of its API with a dot, such as JS.east.API"
    )]
    Region { name: &'static str, value: String },
    #[error(
        "mirror= and standby= exclude each other: a mirror that was promoted must not wait for the region that is lost; give \
         standby= to the primary alone"
    )]
    MirrorAndStandby,
    #[error("{0}= needs an existing NATS, which connects the two regions; name its host")]
    EmbeddedMirror(&'static str),
    #[error("parameter {0} is unknown; there are {known}", known = PARAMETERS.join(", "))]
    Parameter(String),
}

/// JetStream does not accept a name for a bucket.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a bucket name has letters, digits, - and _ only")]
pub(super) struct BucketNameError;

/// The parts of an endpoint; `None` for a part that it does not have.
#[derive(Debug, Default)]
pub(super) struct ParsedEndpoint {
    /// Whether it asks for the embedded server.
    pub(super) is_embedded: bool,
    /// Existing servers; none where the endpoint names none.
    pub(super) servers: Vec<String>,
    pub(super) auth: Auth,
    pub(super) bucket: Option<String>,
    pub(super) replicas: Option<usize>,
    /// The API of the primary that this bucket is a mirror of.
    pub(super) mirror: Option<String>,
    /// The API of a mirror of this bucket.
    pub(super) standby: Option<String>,
    pub(super) slow_method: Option<Duration>,
    pub(super) context_file: Option<PathBuf>,
    pub(super) creds_file: Option<PathBuf>,
    pub(super) server_config: Option<PathBuf>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) notices: Vec<Notice>,
}

/// Reads an endpoint. As in kine, commas separate servers, which share one user part and the parameters.
pub(super) fn parse(endpoint: &str) -> Result<ParsedEndpoint, EndpointError> {
    let (legacy, endpoint) = match endpoint.strip_prefix("jetstream://") {
        // kine takes only a whole URL behind it.
        Some(rest) if rest.contains("://") => (true, rest.to_owned()),
        Some(rest) => (true, format!("nats://{rest}")),
        None => (false, endpoint.to_owned()),
    };
    let mut parsed = ParsedEndpoint::default();
    let (mut scheme, mut query) = (None, None);
    for (at, part) in endpoint.split(',').enumerate() {
        let (head, parameters) = part.split_once('?').unwrap_or((part, ""));
        if !parameters.is_empty() && query.replace(parameters.to_owned()).is_some() {
            return Err(EndpointError::SeveralQueries);
        }
        let (of_part, authority) = match head.split_once("://") {
            Some((name, authority)) => (checked_scheme(name)?, authority),
            None => (scheme.ok_or(EndpointError::NoScheme)?, head),
        };
        scheme = scheme.or(Some(of_part));
        if at == 0 && authority.trim_end_matches('/').is_empty() && !endpoint.contains(',') {
            break;
        }
        let (server, auth) = server(of_part, authority)?;
        if auth != Auth::Anonymous {
            if parsed.auth != Auth::Anonymous && parsed.auth != auth {
                return Err(EndpointError::SeveralLogins);
            }
            parsed.auth = auth;
        }
        parsed.servers.push(server);
    }
    let parameters = Parameters::read(&query.unwrap_or_default())?;
    parameters.apply(&mut parsed, legacy)?;
    Ok(parsed)
}

fn checked_scheme(name: &str) -> Result<&'static str, EndpointError> {
    match name {
        "nats" | "jetstream" => Ok("nats"),
        "tls" => Ok("tls"),
        "ws" | "wss" => Err(EndpointError::WebSocket(name.to_owned())),
        other => Err(EndpointError::Scheme(other.to_owned())),
    }
}

/// The URL of a server without its credentials, and these.
fn server(scheme: &str, authority: &str) -> Result<(String, Auth), EndpointError> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned();
    let url = Url::parse(&format!("{scheme}://{authority}"))
        .map_err(|reason| EndpointError::Host { host: host.clone(), reason })?;
    let name = url.host_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| EndpointError::NoHost(host.clone()))?;
    if !matches!(url.path(), "" | "/") {
        return Err(EndpointError::Path { host: name.to_owned(), path: url.path().to_owned() });
    }
    let auth = match (url.username(), url.password()) {
        ("", None) => Auth::Anonymous,
        (token, None) => Auth::Token(percent_decode(token)),
        (user, Some(password)) => Auth::Password(percent_decode(user), percent_decode(password)),
    };
    Ok((format!("{scheme}://{name}:{}", url.port().unwrap_or(DEFAULT_PORT)), auth))
}

/// Checks that JetStream accepts a name for a bucket.
pub(super) fn check_bucket(name: &str) -> Result<(), BucketNameError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(legal) {
        return Ok(());
    }
    Err(BucketNameError)
}

/// The beginning of subjects without a dot at the end, if it is one.
pub(super) fn check_subject(value: &str) -> Option<&str> {
    let subject = value.strip_suffix('.').unwrap_or(value);
    let is_token = |token: &str| {
        !token.is_empty()
            && !token.contains(|c: char| c.is_whitespace() || c.is_control() || c == '*' || c == '>')
    };
    subject.split('.').all(is_token).then_some(subject)
}

fn percent_decode(text: &str) -> String {
    url::form_urlencoded::parse(format!("v={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
