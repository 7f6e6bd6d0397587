//! The port is open before there is anything to serve: calls wait here for the start to finish, but not for ever.
//! Probes and people do not wait; they are told how far the start is.

use super::http::{is_grpc, starting};
use crate::error::EtcdError;
use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::watch;
use tower::{Service, ServiceExt};

/// How far the start is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// What is being done.
    Starting(String),
    /// Everything is wired.
    Ready(Router),
}

/// Passes requests to the router that there will be.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    stage: watch::Receiver<Stage>,
}

impl Gate {
    pub(super) fn new(stage: watch::Receiver<Stage>) -> Gate {
        Gate { stage }
    }
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut stage = self.stage.clone();
        if let Stage::Ready(router) = &*stage.borrow() {
            return Box::pin(router.clone().oneshot(request));
        }
        Box::pin(async move {
            if !is_grpc(&request) {
                return Ok(starting(&request, &doing(&stage)));
            }
            let ready = async {
                let stage = stage.wait_for(|stage| matches!(stage, Stage::Ready(_))).await.ok()?;
                match &*stage {
                    Stage::Ready(router) => Some(router.clone()),
                    Stage::Starting(_) => None,
                }
            };
            let router = tokio::time::timeout(crate::engine::REQUEST_TIMEOUT, ready).await.ok().flatten();
            if let Some(router) = router {
                return router.oneshot(request).await;
            }
            let reason = format!("still starting: {}", doing(&stage));
            Ok(tonic::Status::from(EtcdError::Unavailable(reason)).into_http())
        })
    }
}

/// What the start is at.
fn doing(stage: &watch::Receiver<Stage>) -> String {
    match &*stage.borrow() {
        Stage::Starting(doing) => doing.clone(),
        // It became ready just now, or the start was given up.
        Stage::Ready(_) => "nearly done".to_owned(),
    }
}
