//! Passes the requests of a port to the gRPC services, to the HTTP routes or to the probes.
//!
//! The ports are open before the start is complete. gRPC calls wait here until it is, for as long as a
//! request may take. In a cluster their connections open only then, as in etcd. HTTP requests do not wait;
//! their responses have the progress of the start.

use super::grpc::not_grpc;
use super::http::{HttpRoutes, refuse_head, starting};
use super::listener::Security;
use super::services::GrpcServices;
use crate::error::EtcdError;
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
pub(crate) enum Stage {
    /// The step that is under way.
    Starting(String),
    /// The start is complete.
    Ready(Endpoints),
}

/// The services behind all ports.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    /// The gRPC services.
    pub(crate) grpc: GrpcServices,
    /// All routes of plain HTTP.
    pub(crate) http: HttpRoutes,
    /// Metrics and probes alone.
    pub(crate) probes: Router,
}

/// The purpose of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// gRPC, and plain HTTP beside it.
    Clients,
    /// gRPC alone, since plain HTTP has ports of its own.
    Grpc,
    /// Plain HTTP alone.
    Http,
    /// Metrics and probes.
    Probes,
}

/// The service of one port.
#[derive(Clone, Debug)]
pub(crate) struct Dispatcher {
    stage: watch::Receiver<Stage>,
    purpose: Purpose,
}

impl Dispatcher {
    pub(crate) fn new(stage: watch::Receiver<Stage>, purpose: Purpose) -> Dispatcher {
        Dispatcher { stage, purpose }
    }

    fn is_call(&self, request: &Request<Body>) -> bool {
        matches!(self.purpose, Purpose::Clients | Purpose::Grpc) && is_grpc(request)
    }
}

/// Whether a request is a gRPC call. Other requests for the path of a method are answered as those for any
/// unknown path.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Endpoints {
    fn respond(&self, purpose: Purpose, request: Request<Body>) -> ResponseFuture {
        let is_http2 = request.version() == Version::HTTP_2;
        let is_plain = request.extensions().get::<Security>() == Some(&Security::Plain);
        match purpose {
            Purpose::Clients | Purpose::Grpc if is_grpc(&request) => self.grpc.clone().call(request),
            // HTTP/2 without TLS is for gRPC only.
            Purpose::Clients | Purpose::Grpc if is_http2 && (is_plain || purpose == Purpose::Grpc) => {
                ready(not_grpc(request.headers().get(header::CONTENT_TYPE)))
            }
            Purpose::Grpc => {
                let mut response = Response::new(Body::from(
                    "this port is for gRPC, which is HTTP/2; HTTP is served on --listen-client-http-urls\n",
                ));
                *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
                ready(response)
            }
            Purpose::Clients | Purpose::Http => {
                let http = self.http.clone();
                Box::pin(async move { Ok(http.respond(request).await) })
            }
            Purpose::Probes => Box::pin(self.probes.clone().oneshot(request)),
        }
    }
}

fn ready(response: Response<Body>) -> ResponseFuture {
    Box::pin(std::future::ready(Ok(response)))
}

impl Service<Request<Body>> for Dispatcher {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let purpose = self.purpose;
        if let Some(refusal) = refuse_head(&request) {
            return ready(refusal);
        }
        if let Stage::Ready(endpoints) = &*self.stage.borrow() {
            return endpoints.respond(purpose, request);
        }
        let mut stage = self.stage.clone();
        if !self.is_call(&request) {
            return ready(starting(&request, &step(&stage)));
        }
        Box::pin(async move {
            let complete = async {
                let stage = stage.wait_for(|stage| matches!(stage, Stage::Ready(_))).await.ok()?;
                match &*stage {
                    Stage::Ready(endpoints) => Some(endpoints.clone()),
                    Stage::Starting(_) => None,
                }
            };
            let endpoints =
                tokio::time::timeout(crate::engine::REQUEST_TIMEOUT, complete).await.ok().flatten();
            if let Some(endpoints) = endpoints {
                return endpoints.respond(purpose, request).await;
            }
            let reason = format!("still starting: {}", step(&stage));
            Ok(tonic::Status::from(EtcdError::Unavailable(reason)).into_http())
        })
    }
}

/// The step that the start is at.
fn step(stage: &watch::Receiver<Stage>) -> String {
    match &*stage.borrow() {
        Stage::Starting(step) => step.clone(),
        // It became ready just now, or the start was given up.
        Stage::Ready(_) => "nearly done".to_owned(),
    }
}
