//! Connections to NATS and their state.

use super::login::{Auth, LoginError, RunToken};
use super::rights::{Denials, Denied};
use super::servers::{FirstServer, ServerChanges};
use super::wire::WireError;
use crate::version::{NatsVersion, TooOld};
use async_nats::{AuthError, Client, ConnectOptions, Event, ReconnectToServer, ServerError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Interval of pings on an idle connection. After two unanswered ones it counts as lost.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Pause on a server that is too old, before another one is tried.
const LEAVE_PAUSE: Duration = Duration::from_secs(1);
/// Most messages that a subscription holds before the connection drops some. They are forwarded calls, and a
/// dropped one is sent again.
const SUBSCRIPTION_CAPACITY: usize = 64 * 1024;

/// The servers, the bucket, and the credentials.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// `nats://host:port` or `tls://…`, without credentials.
    pub servers: Vec<String>,
    /// The credentials.
    pub auth: Auth,
    /// Bucket name; its stream is `KV_<bucket>`.
    pub bucket: String,
    /// Replicas of the stream; `None` for those that it has, and for one if it is created.
    pub replicas: Option<usize>,
    /// The bucket is a mirror of the one behind this beginning of the subjects of JetStream's API.
    pub mirror: Option<String>,
    /// A mirror of the bucket is behind this beginning of the subjects of JetStream's API. It may have been
    /// promoted.
    pub standby: Option<String>,
    /// The cluster of embedded servers that this is; `None` for any other NATS.
    pub own_cluster: Option<OwnCluster>,
    /// PEM file of authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Whether TLS begins before the server has introduced itself.
    pub tls_first: bool,
    /// The beginning of the subjects of JetStream's API, without a dot at the end; `None` for `$JS.API`.
    pub api_prefix: Option<String>,
    /// The beginning of the subjects for answers, without a dot at the end; `None` for `_INBOX`.
    pub inbox_prefix: Option<String>,
    /// The rights that its connections were found to lack.
    pub denials: Denials,
}

impl Endpoint {
    /// The beginning of the subjects of JetStream's API in the domain of a name.
    pub fn domain_prefix(domain: &str) -> String {
        format!("$JS.{domain}.API")
    }

    /// The copies of a stream that is created; `None` for JetStream's default.
    pub fn replicas_to_create(&self) -> Option<usize> {
        let own = self.own_cluster.as_ref();
        own.map_or(self.replicas, |cluster| Some(copies(cluster.founders)))
    }
}

/// JetStream keeps at most so many copies of a stream.
pub const MAX_COPIES: usize = 5;

/// The copies of the stream in a cluster of embedded servers. A fourth copy would outlive no more failures
/// than three.
pub fn copies(members: usize) -> usize {
    match members {
        0 | 1 => 1,
        2 => 2,
        3 | 4 => 3,
        _ => MAX_COPIES,
    }
}

/// A cluster of embedded servers.
#[derive(Clone, Debug)]
pub struct OwnCluster {
    /// The number of members that found it.
    pub founders: usize,
    /// Whether this member has been in it, so that its stream must be there.
    pub has_joined: bool,
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

impl Link {
    /// The trouble, if there is no connection.
    pub fn outage(&self) -> Option<String> {
        if self.connected {
            return None;
        }
        let cause = self.cause.as_deref().unwrap_or("no connection yet");
        Some(format!("NATS is unreachable: {cause}"))
    }
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
    /// The credentials cannot be read.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The user may not do what jetway must.
    #[error(
        "the NATS user may not {missing}; `jetway nats-permissions --bucket {bucket}` prints all rights that it needs"
    )]
    Rights {
        /// The uses of subjects that are denied.
        missing: String,
        /// The bucket.
        bucket: String,
    },
    /// The server is too old.
    #[error("NATS at {server} is {reason}")]
    TooOld {
        /// The server.
        server: String,
        /// Its version, and the reason.
        reason: TooOld,
    },
    /// The rights cannot be checked.
    #[error("cannot check the rights of the NATS user: {0}")]
    Check(#[from] WireError),
    /// Anything else: no server there, TLS failure, bad address.
    #[error(
        "no connection to NATS at {servers}: {source}; check --endpoint and that the server is up. Without a host in --endpoint \
         jetway runs a nats-server of its own"
    )]
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
    /// The endpoint's server that connections try first.
    pub(super) first_server: FirstServer,
    server_changes: ServerChanges,
    /// The task that leaves servers that are too old or cut off, and connections that are not to the embedded
    /// server.
    _watch: Arc<Watch>,
}

/// Ends its task when it is dropped.
#[derive(Debug)]
struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Connects, and keeps reconnecting for as long as the client lives.
    ///
    /// # Errors
    /// [`ConnectError`]; only the first connection can fail.
    pub async fn open(endpoint: &Endpoint, name: &str) -> Result<Connection, ConnectError> {
        let (link_tx, link) = watch::channel(Link::default());
        let denials = endpoint.denials.clone();
        // An error of the first attempt would be hidden by the client library.
        let first = endpoint.auth.before_connecting()?;
        first.login(b"").await?;
        let next = Arc::new(Mutex::new(first));
        let auth = Arc::clone(&next);
        let mut options = ConnectOptions::with_auth_callback(move |nonce| {
            let auth = locked(&auth).clone();
            async move { Ok(auth.login(&nonce).await.map_err(AuthError::new)?.into()) }
        });
        if let Auth::Embedded(..) = endpoint.auth {
            let (auth, next) = (endpoint.auth.clone(), Arc::clone(&next));
            options = options.reconnect_to_server_callback(move |servers, _| {
                let (auth, next) = (auth.clone(), Arc::clone(&next));
                async move {
                    let own = servers.into_iter().find(|server| !server.is_discovered)?;
                    // The supervisor notices the end of a run within this pause, too.
                    if own.did_connect {
                        tokio::time::sleep(reconnect_delay(own.failed_attempts)).await;
                    }
                    auth.running().await;
                    *locked(&next) = auth.before_connecting().unwrap_or_default();
                    Some(ReconnectToServer { addr: own.addr, delay: Some(Duration::ZERO) })
                }
            });
        }
        let first_server = FirstServer::default();
        if endpoint.servers.len() > 1 {
            options = first_server.rotate_servers(options, link.clone());
        }
        options = options
            .name(name)
            .ping_interval(PING_INTERVAL)
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(None)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .client_capacity(16 * 1024)
            .skip_subject_validation(true)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                note(&link_tx, &denials, &event);
                async {}
            });
        if let Some(prefix) = &endpoint.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        if endpoint.tls_first {
            options = options.tls_first();
        }
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
        check_version(&client)?;
        let left = leave_old_servers(client.clone(), link.clone());
        let renewed = follow_runs(client.clone(), link.clone(), endpoint.auth.clone(), next);
        let (server_changes, changing_servers) = ServerChanges::of(endpoint, client.clone(), link.clone());
        let watch = tokio::spawn(async { tokio::join!(left, renewed, changing_servers) });
        let watch = Arc::new(Watch(watch.abort_handle()));
        Ok(Connection { client, link, first_server, server_changes, _watch: watch })
    }

    /// Leaves a server that seems to have lost its cluster for another one of the endpoint.
    pub fn leave_server(&self) {
        self.server_changes.ask();
    }
}

/// The pause before an attempt to connect again.
fn reconnect_delay(attempt: usize) -> Duration {
    Duration::from_millis((20 << attempt.min(5)).min(500))
}

/// Leaves a connection that was made with the token of an earlier run of the embedded server: another program
/// has accepted it.
async fn follow_runs(client: Client, link: watch::Receiver<Link>, auth: Auth, used: Arc<Mutex<Auth>>) {
    let Auth::Embedded(_, RunToken(mut token)) = auth.clone() else { return };
    while token.changed().await.is_ok() {
        let is_stale = auth.before_connecting().is_ok_and(|now| now != *locked(&used));
        if is_stale && link.borrow().connected && client.force_reconnect().await.is_err() {
            return;
        }
    }
}

/// The credentials of the next connection.
fn locked(auth: &Mutex<Auth>) -> MutexGuard<'_, Auth> {
    // A holder replaces or copies them as a whole.
    auth.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_version(client: &Client) -> Result<(), ConnectError> {
    let info = client.server_info();
    NatsVersion::check(&info.version)
        .map_err(|reason| ConnectError::TooOld { server: format!("{}:{}", info.host, info.port), reason })
}

/// Looks for another server when a reconnection has led to one that is too old, and reports it once.
async fn leave_old_servers(client: Client, mut link: watch::Receiver<Link>) {
    let mut reported = None;
    while link.changed().await.is_ok() {
        if !link.borrow().connected {
            continue;
        }
        let Err(error) = check_version(&client) else {
            reported = None;
            continue;
        };
        let text = error.to_string();
        if reported.as_ref() != Some(&text) {
            tracing::warn!(target: "jetway::log", "{text}; another server of the endpoint is tried");
            reported = Some(text);
        }
        tokio::time::sleep(LEAVE_PAUSE).await;
        if client.force_reconnect().await.is_err() {
            return;
        }
    }
}

fn note(link: &watch::Sender<Link>, denials: &Denials, event: &Event) {
    match event {
        Event::Connected => {
            denials.forget();
            link.send_modify(|link| {
                link.connected = true;
                link.generation += 1;
                link.cause = None;
            });
        }
        Event::Disconnected | Event::Closed => link.send_modify(|link| {
            link.connected = false;
            link.cause.get_or_insert_with(|| "the server has closed the connection, or stands still".into());
        }),
        Event::ServerError(ServerError::Other(text)) if let Some(denied) = Denied::parse(text) => {
            denials.note(&denied);
        }
        Event::ServerError(error) => {
            tracing::warn!(target: "jetway::log", %error, "NATS reported an error");
            let text = error.to_string();
            // The server goes on with a connection after this one.
            if !text.to_ascii_lowercase().contains("permissions violation") {
                link.send_modify(|link| link.cause = Some(text));
            }
        }
        Event::ClientError(error) => {
            tracing::debug!(target: "jetway::log", %error, "NATS client error");
            // The library reports a server that accepts and sends nothing in these words.
            let cause = match error.to_string() {
                text if text == "nats: timed out" => {
                    "the server accepts connections and does not answer".into()
                }
                text => text,
            };
            link.send_modify(|link| link.cause = Some(cause));
        }
        Event::SlowConsumer(subscription) => {
            tracing::warn!(target: "jetway::log", subscription, "NATS messages dropped by a full subscription");
        }
        Event::LameDuckMode => {
            tracing::warn!(target: "jetway::log", "the NATS server is about to stop (lame duck mode)");
        }
        Event::Draining => {}
    }
}
