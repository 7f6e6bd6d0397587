//! Starts every part in order, notifies systemd that the server is ready, and stops the parts in reverse.

mod announce;
mod elastic;
mod join;
mod membership;
mod migration;
mod notify;
mod services;
mod shutdown;
mod start;

pub use announce::announce;
pub use join::JoinError;

use crate::auth;
use crate::cli::{ListenAddress, ListenUrl, ServerSettings, Storage};
use crate::engine;
use crate::nats_server;
use crate::transport::{
    Dispatcher, Http2Settings, ListenError, Listener, PeerCertificateError, Purpose, Stage, Tls, TlsError,
    connection_limit,
};
use start::start;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// etcd adds this to the request limit for the size of a gRPC message.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// How long calls may take to end when the server stops; etcd gives them as much.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(7);

/// jetway could not start, or could not go on.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A certificate or a flag of TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate of the peer port.
    #[error(transparent)]
    PeerCertificate(#[from] PeerCertificateError),
    /// The embedded nats-server.
    #[error(transparent)]
    NatsServer(#[from] nats_server::Error),
    /// The members of the cluster refuse this one.
    #[error(transparent)]
    Join(#[from] join::JoinError),
    /// NATS or the bucket.
    #[error(transparent)]
    Engine(#[from] engine::StartError),
    /// The disk, or damaged data.
    #[error(transparent)]
    Data(#[from] engine::DataError),
    /// The kind of tokens, or their keys.
    #[error("--auth-token: {0}")]
    Token(#[from] auth::TokenError),
    /// The store could not be migrated.
    #[error(transparent)]
    Migrate(Box<dyn std::error::Error + Send + Sync>),
    /// The server could not go on while its store was filled.
    #[error("{0}; nothing was served. Run the same command once more, which begins anew")]
    Unserved(Box<ServeError>),
    /// The process itself.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
}

/// Serves until a signal asks for a stop.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(settings: ServerSettings) -> Result<(), ServeError> {
    let shutdown = CancellationToken::new();
    let signals = shutdown::Signals::new().map_err(ServeError::Signals)?;
    let (stage, stages) = watch::channel(Stage::Starting("opening the ports".to_owned()));
    let http2 = Http2Settings {
        max_concurrent_streams: settings.max_concurrent_streams,
        keepalive_interval: settings.keepalive_interval,
        keepalive_timeout: settings.keepalive_timeout,
        keepalive_min_time: settings.keepalive_min_time,
        counts_pings_over_tls: !settings.listen_client_http.is_empty(),
    };
    let tls = match &settings.tls {
        None => None,
        Some(tls) => {
            Some(Arc::new(Tls::new(tls, hosts(settings.listen.iter().chain(&settings.listen_client_http)))?))
        }
    };
    // A client whose connection does not open takes another member. One whose call waits does not.
    let opens = CancellationToken::new();
    if !matches!(settings.storage, Storage::Embedded { cluster: Some(_), .. }) {
        opens.cancel();
    }
    let connections = connection_limit();
    let mut listeners = Vec::new();
    let for_clients = if settings.listen_client_http.is_empty() { Purpose::Clients } else { Purpose::Grpc };
    for (urls, purpose, limit) in [
        (&settings.listen, for_clients, Some(&connections)),
        (&settings.listen_client_http, Purpose::Http, Some(&connections)),
        // Probes get through when clients have taken all connections.
        (&settings.listen_metrics, Purpose::Probes, None),
    ] {
        for listen in urls {
            let listener =
                Listener::bind(listen, tls.as_ref(), http2, limit.cloned(), settings.socket_reuse_port)?;
            listeners.push((listener, Dispatcher::new(stages.clone(), purpose)));
        }
    }
    let mut listeners: Vec<_> = listeners
        .into_iter()
        .map(|(listener, dispatcher)| {
            tokio::spawn(listener.serve(dispatcher, opens.clone(), shutdown.clone()))
        })
        .collect();
    let signalled = CancellationToken::new();
    let stop = signalled.clone();
    tokio::spawn(async move {
        signals.wait().await;
        stop.cancel();
    });
    let started = tokio::select! {
        started = start(&settings, &stage, &signalled, &shutdown) => started?,
        // All parts stop as they are dropped; no client has been served yet. A migration ends by itself, so
        // that no source stays fenced without a copy.
        () = signalled.cancelled(), if settings.migrates_from.is_empty() => {
            shutdown.cancel();
            return Ok(());
        }
    };
    let Some(started) = started else {
        shutdown.cancel();
        remember_removal(&settings);
        return Ok(());
    };
    opens.cancel();
    let mut is_removed = false;
    let failure = tokio::select! {
        () = signalled.cancelled() => None,
        () = started.engine.removed() => {
            is_removed = true;
            None
        }
        error = started.engine.failed() => Some(error.into()),
    };
    notify::stopping();
    // Another instance writes before this one stops, so that no call waits for an election.
    if failure.is_none() {
        started.engine.resign().await;
        started.engine.hand_over_stream().await;
    }
    shutdown.cancel();
    listeners.extend(started.snapshots);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, futures_util::future::join_all(listeners)).await;
    if drained.is_err() {
        tracing::info!("connections that did not end in time are dropped");
    }
    if is_removed {
        started.engine.await_sole_member().await;
        remember_removal(&settings);
    }
    started.engine.stop();
    if let Some(nats) = started.nats {
        nats.stop().await?;
    }
    failure.map_or(Ok(()), Err)
}

/// Keeps this member's data from coming back. As in etcd, the process then ends without an error.
fn remember_removal(settings: &ServerSettings) {
    let Storage::Embedded { data_dir, .. } = &settings.storage else { return };
    tracing::error!(
        data_dir = %data_dir.display(),
        "the member has been permanently removed from the cluster, or was never added to it (etcdctl member add); the \
         data-dir used by this member must be removed"
    );
    if let Err(error) = nats_server::remember_removal(data_dir) {
        tracing::error!(%error, "the removal cannot be recorded in the data directory");
    }
}

/// The hosts under which clients reach the ports.
fn hosts<'a>(listen: impl Iterator<Item = &'a ListenUrl>) -> Vec<String> {
    let hosts = listen.filter_map(|listen| match &listen.address {
        ListenAddress::Tcp(address) => Some(address.ip().to_string()),
        ListenAddress::Unix(_) => None,
    });
    hosts.collect()
}
