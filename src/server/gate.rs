//! The port is open before there is anything to serve: calls wait here for the start to finish, but not for ever.

use crate::error::EtcdError;
use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode, header};
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

fn not_yet(request: &Request<Body>, doing: &str) -> Response<Body> {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return tonic::Status::from(EtcdError::Unavailable(format!("still starting: {doing}"))).into_http();
    }
    let mut response = Response::new(Body::from(format!("[-]start failed: {doing}\n")));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
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
            let doing = match &*stage.borrow() {
                Stage::Starting(doing) => doing.clone(),
                Stage::Ready(_) => "stopping".to_owned(),
            };
            Ok(not_yet(&request, &doing))
        })
    }
}
