//! The port is open before there is anything to serve: calls wait here for the start to finish, but not for ever.
//! Probes and people do not wait; they are told how far the start is. Then it is told apart what a request is for.

use super::http::{Web, starting};
use super::listener::Transport;
use super::services::Calls;
use crate::error::EtcdError;
use crate::telemetry::not_grpc;
use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode, Version, header};
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
    Ready(Served),
}

/// What there is to ask for.
#[derive(Clone, Debug)]
pub(super) struct Served {
    /// The gRPC services.
    pub(super) grpc: Calls,
    /// All that etcd serves by plain HTTP.
    pub(super) web: Web,
    /// Metrics and probes alone.
    pub(super) probes: Router,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// gRPC, and plain HTTP beside it.
    Clients,
    /// gRPC alone, since plain HTTP has ports of its own.
    Grpc,
    /// Plain HTTP alone.
    Http,
    /// Metrics and probes.
    Probes,
}

/// Passes requests to what there will be.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    stage: watch::Receiver<Stage>,
    purpose: Purpose,
}

impl Gate {
    pub(super) fn new(stage: watch::Receiver<Stage>, purpose: Purpose) -> Gate {
        Gate { stage, purpose }
    }

    fn is_call(&self, request: &Request<Body>) -> bool {
        matches!(self.purpose, Purpose::Clients | Purpose::Grpc) && is_grpc(request)
    }
}

/// Whether a request is a gRPC call. Other requests for the path of a method are answered as those for any unknown path.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Served {
    fn answer(&self, purpose: Purpose, request: Request<Body>) -> Answer {
        let is_http2 = request.version() == Version::HTTP_2;
        let is_plain = request.extensions().get::<Transport>() == Some(&Transport::Plain);
        match purpose {
            Purpose::Clients | Purpose::Grpc if is_grpc(&request) => self.grpc.clone().call(request),
            // HTTP/2 without TLS is for gRPC only.
            Purpose::Clients | Purpose::Grpc if is_http2 && (is_plain || purpose == Purpose::Grpc) => {
                answered(not_grpc(request.headers().get(header::CONTENT_TYPE)))
            }
            Purpose::Grpc => {
                let mut response = Response::new(Body::from(
                    "this port is for gRPC, which is HTTP/2; HTTP is served on --listen-client-http-urls\n",
                ));
                *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
                answered(response)
            }
            Purpose::Clients | Purpose::Http => {
                let web = self.web.clone();
                Box::pin(async move { Ok(web.answer(request).await) })
            }
            Purpose::Probes => Box::pin(self.probes.clone().oneshot(request)),
        }
    }
}

fn answered(response: Response<Body>) -> Answer {
    Box::pin(std::future::ready(Ok(response)))
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let purpose = self.purpose;
        if let Stage::Ready(served) = &*self.stage.borrow() {
            return served.answer(purpose, request);
        }
        let mut stage = self.stage.clone();
        if !self.is_call(&request) {
            return answered(starting(&request, &doing(&stage)));
        }
        Box::pin(async move {
            let ready = async {
                let stage = stage.wait_for(|stage| matches!(stage, Stage::Ready(_))).await.ok()?;
                match &*stage {
                    Stage::Ready(served) => Some(served.clone()),
                    Stage::Starting(_) => None,
                }
            };
            let served = tokio::time::timeout(crate::engine::REQUEST_TIMEOUT, ready).await.ok().flatten();
            if let Some(served) = served {
                return served.answer(purpose, request).await;
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
