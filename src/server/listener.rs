//! Ports: gRPC over HTTP/2 and plain HTTP/1.1 on one and the same, with or without TLS.

use super::opening::Opening;
use super::port::Port;
use crate::cli::{ListenUrl, TlsFiles};
use axum::body::Body;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// Flow-control windows: a watch that delivers large values must not wait for a round trip every 64 KiB.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Streams that a client resets before they were looked at. A client that cancels thousands of calls at once is not an
/// attack, and those of an attacker hold a kilobyte each.
const PENDING_RESETS: usize = 10_000;
/// The most that a request's headers may hold; etcd allows more, but a token or a trace can be longer than the 16 KiB
/// that hyper allows.
const HEADER_BYTES: u32 = 1 << 20;
/// How long a client may take over its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to say which protocol it speaks; HTTP/1.1 gives a request's head as long.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, which mostly means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A port cannot be opened.
#[derive(Debug, Error)]
pub enum ListenError {
    /// In use, not ours, not allowed.
    #[error("{flag} {url}: {source}; give another address, or stop what runs there")]
    Bind {
        /// The flag that names the address.
        flag: &'static str,
        /// The URL.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key.
    #[error("{flag} {path}: {reason}")]
    Tls {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

/// What connections may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Http2Settings {
    pub(super) max_concurrent_streams: u32,
    pub(super) keepalive_interval: Duration,
    pub(super) keepalive_timeout: Duration,
}

/// An open port.
#[derive(Debug)]
pub(super) struct Listener {
    port: Port,
    tls: Option<Arc<ServerConfig>>,
    http2: Http2Settings,
}

impl Listener {
    /// Opens a port; connections queue from here on.
    pub(super) async fn bind(
        flag: &'static str,
        listen: &ListenUrl,
        tls: Option<&TlsFiles>,
        http2: Http2Settings,
    ) -> Result<Listener, ListenError> {
        let tls = match tls {
            Some(files) if listen.tls => Some(Arc::new(tls_config(files)?)),
            _ => None,
        };
        let port = Port::open(&listen.address).await.map_err(|source| ListenError::Bind {
            flag,
            url: listen.url.clone(),
            source,
        })?;
        Ok(Listener { port, tls, http2 })
    }

    /// Serves connections until `stop`, and then until those there are have ended.
    pub(super) async fn serve<S>(self, service: S, stop: CancellationToken)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let graceful = GracefulShutdown::new();
        let builder = self.connection_builder();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.port.accept() => accepted,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (builder, service, watcher) = (builder.clone(), service.clone(), graceful.watcher());
            match &self.tls {
                None => drop(tokio::spawn(connection(builder, stream, service, watcher))),
                Some(config) => {
                    let acceptor = TlsAcceptor::from(Arc::clone(config));
                    tokio::spawn(async move {
                        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                            Ok(Ok(stream)) => connection(builder, stream, service, watcher).await,
                            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                            Err(_) => tracing::debug!("TLS handshake took too long"),
                        }
                    });
                }
            }
        }
        // A client that connects now is told at once, rather than left waiting for an answer.
        drop(self.port);
        graceful.shutdown().await;
    }

    fn connection_builder(&self) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.http2.max_concurrent_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Some(self.http2.keepalive_interval).filter(|interval| !interval.is_zero()))
            .keep_alive_timeout(self.http2.keepalive_timeout)
            .max_header_list_size(HEADER_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(None);
        builder.http1().timer(TokioTimer::new());
        builder
    }
}

async fn connection<I, S>(
    builder: Builder<TokioExecutor>,
    stream: I,
    service: S,
    watcher: hyper_util::server::graceful::Watcher,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let service = tower::util::MapRequest::new(service, |request: Request<hyper::body::Incoming>| {
        request.map(Body::new)
    });
    let stream = Opening::new(stream, OPENING_TIMEOUT);
    let serving =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).into_owned();
    if let Err(error) = watcher.watch(serving).await {
        // A port scan, a health check that only connects, a client that was killed: nothing that needs attention.
        tracing::debug!(%error, "a connection ended with an error");
    }
}

fn tls_config(files: &TlsFiles) -> Result<ServerConfig, ListenError> {
    let refused = |flag, path: &Path, reason: String| ListenError::Tls {
        flag,
        path: path.display().to_string(),
        reason,
    };
    let certificates = |flag, path: &Path| -> Result<Vec<CertificateDer<'static>>, ListenError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                Err(refused(flag, path, "holds no PEM certificate".into()))
            }
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(refused(flag, path, error.to_string())),
        }
    };
    let chain = certificates("--cert-file", &files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| refused("--key-file", &files.key, error.to_string()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused("--cert-file", &files.cert, error.to_string()))?;
    let builder = match &files.trusted_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("--trusted-ca-file", path)? {
                roots
                    .add(certificate)
                    .map_err(|error| refused("--trusted-ca-file", path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier =
                if files.require_client_cert { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(
                verifier.build().map_err(|error| refused("--trusted-ca-file", path, error.to_string()))?,
            )
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| refused("--cert-file", &files.cert, error.to_string()))?;
    // gRPC clients insist on h2 being chosen; curl and probes speak HTTP/1.1.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
