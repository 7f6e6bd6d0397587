//! Accepts connections: gRPC over HTTP/2 and plain HTTP/1.1 on the same port, with or without TLS.
//!
//! The accept loop is written by hand. `axum::serve` and `tonic::transport::Server` have no TLS configuration
//! that changes while they run, no limit of connections that several ports share, no timeout of handshakes,
//! and no pause when descriptors run out.

use super::connection::{ConnectionError, Connections, Http2Settings};
use super::socket::{ListenSocket, Peer, Stream};
use super::tls::{Tls, common_name};
use crate::auth::CertificateName;
use crate::cli::ListenUrl;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, rustls};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tower::util::MapRequest;

/// How long a client may take over its TLS handshake, as in etcd.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which mostly means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A port that cannot be opened.
#[derive(Debug, Error)]
#[error("{flag} {url}: {source}; give another address, or stop what runs there")]
pub struct ListenError {
    flag: &'static str,
    url: String,
    source: io::Error,
}

/// Whether a connection has TLS. It is an extension of each request on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    Tls,
}

/// An open port.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: ListenSocket,
    url: String,
    tls: Option<Arc<Tls>>,
    http2: Http2Settings,
    limit: Option<Arc<Semaphore>>,
}

impl Listener {
    /// Opens a port; connections queue from here on. `tls` counts if the URL asks for it. `limit` bounds the
    /// connections of all listeners that share it; those beyond it stay in the queue. `shared` lets other
    /// processes open the same port.
    ///
    /// # Errors
    /// [`ListenError`].
    pub(crate) fn bind(
        listen: &ListenUrl,
        tls: Option<&Arc<Tls>>,
        http2: Http2Settings,
        limit: Option<Arc<Semaphore>>,
        shared: bool,
    ) -> Result<Listener, ListenError> {
        let tls = tls.filter(|_| listen.tls).cloned();
        let url = listen.url.clone();
        match ListenSocket::open(&listen.address, shared) {
            Ok(socket) => Ok(Listener { socket, url, tls, http2: http2.with_defaults(), limit }),
            Err(source) => Err(ListenError { flag: listen.flag, url, source }),
        }
    }

    /// Serves connections until `stop`, and then until those there are have ended. Those of HTTP/2 open once
    /// `opens` is cancelled.
    pub(crate) async fn serve<S>(self, service: S, opens: CancellationToken, stop: CancellationToken)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let Listener { socket, url, tls, http2, limit } = self;
        let connections = Connections::new(http2, opens, stop.clone());
        // Closed when the last connection has let go of its receiver.
        let (all, open) = watch::channel(());
        loop {
            let next = async {
                let permit = match &limit {
                    Some(limit) => {
                        if limit.available_permits() == 0 {
                            tracing::warn!(
                                url,
                                "all connections are taken, and new ones wait; raise the limit of file descriptors"
                            );
                        }
                        let permit = Arc::clone(limit).acquire_owned().await;
                        Some(permit.expect("the semaphore is never closed"))
                    }
                    None => None,
                };
                (permit, socket.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                next = next => next,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, url, "connections cannot be accepted");
                    drop(permit);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (connections, service, tls) = (connections.clone(), service.clone(), tls.clone());
            let open = open.clone();
            tokio::spawn(async move {
                connection(&connections, (stream, peer), tls, service).await;
                drop((open, permit));
            });
        }
        // A client that connects now is refused at once, and does not wait for an answer.
        drop((socket, open));
        all.closed().await;
    }
}

async fn connection<S>(
    connections: &Connections,
    (stream, peer): (Stream, Peer),
    tls: Option<Arc<Tls>>,
    service: S,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let Some(tls) = tls else {
        let service =
            MapRequest::new(service, |request: Request<_>| extended(request, Security::Plain, None));
        return report(peer, connections.serve(stream, service, Some(peer)).await);
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, &tls));
    let stream = tokio::select! {
        () = connections.stopped() => return,
        shaken = handshake => match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return report_handshake(peer, &error),
            Err(_) => {
                return tracing::warn!(%peer, "a TLS handshake is refused: it took more than 10 s");
            }
        },
    };
    let name = certificate_name(&tls, stream.get_ref().1);
    let service =
        MapRequest::new(service, move |request: Request<_>| extended(request, Security::Tls, name.as_ref()));
    let counted = connections.counts_pings_over_tls().then_some(peer);
    report(peer, connections.serve(stream, service, counted).await);
}

/// A request with the properties of its connection as extensions.
fn extended(request: Request<Incoming>, security: Security, name: Option<&CertificateName>) -> Request<Body> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(security);
    if let Some(name) = name {
        request.extensions_mut().insert(name.clone());
    }
    request
}

/// The configuration is looked up once the client has sent its hello.
async fn handshake(stream: Stream, tls: &Tls) -> io::Result<TlsStream<Stream>> {
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    hello.into_stream(tls.config().await).await
}

fn certificate_name(tls: &Tls, connection: &rustls::ServerConnection) -> Option<CertificateName> {
    let leaf = connection.peer_certificates().filter(|_| tls.names_clients())?.first()?;
    Some(CertificateName(common_name(leaf).unwrap_or_default().into()))
}

fn report_handshake(peer: Peer, error: &io::Error) {
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match reason {
        // Port scans, and health checks that only connect.
        None => tracing::debug!(%peer, %error, "a TLS handshake has ended early"),
        Some(rustls::Error::InvalidMessage(_)) => {
            tracing::warn!(%peer, %error, "a TLS handshake is refused: the client does not speak TLS; it needs https");
        }
        Some(reason) => tracing::warn!(%peer, %reason, "a TLS handshake is refused"),
    }
}

fn report(peer: Peer, served: Result<(), ConnectionError>) {
    match served {
        Ok(()) => {}
        Err(ConnectionError::Preface(error)) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%peer, %error, "a connection is refused; a client with TLS needs a port with https");
        }
        // Port scans, health checks that only connect, and killed clients are normal.
        Err(error) => tracing::debug!(%peer, %error, "a connection ended with an error"),
    }
}
