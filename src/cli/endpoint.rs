//! `--endpoint`: a NATS URL in kine's form.

use crate::log::Auth;
use thiserror::Error;
use url::Url;

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
    #[error("{host}: {reason}")]
    Host { host: String, reason: url::ParseError },
    #[error("{0:?} names no host; expected host:port")]
    NoHost(String),
    #[error("bucket={name}: {reason}")]
    Bucket { name: String, reason: BucketNameError },
    #[error("replicas={0}: expected 1, 3 or 5")]
    Replicas(String),
    #[error("parameter {0} is unknown; there are bucket and replicas")]
    Parameter(String),
}

/// JetStream does not accept a name for a bucket.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a bucket name has letters, digits, - and _ only")]
pub(super) struct BucketNameError;

/// The parts of an endpoint; `None` for a part that it does not have.
#[derive(Debug)]
pub(super) struct ParsedEndpoint {
    pub(super) servers: Vec<String>,
    pub(super) auth: Auth,
    pub(super) bucket: Option<String>,
    pub(super) replicas: Option<usize>,
}

/// Reads an endpoint. As in kine, commas separate hosts, which share one user part and one query.
pub(super) fn parse(endpoint: &str) -> Result<ParsedEndpoint, EndpointError> {
    let (scheme, rest) = endpoint.split_once("://").ok_or(EndpointError::NoScheme)?;
    let scheme = match scheme {
        "nats" | "jetstream" => "nats",
        "tls" => scheme,
        "ws" | "wss" => return Err(EndpointError::WebSocket(scheme.to_owned())),
        other => return Err(EndpointError::Scheme(other.to_owned())),
    };
    let (hosts, query) = rest.split_once('?').map_or((rest, ""), |(hosts, query)| (hosts, query));
    let mut parsed =
        ParsedEndpoint { servers: Vec::new(), auth: Auth::Anonymous, bucket: None, replicas: None };
    for host in hosts.trim_end_matches('/').split(',') {
        let host = host.split_once("://").map_or(host, |(_, host)| host);
        let url = Url::parse(&format!("{scheme}://{host}"))
            .map_err(|reason| EndpointError::Host { host: host.to_owned(), reason })?;
        let name = url.host_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| EndpointError::NoHost(host.to_owned()))?;
        let decode = |text: &str| percent_decode(text);
        match (url.username(), url.password()) {
            ("", None) => {}
            (token, None) => parsed.auth = Auth::Token(decode(token)),
            (user, Some(password)) => parsed.auth = Auth::Password(decode(user), decode(password)),
        }
        parsed.servers.push(format!("{scheme}://{name}:{}", url.port().unwrap_or(4222)));
    }
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match key.as_ref() {
            "bucket" => {
                check_bucket(&value)
                    .map_err(|reason| EndpointError::Bucket { name: value.to_string(), reason })?;
                parsed.bucket = Some(value.into_owned());
            }
            "replicas" => {
                let replicas = value.parse().ok().filter(|replicas| matches!(replicas, 1 | 3 | 5));
                parsed.replicas = Some(replicas.ok_or_else(|| EndpointError::Replicas(value.to_string()))?);
            }
            // kine's own parameters, which have no meaning here.
            "noEmbed" | "revHistory" | "slowMethod" | "dontListen" | "stdoutLogging" => {}
            other => return Err(EndpointError::Parameter(other.to_owned())),
        }
    }
    Ok(parsed)
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

    #[test]
    fn hosts_credentials_and_query_are_taken_apart() {
        let parsed = parse("nats://me:p%40ss+1@a:4222,b?bucket=k8s&replicas=3").expect("a good endpoint");
        assert_eq!(parsed.servers, ["nats://a:4222", "nats://b:4222"]);
        assert!(
            matches!(&parsed.auth, Auth::Password(user, password) if user == "me" && password == "p@ss+1")
        );
        assert_eq!((parsed.bucket.as_deref(), parsed.replicas), (Some("k8s"), Some(3)));
        assert!(
            matches!(parse("jetstream://s3cret@h:1").expect("token").auth, Auth::Token(token) if token == "s3cret")
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (endpoint, word) in [
            ("localhost:4222", "scheme"),
            ("ws://h", "is not served"),
            ("wss://h", "is not served"),
            ("http://a", "http"),
            ("nats://", "host"),
            ("nats://a?replicas=9", "replicas=9"),
            ("nats://a?replicas=2", "1, 3 or 5"),
            ("nats://a?bucket=a.b", "a.b"),
            ("nats://a?colour=red", "colour"),
        ] {
            let error = parse(endpoint).expect_err(endpoint).to_string();
            assert!(error.contains(word), "{endpoint}: {error}");
        }
    }
}
