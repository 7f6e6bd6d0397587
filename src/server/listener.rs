//! Ports: gRPC over HTTP/2 and plain HTTP/1.1 on one and the same, with or without TLS.

use super::connection::{Connections, Http2Settings};
use super::port::{Port, Stream};
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

/// A port cannot be opened: in use, not ours, not allowed.
#[derive(Debug, Error)]
#[error("{flag} {url}: {source}; give another address, or stop what runs there")]
pub struct ListenError {
    flag: &'static str,
    url: String,
    source: io::Error,
}

/// How a connection came in: an extension of each request on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Plain,
    Tls,
}

/// An open port.
#[derive(Debug)]
pub(super) struct Listener {
    port: Port,
    url: String,
    tls: Option<Arc<Tls>>,
    http2: Http2Settings,
    limit: Option<Arc<Semaphore>>,
}

impl Listener {
    /// Opens a port; connections queue from here on. `tls` counts if the URL asks for it. `limit` bounds the connections
    /// of all listeners that share it; those beyond it stay in the queue. `shared` lets other processes open the same port.
    pub(super) fn bind(
        flag: &'static str,
        listen: &ListenUrl,
        tls: Option<&Arc<Tls>>,
        http2: Http2Settings,
        limit: Option<Arc<Semaphore>>,
        shared: bool,
    ) -> Result<Listener, ListenError> {
        let tls = tls.filter(|_| listen.tls).cloned();
        let url = listen.url.clone();
        match Port::open(&listen.address, shared) {
            Ok(port) => Ok(Listener { port, url, tls, http2: http2.with_defaults(), limit }),
            Err(source) => Err(ListenError { flag, url, source }),
        }
    }

    /// Serves connections until `stop`, and then until those there are have ended.
    pub(super) async fn serve<S>(self, service: S, stop: CancellationToken)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let Listener { port, url, tls, http2, limit } = self;
        let connections = Connections::new(http2, stop.clone());
        // Closed when the last connection has let go of its receiver.
        let (all, open) = watch::channel(());
        let mut is_failing = false;
        loop {
            let next = async {
                let permit = match &limit {
                    Some(limit) => {
                        let permit = Arc::clone(limit).acquire_owned().await;
                        Some(permit.expect("the semaphore is never closed"))
                    }
                    None => None,
                };
                (permit, port.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                next = next => next,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    // Once for a row of failures: there are twenty a second.
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, url, "connections cannot be accepted");
                    }
                    drop(permit);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            is_failing = false;
            let (connections, service, tls) = (connections.clone(), service.clone(), tls.clone());
            let open = open.clone();
            tokio::spawn(async move {
                connection(&connections, stream, tls, service).await;
                drop((open, permit));
            });
        }
        // A client that connects now is told at once, rather than left waiting for an answer.
        drop((port, open));
        all.closed().await;
    }
}

async fn connection<S>(connections: &Connections, stream: Stream, tls: Option<Arc<Tls>>, service: S)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let Some(tls) = tls else {
        let service =
            MapRequest::new(service, |request: Request<_>| extended(request, Transport::Plain, None));
        return report(connections.serve(stream, service, true).await);
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, &tls));
    let stream = tokio::select! {
        () = connections.stopped() => return,
        shaken = handshake => match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake took too long"),
        },
    };
    let name = certificate_name(&tls, stream.get_ref().1);
    let service =
        MapRequest::new(service, move |request: Request<_>| extended(request, Transport::Tls, name.as_ref()));
    report(connections.serve(stream, service, connections.counts_pings_over_tls()).await);
}

/// A request that knows how it came in.
fn extended(
    request: Request<Incoming>,
    transport: Transport,
    name: Option<&CertificateName>,
) -> Request<Body> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(transport);
    if let Some(name) = name {
        request.extensions_mut().insert(name.clone());
    }
    request
}

/// The files are read when the client has shown that it speaks TLS.
async fn handshake(stream: Stream, tls: &Tls) -> io::Result<TlsStream<Stream>> {
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    hello.into_stream(tls.config().await).await
}

fn certificate_name(tls: &Tls, connection: &rustls::ServerConnection) -> Option<CertificateName> {
    let leaf = connection.peer_certificates().filter(|_| tls.names_clients())?.first()?;
    Some(CertificateName(common_name(leaf).unwrap_or_default().into()))
}

fn report(served: Result<(), impl std::error::Error>) {
    if let Err(error) = served {
        // A port scan, a health check that only connects, a client that was killed: nothing that needs attention.
        tracing::debug!(%error, "a connection ended with an error");
    }
}
