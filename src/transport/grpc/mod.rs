//! The outermost layer of every gRPC call. It counts calls by method and outcome, ends calls whose deadline
//! has passed, and puts tonic's own refusals into grpc-go's words.
//!
//! The outcome of a call stands in the headers of a response without a body, else in the trailers after the
//! body. Messages are counted by their frames, as they pass in either direction. Calls that grpc-go refuses
//! by their headers alone are not counted, as in etcd.
//!
//! tonic has a deadline of its own, `Server::timeout`, which reads `grpc-timeout` too. It belongs to tonic's
//! own accept loop, which is not used here (see [`listener`](super::listener)). It also stops at the headers
//! of a response, whereas grpc-go's deadline ends streams.

mod deadline;
mod frames;
mod methods;
mod response;
mod wording;

pub(super) use wording::not_grpc;

use crate::error::EtcdError;
use crate::telemetry::CallCounters;
use axum::body::Body;
use frames::{CountedRequest, FrameCounter};
use http::{HeaderMap, Method as HttpMethod, Request, Response};
use methods::{Kind, Method, Methods};
use response::CountedResponse;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tonic::{Code, Status};
use tower::{Layer, Service};

/// A call under way. A call that is dropped without an outcome was cancelled by its client.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    started: Instant,
    /// A unary call that takes longer is logged.
    slow: Duration,
    has_ended: bool,
}

impl Call {
    fn start(method: &Arc<Method>, client_version: Option<&str>, slow: Duration) -> Call {
        method.counters.start(client_version);
        Call { method: Arc::clone(method), started: Instant::now(), slow, has_ended: false }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let elapsed = self.started.elapsed();
        self.method.counters.end(code, elapsed);
        if self.method.kind == Kind::Unary && elapsed > self.slow {
            // The message and the field are those of etcd's line.
            tracing::warn!(
                "time spent" = format!("{elapsed:?}"),
                method = self.method.path,
                code = ?code,
                "request stats"
            );
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Puts the layer around services.
#[derive(Clone, Debug)]
pub(crate) struct CallLayer {
    methods: Arc<Methods>,
    slow: Duration,
}

impl CallLayer {
    /// Counts calls in `counters`. Unary calls that take longer than `slow` are logged.
    pub(crate) fn new(counters: &CallCounters, slow: Duration) -> CallLayer {
        CallLayer { methods: Arc::new(Methods::new(counters)), slow }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner, methods: Arc::clone(&self.methods), slow: self.slow }
    }
}

/// Services with the layer around them.
#[derive(Clone, Debug)]
pub(crate) struct CallService<S> {
    inner: S,
    methods: Arc<Methods>,
    slow: Duration,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<CountedRequest>, Response = Response<tonic::body::Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let deadline = match deadline::of_call(request.headers()) {
            Ok(deadline) => deadline,
            Err(error) => return ready(wording::wrong_timeout(&error)),
        };
        if request.method() != HttpMethod::POST {
            return ready(wording::wrong_http_method(request.method()));
        }
        // tonic's own refusal of an unknown method has no text.
        let Some(method) = self.methods.find(request.uri().path()) else {
            return ready(wording::unknown(request.uri().path(), methods::is_service).into_http());
        };
        let version = request.headers().get("client-api-version");
        let version = version.map(|version| std::str::from_utf8(version.as_bytes()));
        let Ok(version) = version.transpose() else {
            return ready(Status::from(EtcdError::InvalidClientApiVersion).into_http());
        };
        let mut call = Call::start(method, version, self.slow);
        let frames = FrameCounter::new(method.counters.received.clone());
        let request = request.map(|body| CountedRequest::new(body, frames));
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = match deadline {
                None => response.await?,
                Some(deadline) => {
                    tokio::select! {
                        biased;
                        () = deadline::passes(deadline) => deadline::exceeded().into_http(),
                        response = response => response?,
                    }
                }
            };
            if outcome(response.headers()).is_some() {
                wording::translate(response.headers_mut(), call.method.kind);
                if call.method.kind == Kind::Unary {
                    // A unary call without a body still counts as one message sent, as in etcd.
                    call.method.counters.sent.messages.inc();
                }
                call.end(outcome(response.headers()).unwrap_or(Code::Unknown));
                return Ok(response.map(Body::new));
            }
            Ok(response.map(|body| Body::new(CountedResponse::new(body, call, deadline))))
        })
    }
}

type ResponseFuture<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

fn ready<E: Send + 'static>(response: Response<Body>) -> ResponseFuture<E> {
    Box::pin(std::future::ready(Ok(response)))
}

fn outcome(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}
