//! One connection: its protocol, its limits, and its end when the server stops.
//!
//! hyper serves it directly. `axum::serve` and `tonic::transport::Server` do not set most of these limits,
//! and take no stream with a [`cork`](super::cork) or a [`PingGuard`].

use super::cork::{Cork, cork, uncorked};
use super::keepalive::PingGuard;
use super::protocol::{self, Protocol};
use super::socket::Peer;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// How much a client may send ahead on a stream, and on all of a connection.
///
/// h2 ends a connection on which small frames wait: each costs up to 251 bytes of a budget, which is half the
/// window of the connection. A frame of gRPC has five bytes at least, so a stream's window has to be a
/// hundredth of the connection's. Then one stream alone never ends its connection. Renewals of leases have 15
/// bytes, so eight streams that are full of them do not. The window of the connection protects no memory: a
/// call's message leaves it as it comes, and the number of calls has no bound.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 << 20;
const _: () = assert!(CONNECTION_WINDOW / 2 >= STREAM_WINDOW / 5 * 251);
/// Streams that a client resets before they were looked at. A client that cancels thousands of calls at once
/// is not an attack, and those of an attacker hold a kilobyte each.
const PENDING_RESETS: usize = 10_000;
/// The most that a call's headers may hold: a token or a trace can be longer than the 16 KiB that hyper
/// allows.
const HEADER_BYTES: u32 = 1 << 20;
/// How long the first bytes of a client may take to come. grpc-go gives them two minutes, and the plain port
/// of etcd waits for ever.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the head of an HTTP/1 request may take, and how long such a connection may be idle. etcd gives
/// heads five minutes and never ends idle connections; clients have to be ready for the end of those anyway.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Limits of HTTP/2 connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http2Settings {
    pub(crate) max_concurrent_streams: u32,
    /// Idle time before the client is pinged.
    pub(crate) keepalive_interval: Duration,
    /// Time that the client has to answer.
    pub(crate) keepalive_timeout: Duration,
    /// Least time between the client's own pings.
    pub(crate) keepalive_min_time: Duration,
    /// Whether pings are counted over TLS. etcd leaves TLS to Go's HTTP server, which lets clients ping as
    /// they like, unless the port is for gRPC alone.
    pub(crate) counts_pings_over_tls: bool,
}

impl Http2Settings {
    /// Zero means the defaults of grpc-go, as it does there. grpc-go never pings more than once a second.
    pub(super) fn with_defaults(mut self) -> Http2Settings {
        if self.keepalive_interval.is_zero() || self.keepalive_timeout.is_zero() {
            self.keepalive_interval = Duration::from_hours(2);
            self.keepalive_timeout = Duration::from_secs(20);
        }
        self.keepalive_interval = self.keepalive_interval.max(Duration::from_secs(1));
        if self.keepalive_min_time.is_zero() {
            self.keepalive_min_time = Duration::from_mins(5);
        }
        self
    }
}

/// Serves connections.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    settings: Http2Settings,
    /// Cancelled once connections of HTTP/2 may open.
    opens: CancellationToken,
    stop: CancellationToken,
}

impl Connections {
    pub(super) fn new(
        settings: Http2Settings,
        opens: CancellationToken,
        stop: CancellationToken,
    ) -> Connections {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.max_concurrent_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(settings.keepalive_interval)
            .keep_alive_timeout(settings.keepalive_timeout)
            .max_header_list_size(HEADER_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(None);
        Connections { http1, http2, settings, opens, stop }
    }

    pub(super) fn counts_pings_over_tls(&self) -> bool {
        self.settings.counts_pings_over_tls
    }

    /// Returns once no connection may begin any more.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Serves a connection until it ends; once the server stops, until the requests on it have ended.
    ///
    /// A client whose pings are `counted` is disconnected if it pings too often.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) async fn serve<I, S>(
        &self,
        io: I,
        service: S,
        counted: Option<Peer>,
    ) -> Result<(), ConnectionError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let (protocol, io) = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            detected = tokio::time::timeout(PREFACE_TIMEOUT, protocol::detect(io)) => match detected {
                Ok(detected) => detected?,
                Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            },
        };
        let service = TowerToHyperService::new(service);
        match protocol {
            Protocol::Http1 => {
                // WebSockets begin as HTTP/1.
                let mut serving =
                    pin!(self.http1.serve_connection(TokioIo::new(io), service).with_upgrades());
                tokio::select! {
                    served = serving.as_mut() => return Ok(served?),
                    () = self.stop.cancelled() => serving.as_mut().graceful_shutdown(),
                }
                Ok(serving.await?)
            }
            Protocol::Http2 => {
                tokio::select! {
                    () = self.stop.cancelled() => return Ok(()),
                    () = self.opens.cancelled() => {}
                }
                let (io, cork) = cork(io);
                if let Some(peer) = counted {
                    let guarded = PingGuard::new(io, self.settings.keepalive_min_time, peer);
                    self.serve_http2(guarded, &cork, service).await
                } else {
                    self.serve_http2(io, &cork, service).await
                }
            }
        }
    }

    async fn serve_http2<I, C, S>(
        &self,
        io: I,
        cork: &Cork<C>,
        service: TowerToHyperService<S>,
    ) -> Result<(), ConnectionError>
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let mut serving = pin!(self.http2.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            served = uncorked(serving.as_mut(), cork) => return Ok(served?),
            () = self.stop.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        Ok(uncorked(serving, cork).await?)
    }
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("{0}")]
    Preface(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}
