//! A connection to one nats-server whose messages are read in place, in the buffer. The log uses it to append
//! and to read.
//!
//! The client library makes a map of each message's headers and a string of each subject, and passes messages
//! through tasks and channels. That was most of the cost of a load. A put costs 16 % less CPU of jetway and
//! its nats-server by this connection: 54.5 us against 64.7 us. These are medians of five rounds in turns
//! (52.0 to 56.9 us, 59.1 to 67.1 us). The other side was the same pipeline over async-nats 0.51, with
//! `Client::publish_with_reply_and_headers` and one subscription for the acknowledgements. Both were in one
//! build of the profile `quick`, measured in November 2026 on two cores of an AMD EPYC under foreign load
//! (load average 25), ext4, `--sync group`, with 100 clients and values of 1 KiB:
//! `cargo bench --bench wire -- --only put-100 --peers jetway --seconds 6`.
//!
//! This module knows the part of the protocol that [`Pipeline`](super::pipeline) and
//! [`Consumer`](super::consumer) need. Everything else goes through the client library.

mod error;
mod protocol;

pub use error::{AddressError, ProtocolError, WireError};
use protocol::{MAX_BYTES, parse};
pub(super) use protocol::{ServerOp, status};

use super::connect::Endpoint;
use super::login::{Auth, LoginError};
use super::rights::{Denials, Denied};
use super::tls::{self, TlsSetupError};
use crate::version::NatsVersion;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::json;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// The longest time for a connection and its login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_PORT: u16 = 4222;

/// The transport of a connection.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Stream::Tls(_)) { "Tls" } else { "Plain" })
    }
}

/// A connection with one subscription.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    /// The part of the buffer that is read and not consumed yet.
    start: usize,
    end: usize,
    /// The server.
    pub(super) server: ServerInfo,
    denials: Denials,
}

/// The INFO that a server sends first.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ServerInfo {
    #[serde(default)]
    headers: bool,
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    nonce: Option<String>,
    /// Its version.
    #[serde(default)]
    pub(super) version: String,
    /// Size of the largest message that it accepts, headers included.
    pub(super) max_payload: usize,
}

impl Wire {
    /// Connects to the first server of the endpoint that answers, beginning with number `first`, and
    /// subscribes to `inbox`. Reads about `buffer_bytes` at once, and more only for a message that does not
    /// fit.
    ///
    /// # Errors
    /// That of the last server tried.
    pub(super) async fn open(
        endpoint: &Endpoint,
        first: usize,
        inbox: Option<&str>,
        buffer_bytes: usize,
    ) -> Result<Wire, WireError> {
        let mut failed = WireError::Protocol(ProtocolError::NoServer);
        for at in 0..endpoint.servers.len() {
            let server = &endpoint.servers[(first + at) % endpoint.servers.len()];
            let opened = Wire::open_one(endpoint, server, inbox, buffer_bytes);
            match tokio::time::timeout(CONNECT_TIMEOUT, opened).await.unwrap_or(Err(WireError::TimedOut)) {
                Ok(wire) => return Ok(wire),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn open_one(
        endpoint: &Endpoint,
        server: &str,
        inbox: Option<&str>,
        buffer_bytes: usize,
    ) -> Result<Wire, WireError> {
        let bad = |reason| ProtocolError::Address { address: server.to_owned(), reason };
        let url = url::Url::parse(server).map_err(|error| bad(error.into()))?;
        let host = url.host_str().ok_or_else(|| bad(AddressError::NoHost))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let auth = endpoint.auth.before_connecting()?;
        let tcp = TcpStream::connect((host.as_str(), url.port().unwrap_or(DEFAULT_PORT))).await?;
        tcp.set_nodelay(true)?;
        let mut wire = Wire {
            stream: Stream::Plain(tcp),
            buffer: vec![0; buffer_bytes],
            start: 0,
            end: 0,
            server: ServerInfo::default(),
            denials: endpoint.denials.clone(),
        };
        if endpoint.tls_first {
            wire = wire.upgraded(endpoint, host.clone()).await?;
        }
        wire.server = wire.read_info().await?;
        NatsVersion::check(&wire.server.version)
            .map_err(|reason| WireError::TooOld { server: server.to_owned(), reason })?;
        if !wire.server.headers {
            return Err(ProtocolError::NoHeaders.into());
        }
        let wants_tls = url.scheme() == "tls" || endpoint.client_cert.is_some() || wire.server.tls_required;
        if wants_tls && !endpoint.tls_first {
            wire = wire.upgraded(endpoint, host).await?;
        }
        let login = login(&auth, wire.server.nonce.as_deref()).await?;
        let subscription = inbox.map(|inbox| format!("SUB {inbox} 1\r\n")).unwrap_or_default();
        wire.send(format!("CONNECT {login}\r\n{subscription}PING\r\n").as_bytes()).await?;
        // The server reports an error about these before the PONG.
        loop {
            match wire.next_op()? {
                Some((ServerOp::Pong, length)) => {
                    wire.consume(length);
                    break;
                }
                Some((ServerOp::Error(text), _)) => return Err(wire.error(text)),
                Some((_, length)) => wire.consume(length),
                None => wire.read_more().await?,
            }
        }
        // The embedded server may have ended meanwhile, and another program may have answered in its place.
        if matches!(endpoint.auth, Auth::Embedded(..)) && endpoint.auth.before_connecting()? != auth {
            return Err(LoginError::Down.into());
        }
        Ok(wire)
    }

    async fn read_info(&mut self) -> Result<ServerInfo, WireError> {
        loop {
            match self.next_op()? {
                Some((ServerOp::Info(info), length)) => {
                    let info = serde_json::from_slice(info)
                        .map_err(|error| ProtocolError::Info(error.to_string()))?;
                    self.consume(length);
                    return Ok(info);
                }
                Some((ServerOp::Error(text), _)) => return Err(self.error(text)),
                Some(_) => return Err(ProtocolError::NoInfo.into()),
                None => self.read_more().await?,
            }
        }
    }

    async fn upgraded(self, endpoint: &Endpoint, host: String) -> Result<Wire, WireError> {
        let Stream::Plain(tcp) = self.stream else { return Ok(self) };
        let config = tls::config(endpoint)?;
        let name = ServerName::try_from(host).map_err(TlsSetupError::from)?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        Ok(Wire { stream: Stream::Tls(Box::new(tls)), start: 0, end: 0, ..self })
    }

    /// The next operation and its length, if it is complete.
    ///
    /// # Errors
    /// [`WireError::Protocol`].
    pub(super) fn next_op(&self) -> Result<Option<(ServerOp<'_>, usize)>, WireError> {
        Ok(parse(&self.buffer[self.start..self.end])?)
    }

    /// Drops an operation of this length.
    pub(super) fn consume(&mut self, length: usize) {
        self.start += length;
    }

    /// Reads more. Cancel-safe.
    pub(super) async fn read_more(&mut self) -> Result<(), WireError> {
        poll_fn(|cx| self.poll_read_more(cx)).await
    }

    pub(super) fn poll_read_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            if self.end >= MAX_BYTES {
                return Poll::Ready(Err(ProtocolError::Endless.into()));
            }
            self.buffer.resize(self.end * 2, 0);
        }
        let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
        ready!(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, &mut room),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, &mut room),
        })?;
        let read = room.filled().len();
        self.end += read;
        if read == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "NATS closed the connection",
            )
            .into()));
        }
        Poll::Ready(Ok(()))
    }

    /// The error for a server's text.
    pub(super) fn error(&self, text: &[u8]) -> WireError {
        let text = String::from_utf8_lossy(text);
        let text = text.trim_start_matches("-ERR").trim().trim_matches('\'');
        match Denied::parse(text) {
            Some(denied) => {
                self.denials.note(&denied);
                WireError::Denied(denied)
            }
            None => WireError::Server(text.to_owned()),
        }
    }

    /// Sends all of `bytes`.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes).await?,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await?;
            }
        }
        Ok(())
    }

    /// Sends some of `bytes`; returns how many.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, WireError>> {
        let sent = match &mut self.stream {
            Stream::Plain(stream) => ready!(Pin::new(stream).poll_write(cx, bytes)),
            Stream::Tls(stream) => ready!(Pin::new(stream).poll_write(cx, bytes)),
        };
        Poll::Ready(sent.map_err(WireError::from))
    }

    /// Sends the bytes that TLS has buffered.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        match &mut self.stream {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx).map_err(WireError::from),
        }
    }
}

/// The JSON of CONNECT.
async fn login(auth: &Auth, nonce: Option<&str>) -> Result<String, WireError> {
    let login = auth.login(nonce.unwrap_or_default().as_bytes()).await?;
    let fields = [
        ("user", login.user),
        ("pass", login.password),
        ("auth_token", login.token),
        ("jwt", login.jwt),
        ("nkey", login.nkey),
        ("sig", login.signature.map(|signature| BASE64_URL_SAFE_NO_PAD.encode(signature))),
    ];
    let mut connect = json!({
        "verbose": false,
        "pedantic": false,
        "headers": true,
        "no_responders": true,
        "protocol": 1,
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "name": "jetway log",
    });
    for (name, value) in fields {
        if let Some(value) = value {
            connect[name] = value.into();
        }
    }
    Ok(connect.to_string())
}
