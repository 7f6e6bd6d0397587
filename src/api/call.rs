//! Calls of any service that ask for a leader (`hasleader` in their metadata).

use crate::error::EtcdError;
use futures_util::future::{Either, Ready, ready};
use http::{HeaderMap, Request, Response};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Time after which a stream that asked for a leader ends without one.
const NO_LEADER_TIMEOUT: Duration =
    if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(3) };

/// Whether a call asks for a leader.
pub(super) fn wants_leader(metadata: &HeaderMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value == "true")
}

/// Resolves when the leader that a stream asked for has been away for three seconds; never if it asked for
/// none.
pub(super) async fn leader_lost(has_leader: Option<watch::Receiver<bool>>) {
    let Some(mut has_leader) = has_leader else { return std::future::pending().await };
    loop {
        if has_leader.wait_for(|has_leader| !has_leader).await.is_err() {
            // The sender is gone, since the server stops.
            return std::future::pending().await;
        }
        if tokio::time::timeout(NO_LEADER_TIMEOUT, has_leader.wait_for(|has_leader| *has_leader))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// The layer that refuses calls that want a leader while there is none.
#[derive(Clone, Debug)]
pub(crate) struct RequireLeader {
    /// Whether there is a leader now.
    pub has_leader: watch::Receiver<bool>,
}

impl<S> Layer<S> for RequireLeader {
    type Service = LeaderRequired<S>;

    fn layer(&self, inner: S) -> LeaderRequired<S> {
        LeaderRequired { inner, has_leader: self.has_leader.clone() }
    }
}

/// A service behind [`RequireLeader`].
#[derive(Clone, Debug)]
pub(crate) struct LeaderRequired<S> {
    inner: S,
    has_leader: watch::Receiver<bool>,
}

impl<S, B> Service<Request<B>> for LeaderRequired<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if wants_leader(request.headers()) && !*self.has_leader.borrow() {
            let refusal = Status::from(EtcdError::NoLeader).into_http();
            return Either::Right(ready(Ok(refusal)));
        }
        Either::Left(self.inner.call(request))
    }
}
