//! `--endpoint`: a NATS URL in kine's form.
//!
//! Every parameter of kine's has kine's meaning, or a notice says why it has none here. A unit test compares
//! the readings of both for the same endpoints.

use super::notice::Notice;
use crate::duration;
use crate::log::Auth;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use url::Url;

/// The server of an endpoint without a host, as in NATS' clients.
pub(super) const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";
const DEFAULT_PORT: u16 = 4222;
/// Parameters that only an embedded server has.
const EMBEDDED_ONLY: [&str; 4] = ["serverConfig", "dataDir", "dontListen", "stdoutLogging"];

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
    #[error("parameter {0} is unknown; there are {known}", known = PARAMETERS.join(", "))]
    Parameter(String),
}

/// All parameters of kine's.
const PARAMETERS: [&str; 11] = [
    "bucket",
    "replicas",
    "revHistory",
    "slowMethod",
    "contextFile",
    "credsFile",
    "noEmbed",
    "serverConfig",
    "dontListen",
    "stdoutLogging",
    "dataDir",
];

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

/// The parameters that have a value or stand alone. As in kine, the first one of a name counts, and one that
/// is empty is not there.
struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    fn read(query: &str) -> Result<Parameters, EndpointError> {
        let mut parameters: Vec<(&'static str, String)> = Vec::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let known = PARAMETERS.into_iter().find(|known| *known == key);
            let known = known.ok_or_else(|| EndpointError::Parameter(key.to_string()))?;
            if parameters.iter().all(|(name, _)| *name != known) {
                parameters.push((known, value.into_owned()));
            }
        }
        Ok(Parameters(parameters))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(known, _)| *known == name);
        value.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    fn apply(&self, parsed: &mut ParsedEndpoint, legacy: bool) -> Result<(), EndpointError> {
        if let Some(name) = self.get("bucket") {
            check_bucket(name).map_err(|reason| EndpointError::Bucket { name: name.to_owned(), reason })?;
            parsed.bucket = Some(name.to_owned());
        }
        if let Some(text) = self.get("replicas") {
            let replicas = text.parse().ok().filter(|replicas| (1..=5).contains(replicas));
            parsed.replicas = Some(replicas.ok_or_else(|| EndpointError::Replicas(text.to_owned()))?);
        }
        if let Some(text) = self.get("slowMethod") {
            let slow = duration::parse(text).map_err(|_| EndpointError::SlowMethod(text.to_owned()))?;
            parsed.slow_method = Some(slow);
        }
        parsed.context_file = self.path("contextFile");
        parsed.creds_file = self.path("credsFile");
        let has_host = !parsed.servers.is_empty();
        if let Some(file) = self.get("contextFile").filter(|_| has_host) {
            return Err(EndpointError::ContextAndHost(file.to_owned()));
        }
        let is_external = legacy || self.has("noEmbed");
        if has_host && !is_external {
            for name in ["serverConfig", "dataDir"] {
                if let Some(value) = self.get(name) {
                    return Err(EndpointError::EmbeddedAndHost { name, value: value.to_owned() });
                }
            }
        }
        parsed.is_embedded = !has_host && !is_external && parsed.context_file.is_none();
        if parsed.is_embedded {
            if let Some(replicas) = parsed.replicas.filter(|replicas| *replicas > 1) {
                return Err(EndpointError::EmbeddedReplicas(replicas));
            }
            parsed.server_config = self.path("serverConfig");
            parsed.data_dir = self.path("dataDir");
        }
        self.notice(parsed)
    }

    /// Tells of each parameter that has no effect.
    fn notice(&self, parsed: &mut ParsedEndpoint) -> Result<(), EndpointError> {
        let mut tell = |name: &str, why: &str| {
            let text = format!("--endpoint: {name} has no effect: {why}");
            parsed.notices.push(Notice::warning(text));
        };
        if let Some(text) = self.get("revHistory") {
            if !text.parse().is_ok_and(|history: u32| (2..=64).contains(&history)) {
                return Err(EndpointError::History(text.to_owned()));
            }
            tell("revHistory", "jetway keeps every revision until a compaction, as etcd does");
        }
        if parsed.is_embedded {
            if self.has("dontListen") {
                let why = "the embedded nats-server listens on a port of 127.0.0.1 that takes jetway's own token alone";
                tell("dontListen", why);
            }
            if self.has("stdoutLogging") {
                tell("stdoutLogging", "the lines of the embedded nats-server are in jetway's own log");
            }
            if parsed.creds_file.is_some() {
                tell("credsFile", "the embedded nats-server takes jetway's own token alone");
            }
        } else {
            for name in EMBEDDED_ONLY.into_iter().filter(|name| self.has(name)) {
                tell(name, "there is no embedded nats-server beside an existing NATS");
            }
        }
        if let Some(value) = self.get("noEmbed").filter(|value| *value != "true" && *value != "1") {
            let text =
                format!("--endpoint: noEmbed={value} means noEmbed: as in kine, its value does not count");
            parsed.notices.push(Notice::warning(text));
        }
        Ok(())
    }
}

/// Checks that JetStream accepts a name for a bucket.
pub(super) fn check_bucket(name: &str) -> Result<(), BucketNameError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(legal) {
        return Ok(());
    }
    Err(BucketNameError)
}

fn percent_decode(text: &str) -> String {
    url::form_urlencoded::parse(format!("v={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[test]
    fn hosts_credentials_and_query_are_taken_apart() {
        let parsed = parse("nats://me:p%40ss+1@a:4222,b?bucket=k8s&replicas=3").expect("a good endpoint");
        assert_eq!(parsed.servers, ["nats://a:4222", "nats://b:4222"]);
        assert_eq!(parsed.auth, Auth::Password("me".into(), "p@ss+1".into()));
        assert_eq!((parsed.bucket.as_deref(), parsed.replicas), (Some("k8s"), Some(3)));
        assert_eq!(parse("jetstream://s3cret@h:1").expect("token").auth, Auth::Token("s3cret".into()));
        assert_eq!(parse("tls://a,nats://b").expect("two").servers, ["tls://a:4222", "nats://b:4222"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (endpoint, word) in [
            ("localhost:4222", "scheme"),
            ("ws://h", "is not served"),
            ("nats://h,wss://h/path", "is not served"),
            ("http://a", "http"),
            ("nats://,nats://h", "host"),
            ("nats://h/path", "/path"),
            ("nats://a?replicas=9", "replicas=9"),
            ("nats://a?replicas=many", "1 to 5"),
            ("nats://?replicas=3", "NATS cluster"),
            ("nats://a?bucket=a.b", "a.b"),
            ("nats://a?colour=red", "colour is unknown; there are bucket, replicas,"),
            ("nats://a?contextFile=f", "contextFile=f"),
            ("nats://a?dataDir=/d", "noEmbed"),
            ("nats://u:secret@a,nats://v:secret@b", "one user part"),
        ] {
            let error = parse(endpoint).expect_err(endpoint).to_string();
            assert!(error.contains(word) && !error.contains("secret"), "{endpoint}: {error}");
        }
    }

    #[test]
    fn parameters_without_effect_are_told() {
        let told = |endpoint: &str| {
            let parsed = parse(endpoint).expect(endpoint);
            parsed.notices.iter().map(|notice| notice.text.clone()).collect::<Vec<_>>().join("\n")
        };
        for (endpoint, words) in [
            ("nats://h?revHistory=10", "until a compaction"),
            ("nats://?dontListen", "jetway's own token"),
            ("nats://?stdoutLogging", "jetway's own log"),
            ("nats://?credsFile=/f", "jetway's own token"),
            ("nats://?noEmbed&dataDir=/d", "beside an existing NATS"),
            ("nats://?noEmbed=false", "its value does not count"),
        ] {
            let told = told(endpoint);
            assert!(told.contains(words) && told.lines().count() == 1, "{endpoint}: {told}");
        }
        assert_eq!(told("nats://h?noEmbed&bucket=b&slowMethod=1s&credsFile=/f"), "");
    }

    /// kine's reading of an endpoint: see `tests/peers/kine/dsn`.
    #[derive(Deserialize)]
    struct Reading {
        endpoint: String,
        error: Option<String>,
        #[serde(default)]
        embedded: bool,
        #[serde(default)]
        url: String,
        user: Option<String>,
        password: Option<String>,
        token: Option<String>,
        bucket: Option<String>,
        replicas: Option<usize>,
        slow_method_ms: Option<u64>,
        server_config: Option<PathBuf>,
        data_dir: Option<PathBuf>,
    }

    /// Endpoints that jetway reads otherwise than kine, and the reason.
    const OTHERWISE: &[(&str, &str)] = &[
        ("nats://127.0.0.1", "a host names an existing NATS"),
        ("nats://user:pass@h1:1,nats://h2:2,nats://h3?noEmbed", "parameters may stand behind any server"),
        ("nats://user:p%40ss%2Bw@h:4222?noEmbed", "credentials are decoded"),
        ("nats://t%2Fk@h?noEmbed", "credentials are decoded"),
        ("nats://h1?noEmbed,nats://user:pass@h2", "the user part may stand at any server"),
        ("nats://u:p@h1?noEmbed,nats://other:p@h2", "a second login is refused, and not ignored"),
        ("nats://h1,h2?noEmbed", "the scheme need not be repeated"),
        ("nats://h1?noEmbed&bucket=a,nats://h2?bucket=b", "ignored parameters are refused"),
        ("nats://h?noEmbed&replicas=many", "no number is refused, and not ignored"),
        ("nats://h?noEmbed&revHistory=some", "no number is refused, and not ignored"),
        ("nats://h?noEmbed&colour=red", "an unknown parameter is refused, and not ignored"),
        ("nats://h?noEmbed&credsFile=/etc/nats/user.creds", "the file is read later"),
        ("nats://?noEmbed&contextFile=/no/such/context.json", "the file is read later"),
        ("tls://h", "tls:// is served"),
        ("jetstream://", "kine takes only a whole URL behind jetstream://"),
        ("jetstream://h:4222", "kine takes only a whole URL behind jetstream://"),
        ("jetstream://user:pass@h", "kine takes only a whole URL behind jetstream://"),
    ];

    /// Whether both read an endpoint alike.
    fn is_alike(kine: &Reading) -> bool {
        let own = parse(&kine.endpoint);
        let (Ok(own), None) = (&own, &kine.error) else { return own.is_err() && kine.error.is_some() };
        let auth = match (&kine.user, &kine.password, &kine.token) {
            (Some(user), Some(password), _) => Auth::Password(user.clone(), password.clone()),
            (_, _, Some(token)) => Auth::Token(token.clone()),
            _ => Auth::Anonymous,
        };
        let host = |url: &str| match url.trim_start_matches("nats://") {
            host if host.contains("]:") || host.matches(':').count() == 1 => format!("nats://{host}"),
            host => format!("nats://{host}:{DEFAULT_PORT}"),
        };
        let servers: Vec<_> =
            if kine.url == "nats://" { Vec::new() } else { kine.url.split(',').map(host).collect() };
        let slow = own.slow_method.map_or(500, |slow| slow.as_millis() as u64);
        // kine has the parameters of an embedded server beside an existing one too, and does not read them.
        let embedded = |path: &Option<PathBuf>| path.clone().filter(|_| kine.embedded);
        own.is_embedded == kine.embedded
            && own.servers == servers
            && own.auth == auth
            && own.bucket.as_deref().unwrap_or("kine") == kine.bucket.as_deref().unwrap_or_default()
            && own.replicas.unwrap_or(1) == kine.replicas.unwrap_or_default()
            && Some(slow) == kine.slow_method_ms
            && own.server_config == embedded(&kine.server_config)
            && own.data_dir == embedded(&kine.data_dir)
    }

    #[test]
    fn endpoints_are_read_as_kine_reads_them() {
        let readings = include_str!("../../tests/peers/kine/dsn/endpoints.json");
        let readings: Vec<Reading> = serde_json::from_str(readings).expect("readings");
        assert!(readings.len() > 40);
        for reading in &readings {
            let otherwise = OTHERWISE.iter().any(|(endpoint, _)| *endpoint == reading.endpoint);
            assert_eq!(is_alike(reading), !otherwise, "{}: {:?}", reading.endpoint, parse(&reading.endpoint));
        }
        for (endpoint, _) in OTHERWISE {
            assert!(
                readings.iter().any(|reading| reading.endpoint == *endpoint),
                "{endpoint} is not in the table"
            );
        }
    }
}
