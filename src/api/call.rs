//! What the metadata of a call asks for, whatever the call is: that there be a leader (`hasleader`), and an end to it
//! all at some time (`grpc-timeout`).
//!
//! A call whose time is over is dropped, as is one whose client has gone away, and with it all that it held.

use crate::error::EtcdError;
use axum::body::Body;
use futures_util::future::{Either, Ready, ready};
use http::{HeaderMap, Request, Response};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tonic::Status;
use tower::{Layer, Service};

/// How long a stream that asked for a leader outlives it.
const LEADER_LOSS: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(3) };

/// Whether a call wants a leader to be there.
pub(super) fn wants_leader(metadata: &HeaderMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value == "true")
}

/// Resolves when the leader that a stream asked for has been away for three seconds; never where it asked for none.
pub(super) async fn leader_lost(has_leader: Option<watch::Receiver<bool>>) {
    let Some(mut has_leader) = has_leader else { return std::future::pending().await };
    loop {
        if has_leader.wait_for(|has_leader| !has_leader).await.is_err() {
            // Nobody will tell any more; the server is going down.
            return std::future::pending().await;
        }
        if tokio::time::timeout(LEADER_LOSS, has_leader.wait_for(|has_leader| *has_leader)).await.is_err() {
            return;
        }
    }
}

/// The layer that heeds the metadata of every call.
#[derive(Clone, Debug)]
pub struct HeedMetadata {
    /// Whether there is a leader now.
    pub has_leader: watch::Receiver<bool>,
}

impl<S> Layer<S> for HeedMetadata {
    type Service = Heeding<S>;

    fn layer(&self, inner: S) -> Heeding<S> {
        Heeding { inner, has_leader: self.has_leader.clone() }
    }
}

/// A service behind [`HeedMetadata`].
#[derive(Clone, Debug)]
pub struct Heeding<S> {
    inner: S,
    has_leader: watch::Receiver<bool>,
}

type Refusal<E> = Ready<Result<Response<Body>, E>>;
type Timed<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S, B> Service<Request<B>> for Heeding<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Either<Refusal<S::Error>, Timed<S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if wants_leader(request.headers()) && !*self.has_leader.borrow() {
            let refusal = Status::from(EtcdError::NoLeader).into_http();
            return Either::Right(Either::Left(ready(Ok(refusal))));
        }
        let limit = request.headers().get("grpc-timeout").and_then(|text| timeout(text.to_str().ok()?));
        let answer = self.inner.call(request);
        match limit {
            None => Either::Left(answer),
            Some(limit) => Either::Right(Either::Right(Box::pin(async move {
                tokio::time::timeout(limit, answer)
                    .await
                    .unwrap_or_else(|_| Ok(Status::from(EtcdError::ContextDeadlineExceeded).into_http()))
            }))),
        }
    }
}

/// gRPC's form of a duration: up to eight digits and a unit. `None` for anything else.
fn timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = &text[..text.len() - unit.len_utf8()];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        assert_eq!(timeout("1H"), Some(Duration::from_hours(1)));
        assert_eq!(timeout("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(timeout("15m"), Some(Duration::from_millis(15)));
        assert_eq!(timeout("7n"), Some(Duration::from_nanos(7)));
        for text in ["", "S", "5", "5s", "-5S", "+5S", "999999999S", "5ü"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }
}
