//! Counts gRPC calls by method and outcome, and puts tonic's own refusals into grpc-go's words.
//!
//! The outcome of a call stands in the headers of an answer without a body, else in the trailers after it.

use crate::error::EtcdError;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prometheus::{IntCounter, IntCounterVec, Opts};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::{Code, Status};
use tower::{Layer, Service};

const UNARY: &str = "unary";
const SERVER_STREAM: &str = "server_stream";
const BIDI_STREAM: &str = "bidi_stream";

/// Every method, so that each has its series from the start.
const METHODS: &[(&str, &[(&str, &str)])] = &[
    (
        "etcdserverpb.KV",
        &[
            ("Range", UNARY),
            ("RangeStream", SERVER_STREAM),
            ("Put", UNARY),
            ("DeleteRange", UNARY),
            ("Txn", UNARY),
            ("Compact", UNARY),
        ],
    ),
    ("etcdserverpb.Watch", &[("Watch", BIDI_STREAM)]),
    (
        "etcdserverpb.Lease",
        &[
            ("LeaseGrant", UNARY),
            ("LeaseRevoke", UNARY),
            ("LeaseKeepAlive", BIDI_STREAM),
            ("LeaseTimeToLive", UNARY),
            ("LeaseLeases", UNARY),
        ],
    ),
    (
        "etcdserverpb.Cluster",
        &[
            ("MemberAdd", UNARY),
            ("MemberRemove", UNARY),
            ("MemberUpdate", UNARY),
            ("MemberList", UNARY),
            ("MemberPromote", UNARY),
        ],
    ),
    (
        "etcdserverpb.Maintenance",
        &[
            ("Alarm", UNARY),
            ("Status", UNARY),
            ("Defragment", UNARY),
            ("Hash", UNARY),
            ("HashKV", UNARY),
            ("Snapshot", SERVER_STREAM),
            ("MoveLeader", UNARY),
            ("Downgrade", UNARY),
        ],
    ),
    (
        "etcdserverpb.Auth",
        &[
            ("AuthEnable", UNARY),
            ("AuthDisable", UNARY),
            ("AuthStatus", UNARY),
            ("Authenticate", UNARY),
            ("UserAdd", UNARY),
            ("UserGet", UNARY),
            ("UserList", UNARY),
            ("UserDelete", UNARY),
            ("UserChangePassword", UNARY),
            ("UserGrantRole", UNARY),
            ("UserRevokeRole", UNARY),
            ("RoleAdd", UNARY),
            ("RoleGet", UNARY),
            ("RoleList", UNARY),
            ("RoleDelete", UNARY),
            ("RoleGrantPermission", UNARY),
            ("RoleRevokePermission", UNARY),
        ],
    ),
    ("v3lockpb.Lock", &[("Lock", UNARY), ("Unlock", UNARY)]),
    (
        "v3electionpb.Election",
        &[
            ("Campaign", UNARY),
            ("Proclaim", UNARY),
            ("Leader", UNARY),
            ("Observe", SERVER_STREAM),
            ("Resign", UNARY),
        ],
    ),
    ("grpc.health.v1.Health", &[("Check", UNARY), ("Watch", SERVER_STREAM)]),
];

const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

#[derive(Debug)]
struct Method {
    started: IntCounter,
    handled: Vec<IntCounter>,
}

/// Counters of every method.
#[derive(Clone, Debug)]
pub struct GrpcCalls {
    started: IntCounterVec,
    handled: IntCounterVec,
    methods: Arc<HashMap<String, Method>>,
}

impl GrpcCalls {
    /// All at zero.
    pub fn new() -> GrpcCalls {
        let labels = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let vec = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a legal name")
        };
        let started = vec("grpc_server_started_total", "Calls started.", &labels[..3]);
        let handled = vec("grpc_server_handled_total", "Calls ended, by code.", &labels);
        let mut methods = HashMap::new();
        for (service, names) in METHODS {
            for (name, kind) in *names {
                let method = Method {
                    started: started.with_label_values(&[*kind, *service, *name]),
                    handled: CODES
                        .iter()
                        .map(|code| handled.with_label_values(&[*kind, *service, *name, *code]))
                        .collect(),
                };
                methods.insert(format!("/{service}/{name}"), method);
            }
        }
        GrpcCalls { started, handled, methods: Arc::new(methods) }
    }

    pub(super) fn collectors(&self) -> Vec<IntCounterVec> {
        vec![self.started.clone(), self.handled.clone()]
    }

    fn start(&self, path: &str) -> Call {
        let handled = self.methods.get(path).map(|method| {
            method.started.inc();
            method.handled.clone()
        });
        Call { handled }
    }
}

impl Default for GrpcCalls {
    fn default() -> GrpcCalls {
        GrpcCalls::new()
    }
}

/// A call under way. One that is dropped without an outcome was cancelled by its client.
#[derive(Debug)]
struct Call {
    handled: Option<Vec<IntCounter>>,
}

impl Call {
    fn end(&mut self, code: Code) {
        if let Some(counter) = self.handled.take().and_then(|handled| handled.into_iter().nth(code as usize))
        {
            counter.inc();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The layer that counts.
#[derive(Clone, Debug)]
pub struct CountCalls {
    /// Where to.
    pub calls: GrpcCalls,
}

impl<S> Layer<S> for CountCalls {
    type Service = CountingService<S>;

    fn layer(&self, inner: S) -> CountingService<S> {
        CountingService { inner, calls: self.calls.clone() }
    }
}

/// A service whose gRPC calls are counted.
#[derive(Clone, Debug)]
pub struct CountingService<S> {
    inner: S,
    calls: GrpcCalls,
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

impl<S> Service<Request<Body>> for CountingService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !is_grpc(request.headers()) {
            return Box::pin(self.inner.call(request));
        }
        // tonic answers a method it does not know without a word.
        if !self.calls.methods.contains_key(request.uri().path()) {
            let refusal = unknown(request.uri().path()).into_http();
            return Box::pin(async move { Ok(refusal) });
        }
        let version = request.headers().get("client-api-version");
        if version.is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err()) {
            let refusal = Status::from(EtcdError::InvalidClientApiVersion).into_http();
            return Box::pin(async move { Ok(refusal) });
        }
        let mut call = self.calls.start(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            if let Some(code) = outcome(response.headers()) {
                translate(response.headers_mut());
                call.end(outcome(response.headers()).unwrap_or(code));
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(CountedBody { body, call })))
        })
    }
}

/// grpc-go's answer to what is not there; clients tell missing features by it.
fn unknown(path: &str) -> Status {
    Status::unimplemented(match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        Some((service, method)) if METHODS.iter().any(|(known, _)| *known == service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    })
}

fn outcome(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// tonic's refusal of a large message in etcd's words and with its code.
fn translate(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    let numbers = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")
        .and_then(|rest| rest.strip_suffix(" bytes"))
        .and_then(|rest| rest.split_once(" bytes, the limit is: "));
    let Some((size, limit)) =
        numbers.and_then(|(size, limit)| Some((size.parse().ok()?, limit.parse().ok()?)))
    else {
        return;
    };
    let status = Status::from(EtcdError::MessageTooLarge { size, limit });
    headers.remove(Status::GRPC_STATUS);
    headers.remove(Status::GRPC_MESSAGE);
    if status.add_header(headers).is_err() {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from_static("8"));
    }
}

/// A body that tells its call's outcome at the end.
#[derive(Debug)]
struct CountedBody {
    body: Body,
    call: Call,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            translate(trailers);
            if let Some(code) = outcome(trailers) {
                self.call.end(code);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
