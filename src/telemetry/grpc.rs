//! The outermost layer of every gRPC call: counts calls by method and outcome, ends those whose time is over, and puts
//! tonic's own refusals into grpc-go's words.
//!
//! The outcome of a call stands in the headers of an answer without a body, else in the trailers after it. Messages
//! are counted by their frames, as they pass in either direction. Calls that grpc-go refuses by their headers alone are
//! not counted, as in etcd.

use super::deadline;
use super::frames::{CountedRequest, FrameCounter, Traffic};
use super::wording::{self, Kind, put_status, translate, unknown};
use crate::error::EtcdError;
use arc_swap::ArcSwapOption;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method as HttpMethod, Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use tonic::{Code, Status};
use tower::{Layer, Service};

const UNARY: Kind = Kind::Unary;
const SERVER_STREAM: Kind = Kind::ServerStream;
const BIDI_STREAM: Kind = Kind::BidiStream;

/// Every method, so that each has its series from the start.
const METHODS: &[(&str, &[(&str, Kind)])] = &[
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
    ("grpc.health.v1.Health", &[("Check", UNARY), ("List", UNARY), ("Watch", SERVER_STREAM)]),
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
const TIMED: &[(&str, &str, &str)] = &[
    ("etcdserverpb.KV", "Range", "Range"),
    ("etcdserverpb.KV", "Put", "Put"),
    ("etcdserverpb.KV", "DeleteRange", "DeleteRange"),
    ("etcdserverpb.KV", "Txn", "Txn"),
    ("etcdserverpb.KV", "Compact", "Compaction"),
    ("etcdserverpb.Lease", "LeaseGrant", "LeaseGrant"),
    ("etcdserverpb.Lease", "LeaseRevoke", "LeaseRevoke"),
    ("etcdserverpb.Maintenance", "Alarm", "Alarm"),
    ("etcdserverpb.Auth", "AuthEnable", "AuthEnable"),
    ("etcdserverpb.Auth", "AuthDisable", "AuthDisable"),
    ("etcdserverpb.Auth", "AuthStatus", "AuthStatus"),
    ("etcdserverpb.Auth", "Authenticate", "Authenticate"),
    ("etcdserverpb.Auth", "UserAdd", "AuthUserAdd"),
    ("etcdserverpb.Auth", "UserGet", "AuthUserGet"),
    ("etcdserverpb.Auth", "UserList", "AuthUserList"),
    ("etcdserverpb.Auth", "UserDelete", "AuthUserDelete"),
    ("etcdserverpb.Auth", "UserChangePassword", "AuthUserChangePassword"),
    ("etcdserverpb.Auth", "UserGrantRole", "AuthUserGrantRole"),
    ("etcdserverpb.Auth", "UserRevokeRole", "AuthUserRevokeRole"),
    ("etcdserverpb.Auth", "RoleAdd", "AuthRoleAdd"),
    ("etcdserverpb.Auth", "RoleGet", "AuthRoleGet"),
    ("etcdserverpb.Auth", "RoleList", "AuthRoleList"),
    ("etcdserverpb.Auth", "RoleDelete", "AuthRoleDelete"),
    ("etcdserverpb.Auth", "RoleGrantPermission", "AuthRoleGrantPermission"),
    ("etcdserverpb.Auth", "RoleRevokePermission", "AuthRoleRevokePermission"),
];

/// Calls that etcd times as work of its storage, with the series, its first bucket in seconds and how many there are.
const STORAGE_WORK: &[(&str, &str, &str, f64, usize)] = &[
    ("Defragment", "etcd_disk_backend_defrag_duration_seconds", "Time that Defragment took.", 0.1, 13),
    ("Hash", "etcd_mvcc_hash_duration_seconds", "Time that Hash took.", 0.01, 15),
    ("HashKV", "etcd_mvcc_hash_rev_duration_seconds", "Time that HashKV took.", 0.01, 15),
    ("Snapshot", "etcd_disk_backend_snapshot_duration_seconds", "Time that Snapshot took.", 0.01, 17),
];

/// Label of calls whose client does not tell its version, and of those that tell something else.
const UNKNOWN_VERSION: &str = "unknown";

#[derive(Debug)]
struct Method {
    path: String,
    kind: Kind,
    started: IntCounter,
    handled: Vec<IntCounter>,
    received: Traffic,
    sent: Traffic,
    /// Durations as a request to the store, by its name there and whether it succeeded: etcd shows those there were.
    durations: Option<Durations>,
    /// Durations of every call, where they are wanted.
    handling: Option<Histogram>,
    /// Durations as work of the storage.
    storage_work: Option<Histogram>,
}

impl Method {
    fn observe(&self, code: Code, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if let Some(durations) = &self.durations
            && let Some(success) = success(durations.name, code)
        {
            durations.series(success).observe(seconds);
        }
        if let Some(handling) = &self.handling {
            handling.observe(seconds);
        }
        if let Some(work) = self.storage_work.as_ref().filter(|_| code == Code::Ok) {
            work.observe(seconds);
        }
    }
}

#[derive(Debug)]
struct Durations {
    name: &'static str,
    all: HistogramVec,
    /// Of what failed, and of what did not.
    series: [OnceLock<Histogram>; 2],
}

impl Durations {
    fn series(&self, success: bool) -> &Histogram {
        let label = if success { "true" } else { "false" };
        self.series[usize::from(success)].get_or_init(|| self.all.with_label_values(&[self.name, label]))
    }
}

/// Whether etcd counts a request to its store as a success; none for what is refused before it gets there. What a request
/// says about itself once it is carried out, as that there is no such lease, is a success of the store.
fn success(name: &str, code: Code) -> Option<bool> {
    match code {
        Code::Ok => Some(true),
        Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => None,
        _ if name == "Range" => Some(false),
        Code::NotFound | Code::FailedPrecondition | Code::OutOfRange | Code::AlreadyExists => Some(true),
        _ => Some(false),
    }
}

#[derive(Debug)]
struct Counters {
    collectors: Vec<IntCounterVec>,
    bytes: [IntCounter; 2],
    durations: Vec<HistogramVec>,
    storage_work: Vec<Histogram>,
    clients: IntCounterVec,
    /// The series of `clients` for the version that was told last, by whether the call is unary: nearly all clients are
    /// of one version, and finding a series takes a lock.
    last_client: [ArcSwapOption<(String, IntCounter)>; 2],
    methods: HashMap<String, Arc<Method>>,
}

/// Counters of every method. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GrpcCalls {
    counters: Arc<Counters>,
}

impl GrpcCalls {
    /// All at zero. `extensive` adds a histogram of every method's durations.
    pub fn new(extensive: bool) -> GrpcCalls {
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
        let handling = HistogramVec::new(
            HistogramOpts::new("grpc_server_handling_seconds", "Time until a call ended."),
            &labels[..3],
        )
        .expect("a legal name");
        let storage_work: Vec<Histogram> = STORAGE_WORK
            .iter()
            .map(|(_, name, help, first, count)| {
                let buckets = prometheus::exponential_buckets(*first, 2.0, *count).expect("legal buckets");
                Histogram::with_opts(HistogramOpts::new(*name, *help).buckets(buckets)).expect("a legal name")
            })
            .collect();
        let mut methods = HashMap::new();
        for (service, names) in METHODS {
            for (name, kind) in *names {
                let labels = [kind.label(), *service, *name];
                let timed = TIMED.iter().find(|(of, method, _)| (of, method) == (service, name));
                let work = STORAGE_WORK.iter().position(|(method, ..)| method == name);
                let path = format!("/{service}/{name}");
                let method = Method {
                    path: path.clone(),
                    kind: *kind,
                    started: started.with_label_values(&labels),
                    handled: CODES
                        .iter()
                        .map(|code| handled.with_label_values(&[kind.label(), *service, *name, *code]))
                        .collect(),
                    received: Traffic {
                        messages: received.with_label_values(&labels),
                        bytes: received_bytes.clone(),
                    },
                    sent: Traffic { messages: sent.with_label_values(&labels), bytes: sent_bytes.clone() },
                    durations: timed.map(|(.., name)| Durations {
                        name,
                        all: durations.clone(),
                        series: [const { OnceLock::new() }; 2],
                    }),
                    handling: extensive.then(|| handling.with_label_values(&labels)),
                    storage_work: work.map(|at| storage_work[at].clone()),
                };
                methods.insert(path, Arc::new(method));
            }
        }
        let durations = if extensive { vec![durations, handling] } else { vec![durations] };
        let counters = Counters {
            collectors: vec![started, handled, received, sent, clients.clone()],
            bytes: [received_bytes, sent_bytes],
            durations,
            storage_work,
            clients,
            last_client: Default::default(),
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
        for durations in &self.counters.durations {
            collectors.push(Box::new(durations.clone()));
        }
        for work in &self.counters.storage_work {
            collectors.push(Box::new(work.clone()));
        }
        collectors
    }

    fn count_client(&self, method: &Method, version: Option<&str>) {
        // The label is the client's to choose, but the number of series is not.
        let is_version = |version: &&str| {
            version.len() <= 8 && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        let version = version.filter(is_version).unwrap_or(UNKNOWN_VERSION);
        let is_unary = method.kind == Kind::Unary;
        let last = &self.counters.last_client[usize::from(is_unary)];
        if let Some((_, series)) = last.load().as_deref().filter(|(known, _)| known == version) {
            series.inc();
            return;
        }
        let kind = if is_unary { "unary" } else { "stream" };
        let series = self.counters.clients.with_label_values(&[kind, version]);
        series.inc();
        last.store(Some(Arc::new((version.to_owned(), series))));
    }
}

/// A call under way. One that is dropped without an outcome was cancelled by its client.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    started: Instant,
    /// A unary call that takes longer is told.
    slow: Duration,
    has_ended: bool,
}

impl Call {
    fn start(method: &Arc<Method>, slow: Duration) -> Call {
        method.started.inc();
        Call { method: Arc::clone(method), started: Instant::now(), slow, has_ended: false }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        self.method.handled[code as usize].inc();
        let elapsed = self.started.elapsed();
        self.method.observe(code, elapsed);
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

/// The layer that counts.
#[derive(Clone, Debug)]
pub struct CountCalls {
    /// Where to.
    pub calls: GrpcCalls,
    /// Unary calls that take longer are told in the log.
    pub slow: Duration,
}

impl<S> Layer<S> for CountCalls {
    type Service = CountingService<S>;

    fn layer(&self, inner: S) -> CountingService<S> {
        CountingService { inner, calls: self.calls.clone(), slow: self.slow }
    }
}

/// A service whose gRPC calls are counted.
#[derive(Clone, Debug)]
pub struct CountingService<S> {
    inner: S,
    calls: GrpcCalls,
    slow: Duration,
}

impl<S> Service<Request<Body>> for CountingService<S>
where
    S: Service<Request<CountedRequest>, Response = Response<tonic::body::Body>> + Clone + Send + 'static,
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
        let deadline = match deadline::of_call(request.headers()) {
            Ok(deadline) => deadline,
            Err(reason) => return answered(wording::wrong_timeout(&reason)),
        };
        if request.method() != HttpMethod::POST {
            return answered(wording::wrong_http_method(request.method()));
        }
        // tonic answers a method it does not know without a word.
        let Some(method) = self.calls.counters.methods.get(request.uri().path()) else {
            let is_service = |name: &str| METHODS.iter().any(|(known, _)| *known == name);
            return answered(unknown(request.uri().path(), is_service).into_http());
        };
        let version = request.headers().get("client-api-version");
        let version = version.map(|version| std::str::from_utf8(version.as_bytes()));
        let Ok(version) = version.transpose() else {
            return answered(Status::from(EtcdError::InvalidClientApiVersion).into_http());
        };
        self.calls.count_client(method, version);
        let mut call = Call::start(method, self.slow);
        let frames = FrameCounter::new(method.received.clone());
        let request = request.map(|body| CountedRequest::new(body, frames));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = match deadline {
                None => answer.await?,
                Some(deadline) => {
                    tokio::select! {
                        biased;
                        () = deadline::passes(deadline) => deadline::exceeded().into_http(),
                        response = answer => response?,
                    }
                }
            };
            if outcome(response.headers()).is_some() {
                translate(response.headers_mut(), call.method.kind);
                if call.method.kind == Kind::Unary {
                    // The status of a call that has one answer counts as that answer, as it does in etcd.
                    call.method.sent.messages.inc();
                }
                call.end(outcome(response.headers()).unwrap_or(Code::Unknown));
                return Ok(response.map(Body::new));
            }
            let frames = FrameCounter::new(call.method.sent.clone());
            let time_is_over = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
            Ok(response.map(|body| Body::new(CountedAnswer { body, call, frames, time_is_over })))
        })
    }
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

fn answered<E: Send + 'static>(response: Response<Body>) -> Answer<E> {
    Box::pin(std::future::ready(Ok(response)))
}

fn outcome(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// The body of an answer; it tells its call's outcome at the end.
#[derive(Debug)]
struct CountedAnswer {
    body: tonic::body::Body,
    call: Call,
    frames: FrameCounter,
    time_is_over: Option<Pin<Box<Sleep>>>,
}

impl CountedAnswer {
    /// The end that a deadline puts to an answer; the rest of it is dropped, and so is the call behind it.
    fn cut(&mut self) -> Frame<Bytes> {
        self.body = tonic::body::Body::empty();
        self.time_is_over = None;
        let status = deadline::exceeded();
        self.call.end(status.code());
        let mut trailers = HeaderMap::new();
        put_status(&mut trailers, &status);
        Frame::trailers(trailers)
    }
}

impl HttpBody for CountedAnswer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(context);
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.frames.pass(data);
                } else if let Some(trailers) = frame.trailers_mut() {
                    translate(trailers, self.call.method.kind);
                    if let Some(code) = outcome(trailers) {
                        self.call.end(code);
                    }
                }
            }
            Poll::Ready(_) => {}
            Poll::Pending => {
                let sleep = self.time_is_over.as_mut();
                if sleep.is_some_and(|sleep| sleep.as_mut().poll(context).is_ready()) {
                    return Poll::Ready(Some(Ok(self.cut())));
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
