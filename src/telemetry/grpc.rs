//! Counts gRPC calls by method and outcome, and puts tonic's own refusals into grpc-go's words.
//!
//! The outcome of a call stands in the headers of an answer without a body, else in the trailers after it. Messages
//! are counted by their frames, as they pass in either direction.

use super::frames::{CountedRequest, FrameCounter, Traffic};
use crate::error::EtcdError;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
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

/// Calls that etcd times as requests to its store, and the names it has for them.
const TIMED: &[(&str, &str)] = &[
    ("Range", "Range"),
    ("Put", "Put"),
    ("DeleteRange", "DeleteRange"),
    ("Txn", "Txn"),
    ("Compact", "Compaction"),
    ("LeaseGrant", "LeaseGrant"),
    ("LeaseRevoke", "LeaseRevoke"),
];

/// Label of calls whose client does not tell its version, and of those that tell something else.
const UNKNOWN_VERSION: &str = "unknown";

#[derive(Debug)]
struct Method {
    kind: &'static str,
    started: IntCounter,
    handled: Vec<IntCounter>,
    received: Traffic,
    sent: Traffic,
    /// Durations of calls that failed, and of those that did not.
    durations: Option<[Histogram; 2]>,
}

#[derive(Debug)]
struct Counters {
    collectors: Vec<IntCounterVec>,
    bytes: [IntCounter; 2],
    durations: HistogramVec,
    clients: IntCounterVec,
    methods: HashMap<String, Arc<Method>>,
}

/// Counters of every method. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GrpcCalls {
    counters: Arc<Counters>,
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
        let received = vec("grpc_server_msg_received_total", "Messages received.", &labels[..3]);
        let sent = vec("grpc_server_msg_sent_total", "Messages sent.", &labels[..3]);
        let clients = vec(
            "etcd_server_client_requests_total",
            "Calls, by the version that the client says it has.",
            &["type", "client_api_version"],
        );
        let bytes = |name: &str, help: &str| IntCounter::new(name, help).expect("a legal name");
        let received_bytes =
            bytes("etcd_network_client_grpc_received_bytes_total", "Bytes of calls' messages.");
        let sent_bytes = bytes("etcd_network_client_grpc_sent_bytes_total", "Bytes of answers' messages.");
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 14).expect("legal buckets");
        let durations = HistogramVec::new(
            HistogramOpts::new("etcd_server_request_duration_seconds", "Time until a request was answered.")
                .buckets(buckets),
            &["type", "success"],
        )
        .expect("a legal name");
        let mut methods = HashMap::new();
        for (service, names) in METHODS {
            for (name, kind) in *names {
                let labels = [*kind, *service, *name];
                let timed = TIMED.iter().find(|(method, _)| method == name);
                let method = Method {
                    kind: if *kind == UNARY { "unary" } else { "stream" },
                    started: started.with_label_values(&labels),
                    handled: CODES
                        .iter()
                        .map(|code| handled.with_label_values(&[*kind, *service, *name, *code]))
                        .collect(),
                    received: Traffic {
                        messages: received.with_label_values(&labels),
                        bytes: received_bytes.clone(),
                    },
                    sent: Traffic { messages: sent.with_label_values(&labels), bytes: sent_bytes.clone() },
                    durations: timed.map(|(_, kind)| {
                        ["false", "true"].map(|success| durations.with_label_values(&[*kind, success]))
                    }),
                };
                methods.insert(format!("/{service}/{name}"), Arc::new(method));
            }
        }
        let counters = Counters {
            collectors: vec![started, handled, received, sent, clients.clone()],
            bytes: [received_bytes, sent_bytes],
            durations,
            clients,
            methods,
        };
        GrpcCalls { counters: Arc::new(counters) }
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let boxed = |collector: &IntCounterVec| Box::new(collector.clone()) as Box<dyn Collector>;
        let mut collectors: Vec<_> = self.counters.collectors.iter().map(boxed).collect();
        for bytes in &self.counters.bytes {
            collectors.push(Box::new(bytes.clone()));
        }
        collectors.push(Box::new(self.counters.durations.clone()));
        collectors
    }

    fn count_client(&self, method: &Method, version: Option<&str>) {
        // The label is the client's to choose, but the number of series is not.
        let is_version = |version: &&str| {
            version.len() <= 8 && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        let version = version.filter(is_version).unwrap_or(UNKNOWN_VERSION);
        self.counters.clients.with_label_values(&[method.kind, version]).inc();
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
    method: Arc<Method>,
    started: Instant,
    has_ended: bool,
}

impl Call {
    fn start(method: &Arc<Method>) -> Call {
        method.started.inc();
        Call { method: Arc::clone(method), started: Instant::now(), has_ended: false }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        self.method.handled[code as usize].inc();
        if let Some(durations) = &self.method.durations {
            durations[usize::from(code == Code::Ok)].observe(self.started.elapsed().as_secs_f64());
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

impl<S> Service<Request<Body>> for CountingService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // tonic answers a method it does not know without a word.
        let Some(method) = self.calls.counters.methods.get(request.uri().path()) else {
            return refuse(unknown(request.uri().path()));
        };
        let version = request.headers().get("client-api-version");
        let version = version.map(|version| std::str::from_utf8(version.as_bytes()));
        let Ok(version) = version.transpose() else {
            return refuse(EtcdError::InvalidClientApiVersion.into());
        };
        self.calls.count_client(method, version);
        let mut call = Call::start(method);
        let frames = FrameCounter::new(method.received.clone());
        let request = request.map(|body| Body::new(CountedRequest::new(body, frames)));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            if outcome(response.headers()).is_some() {
                translate(response.headers_mut(), call.method.kind == UNARY);
                if call.method.kind == UNARY {
                    // The status of a call that has one answer counts as that answer, as it does in etcd.
                    call.method.sent.messages.inc();
                }
                call.end(outcome(response.headers()).unwrap_or(Code::Unknown));
                return Ok(response);
            }
            let frames = FrameCounter::new(call.method.sent.clone());
            Ok(response.map(|body| Body::new(CountedAnswer { body, call, frames })))
        })
    }
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

fn refuse<E: Send + 'static>(status: Status) -> Answer<E> {
    Box::pin(std::future::ready(Ok(status.into_http())))
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

/// Refusals that tonic words in its own way, put into grpc-go's words and code.
fn translate(headers: &mut HeaderMap, is_unary: bool) {
    let status = Status::from_header_map(headers);
    let Some(status) = status.and_then(|status| in_words_of_grpc_go(&status, is_unary)) else {
        return;
    };
    headers.remove(Status::GRPC_STATUS);
    headers.remove(Status::GRPC_MESSAGE);
    if status.add_header(headers).is_err() {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
}

fn in_words_of_grpc_go(status: &Status, is_unary: bool) -> Option<Status> {
    // The health service's answer to a name it does not know.
    if (status.code(), status.message()) == (Code::NotFound, "service not registered") {
        return Some(Status::not_found("unknown service"));
    }
    let text = status.message();
    if let Some(reason) = text.strip_prefix("failed to decode Protobuf message: ") {
        let reason = if reason.ends_with("recursion limit reached") {
            "exceeded maximum recursion depth"
        } else {
            "cannot parse invalid wire-format data"
        };
        let what =
            if is_unary { "error unmarshalling request" } else { "failed to unmarshal the received message" };
        return Some(Status::internal(format!("grpc: {what}: proto: {reason}")));
    }
    if text.starts_with("protocol error: received message with compressed-flag but no grpc-encoding") {
        return Some(Status::internal("grpc: compressed flag set with identity or empty encoding"));
    }
    if let Some(flag) = text.strip_prefix("protocol error: received message with invalid compression flag: ")
    {
        let flag = flag.split(' ').next().unwrap_or_default();
        return Some(Status::internal(format!("grpc: received unexpected payload format {flag}")));
    }
    if text == "Unexpected EOF decoding stream." {
        let code = if is_unary { Code::Unknown } else { Code::Internal };
        return Some(Status::new(code, "unexpected EOF"));
    }
    if let Some(encoding) = text
        .strip_prefix("Content is compressed with `")
        .and_then(|text| text.strip_suffix("` which isn't supported"))
    {
        let text = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
        return Some(Status::unimplemented(text));
    }
    let (size, limit) = text
        .strip_prefix("Error, decoded message length too large: found ")?
        .strip_suffix(" bytes")?
        .split_once(" bytes, the limit is: ")?;
    let (size, limit) = (size.parse().ok()?, limit.parse().ok()?);
    Some(EtcdError::MessageTooLarge { size, limit }.into())
}

/// The body of an answer; it tells its call's outcome at the end.
#[derive(Debug)]
struct CountedAnswer {
    body: Body,
    call: Call,
    frames: FrameCounter,
}

impl HttpBody for CountedAnswer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled {
            if let Some(data) = frame.data_ref() {
                self.frames.pass(data);
            } else if let Some(trailers) = frame.trailers_mut() {
                translate(trailers, self.call.method.kind == UNARY);
                if let Some(code) = outcome(trailers) {
                    self.call.end(code);
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named_as_grpc_go_names_it() {
        for (path, text) in [
            ("/etcdserverpb.KV/Rnage", "unknown method Rnage for service etcdserverpb.KV"),
            ("/etcdserverpb.VK/Range", "unknown service etcdserverpb.VK"),
            ("/nothing", "malformed method name: \"/nothing\""),
        ] {
            let status = unknown(path);
            assert_eq!((status.code(), status.message()), (Code::Unimplemented, text));
        }
    }

    #[test]
    fn only_tonics_own_refusals_are_reworded() {
        let too_large = "Error, decoded message length too large: found 20 bytes, the limit is: 10 bytes";
        for (status, expected) in [
            (
                Status::internal("failed to decode Protobuf message: TxnRequest.compare: invalid varint"),
                Some((
                    Code::Internal,
                    "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
                )),
            ),
            (Status::internal("Unexpected EOF decoding stream."), Some((Code::Unknown, "unexpected EOF"))),
            (
                Status::out_of_range(too_large),
                Some((Code::ResourceExhausted, "grpc: received message larger than max (20 vs. 10)")),
            ),
            (Status::not_found("service not registered"), Some((Code::NotFound, "unknown service"))),
            (Status::not_found("etcdserver: requested lease not found"), None),
        ] {
            let mut headers = HeaderMap::new();
            status.add_header(&mut headers).expect("a legal message");
            translate(&mut headers, true);
            let answer = Status::from_header_map(&headers).expect("still a status");
            let expected = expected.unwrap_or((status.code(), status.message()));
            assert_eq!((answer.code(), answer.message()), expected);
        }
    }
}
