//! Connections to NATS and their state.

use async_nats::{Client, ConnectOptions, Event};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;

/// Interval of pings on an idle connection. After two unanswered ones it counts as lost.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Most messages that a subscription holds before the connection drops some. They are forwarded calls, and a
/// dropped one is sent again.
const SUBSCRIPTION_CAPACITY: usize = 64 * 1024;

/// The servers, the bucket, and the credentials.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `nats://host:port` or `tls://…`, without credentials.
    pub servers: Vec<String>,
    /// The credentials.
    pub auth: Auth,
    /// Bucket name; its stream is `KV_<bucket>`.
    pub bucket: String,
    /// Replicas of the stream; `None` for those that it has, and for one if it is created.
    pub replicas: Option<usize>,
    /// The cluster of embedded servers that this is; `None` for any other NATS.
    pub own_cluster: Option<OwnCluster>,
    /// PEM file of authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

impl Endpoint {
    /// The copies of a stream that is created; `None` for JetStream's default.
    pub fn replicas_to_create(&self) -> Option<usize> {
        let own = self.own_cluster.as_ref();
        own.map_or(self.replicas, |cluster| Some(copies(cluster.founders)))
    }
}

/// The copies of the stream in a cluster of embedded servers. A fourth copy would outlive no more failures
/// than three.
pub fn copies(members: usize) -> usize {
    match members {
        0 | 1 => 1,
        2 => 2,
        3 | 4 => 3,
        _ => 5,
    }
}

/// A cluster of embedded servers.
#[derive(Clone, Debug)]
pub struct OwnCluster {
    /// The number of members that found it.
    pub founders: usize,
    /// The credentials of the system account.
    pub system: Auth,
}

/// Credentials for NATS. The client library ignores those in a URL.
#[derive(Clone, Default)]
pub enum Auth {
    /// None.
    #[default]
    Anonymous,
    /// User and password.
    Password(String, String),
    /// Token.
    Token(String),
    /// A `.creds` file with a user JWT and its key.
    CredentialsFile(PathBuf),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Auth::Anonymous => "Anonymous",
            Auth::Password(..) => "Password(…)",
            Auth::Token(_) => "Token(…)",
            Auth::CredentialsFile(_) => "CredentialsFile(…)",
        })
    }
}

/// Whether NATS can be reached now. `generation` grows with every reconnection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether there is a connection.
    pub connected: bool,
    /// Number of connections so far.
    pub generation: u64,
    /// The last error.
    pub cause: Option<String>,
}

/// No connection could be made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The server refused the credentials.
    #[error(
        "NATS at {servers} refused the credentials given: {source}; check --endpoint, --nats-creds and --nats-token"
    )]
    Authorization {
        /// The servers tried.
        servers: String,
        /// The client library's reason.
        source: async_nats::ConnectError,
    },
    /// A file could not be read.
    #[error("--nats-creds {path}: {source}")]
    Credentials {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Anything else: no server there, TLS failure, bad address.
    #[error("no connection to NATS at {servers}: {source}; check --endpoint and that the server is up")]
    Unreachable {
        /// The servers tried.
        servers: String,
        /// The client library's reason.
        source: async_nats::ConnectError,
    },
}

/// A client and its state.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client; clones share one TCP connection.
    pub client: Client,
    /// Its state.
    pub link: watch::Receiver<Link>,
}

impl Connection {
    /// Connects, and keeps reconnecting for as long as the client lives.
    ///
    /// # Errors
    /// [`ConnectError`]; only the first connection can fail.
    pub async fn open(endpoint: &Endpoint, name: &str) -> Result<Connection, ConnectError> {
        let (link_tx, link) = watch::channel(Link::default());
        let mut options = ConnectOptions::new()
            .name(name)
            .ping_interval(PING_INTERVAL)
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(None)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .client_capacity(16 * 1024)
            .skip_subject_validation(true)
            .reconnect_delay_callback(|attempt| Duration::from_millis((20 << attempt.min(5)).min(500)))
            .event_callback(move |event| {
                note(&link_tx, &event);
                async {}
            });
        options = match &endpoint.auth {
            Auth::Anonymous => options,
            Auth::Password(user, password) => options.user_and_password(user.clone(), password.clone()),
            Auth::Token(token) => options.token(token.clone()),
            Auth::CredentialsFile(path) => {
                let at = |source| ConnectError::Credentials { path: path.display().to_string(), source };
                let text = tokio::fs::read_to_string(path).await.map_err(at)?;
                options.credentials(&text).map_err(at)?
            }
        };
        if let Some(ca_file) = &endpoint.ca_file {
            options = options.add_root_certificates(ca_file.clone());
        }
        if let Some((cert, key)) = &endpoint.client_cert {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        let client =
            async_nats::connect_with_options(endpoint.servers.clone(), options).await.map_err(|source| {
                let servers = endpoint.servers.join(",");
                if source.kind() == async_nats::ConnectErrorKind::AuthorizationViolation
                    || source.kind() == async_nats::ConnectErrorKind::Authentication
                {
                    ConnectError::Authorization { servers, source }
                } else {
                    ConnectError::Unreachable { servers, source }
                }
            })?;
        Ok(Connection { client, link })
    }
}

fn note(link: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => link.send_modify(|link| {
            link.connected = true;
            link.generation += 1;
            link.cause = None;
        }),
        Event::Disconnected | Event::Closed => link.send_modify(|link| {
            link.connected = false;
            link.cause.get_or_insert_with(|| "the connection to NATS is down".into());
        }),
        Event::ServerError(error) => {
            tracing::warn!(target: "jetway::log", %error, "NATS reported an error");
            link.send_modify(|link| link.cause = Some(error.to_string()));
        }
        Event::ClientError(error) => {
            tracing::debug!(target: "jetway::log", %error, "NATS client error");
            link.send_modify(|link| link.cause = Some(error.to_string()));
        }
        Event::SlowConsumer(subscription) => {
            tracing::warn!(target: "jetway::log", subscription, "NATS messages dropped by a full subscription");
        }
        Event::LameDuckMode | Event::Draining => {}
    }
}
