//! `jetway health`: asks a server whether it is healthy. An image without a shell has nothing else to ask
//! with.

use super::runtime::{RuntimeError, block_on};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use url::Url;

/// The URL of a server with default flags.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:2379";
/// A server that loads its data answers no linearizable read for so long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A server that is not healthy, or cannot be asked.
#[derive(Debug, Error)]
pub(super) enum HealthError {
    #[error("{0}: expected http://host:port; over TLS ask a port of --listen-metrics-urls that is without")]
    Url(String),
    #[error("{url} cannot be asked: {reason}; give the URL of a port that serves /health")]
    Unreachable { url: Url, reason: String },
    #[error("{url} has not answered within {TIMEOUT:?}")]
    Silent { url: Url },
    #[error("{url} is not healthy: {answer}")]
    Unhealthy { url: Url, answer: String },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Asks a server. Returns its answer if it is healthy.
///
/// # Errors
/// [`HealthError`].
pub(super) fn ask(text: &str) -> Result<String, HealthError> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "http" && url.has_host());
    let url =
        url.and_then(|url| url.join("/health").ok()).ok_or_else(|| HealthError::Url(text.to_owned()))?;
    let unreachable = |error: &dyn std::error::Error| HealthError::Unreachable {
        url: url.clone(),
        reason: error.to_string(),
    };
    match block_on(async { tokio::time::timeout(TIMEOUT, get(&url)).await })? {
        Err(_) => Err(HealthError::Silent { url }),
        Ok(Err(error)) => Err(unreachable(&*error)),
        Ok(Ok((true, answer))) => Ok(answer),
        Ok(Ok((false, answer))) => Err(HealthError::Unhealthy { url, answer }),
    }
}

/// Whether the status of the answer is a success, and the answer.
async fn get(url: &Url) -> Result<(bool, String), Box<dyn std::error::Error>> {
    let address = url.socket_addrs(|| None)?;
    let stream = TcpStream::connect(&address[..]).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(url.path()).header(http::header::HOST, url.authority());
    let request = request.body(Empty::<Bytes>::new())?;
    let asked = async {
        let response = sender.send_request(request).await?;
        let is_success = response.status().is_success();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((is_success, String::from_utf8_lossy(&body).trim().to_owned()))
    };
    tokio::select! {
        answer = asked => answer,
        // The connection may end before its answer is read from the channel.
        Err(error) = connection => Err(error.into()),
    }
}
