//! Counters of gRPC calls by method and outcome, under the names of go-grpc-prometheus and of etcd.

use arc_swap::ArcSwapOption;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tonic::Code;

/// Names of the codes, in the order of their numbers.
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

/// Methods that etcd times as work of its storage, with the series, its first bucket in seconds and the
/// number of buckets.
const STORAGE_WORK: [(&str, &str, &str, f64, usize); 4] = [
    ("Defragment", "etcd_disk_backend_defrag_duration_seconds", "Time that Defragment took.", 0.1, 13),
    ("Hash", "etcd_mvcc_hash_duration_seconds", "Time that Hash took.", 0.01, 15),
    ("HashKV", "etcd_mvcc_hash_rev_duration_seconds", "Time that HashKV took.", 0.01, 15),
    ("Snapshot", "etcd_disk_backend_snapshot_duration_seconds", "Time that Snapshot took.", 0.01, 17),
];

/// Label of calls whose client does not send its version, or sends something else.
const UNKNOWN_VERSION: &str = "unknown";

/// The name under which etcd times a method as a request to its store; none if it does not.
fn store_name(service: &str, method: &str) -> Option<String> {
    match (service, method) {
        ("etcdserverpb.KV", "Compact") => Some("Compaction".to_owned()),
        ("etcdserverpb.KV", "Range" | "Put" | "DeleteRange" | "Txn")
        | ("etcdserverpb.Lease", "LeaseGrant" | "LeaseRevoke")
        | ("etcdserverpb.Maintenance", "Alarm") => Some(method.to_owned()),
        ("etcdserverpb.Auth", _) if method.starts_with("Auth") => Some(method.to_owned()),
        ("etcdserverpb.Auth", _) => Some(format!("Auth{method}")),
        _ => None,
    }
}

/// Whether etcd counts a request to its store as a success; none for a request that is refused before it gets
/// there. An error that the request itself leads to, such as an unknown lease, is a success of the store.
fn success(name: &str, code: Code) -> Option<bool> {
    match code {
        Code::Ok => Some(true),
        Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => None,
        _ if name == "Range" => Some(false),
        Code::NotFound | Code::FailedPrecondition | Code::OutOfRange | Code::AlreadyExists => Some(true),
        _ => Some(false),
    }
}

/// Messages of one method in one direction.
#[derive(Clone, Debug)]
pub struct MessageCounters {
    /// How many.
    pub messages: IntCounter,
    /// Their bytes, without the prefixes of gRPC. All methods share this counter.
    pub bytes: IntCounter,
}

/// Counters of one method.
#[derive(Debug)]
pub struct MethodCounters {
    started: IntCounter,
    handled: Vec<IntCounter>,
    /// Messages of requests.
    pub received: MessageCounters,
    /// Messages of responses.
    pub sent: MessageCounters,
    /// Durations as a request to the store.
    store: Option<StoreDurations>,
    /// Durations of every call, with extensive metrics.
    handling: Option<Histogram>,
    /// Durations as work of the storage.
    storage_work: Option<Histogram>,
    clients: Arc<Clients>,
    is_unary: bool,
}

impl MethodCounters {
    /// A call begins, of a client with this version.
    pub fn start(&self, client_version: Option<&str>) {
        self.started.inc();
        self.clients.count(self.is_unary, client_version);
    }

    /// A call has ended.
    pub fn end(&self, code: Code, elapsed: Duration) {
        self.handled[code as usize].inc();
        let seconds = elapsed.as_secs_f64();
        if let Some(store) = &self.store
            && let Some(success) = success(&store.name, code)
        {
            store.series(success).observe(seconds);
        }
        if let Some(handling) = &self.handling {
            handling.observe(seconds);
        }
        if let Some(work) = self.storage_work.as_ref().filter(|_| code == Code::Ok) {
            work.observe(seconds);
        }
    }
}

/// etcd shows only the series that have a value.
#[derive(Debug)]
struct StoreDurations {
    name: String,
    all: HistogramVec,
    /// Of failures, and of successes.
    series: [OnceLock<Histogram>; 2],
}

impl StoreDurations {
    fn series(&self, success: bool) -> &Histogram {
        let label = if success { "true" } else { "false" };
        self.series[usize::from(success)].get_or_init(|| self.all.with_label_values(&[&*self.name, label]))
    }
}

/// Calls by the version of their client.
#[derive(Debug)]
struct Clients {
    all: IntCounterVec,
    /// The last version and its series, for streams and for unary calls. Nearly all clients have the same
    /// version, and to find a series takes a lock.
    last: [ArcSwapOption<(String, IntCounter)>; 2],
}

impl Clients {
    fn count(&self, is_unary: bool, version: Option<&str>) {
        // The client chooses the label, and must not choose the number of series.
        let is_version = |version: &&str| {
            version.len() <= 8 && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        let version = version.filter(is_version).unwrap_or(UNKNOWN_VERSION);
        let last = &self.last[usize::from(is_unary)];
        if let Some((_, series)) = last.load().as_deref().filter(|(known, _)| known == version) {
            series.inc();
            return;
        }
        let kind = if is_unary { "unary" } else { "stream" };
        let series = self.all.with_label_values(&[kind, version]);
        series.inc();
        last.store(Some(Arc::new((version.to_owned(), series))));
    }
}

/// Counters of all methods.
#[derive(Debug)]
pub struct CallCounters {
    started: IntCounterVec,
    handled: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    durations: HistogramVec,
    /// With extensive metrics.
    handling: Option<HistogramVec>,
    storage_work: [Histogram; STORAGE_WORK.len()],
    clients: Arc<Clients>,
}

impl CallCounters {
    pub(super) fn new(extensive: bool) -> CallCounters {
        let labels = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let vec = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a legal name")
        };
        let bytes = |name: &str, help: &str| IntCounter::new(name, help).expect("a legal name");
        let buckets =
            |first, count| prometheus::exponential_buckets(first, 2.0, count).expect("legal buckets");
        let durations =
            HistogramOpts::new("etcd_server_request_duration_seconds", "Time until a request was answered.");
        let handling = HistogramOpts::new("grpc_server_handling_seconds", "Time until a call ended.");
        CallCounters {
            started: vec("grpc_server_started_total", "Calls started.", &labels[..3]),
            handled: vec("grpc_server_handled_total", "Calls ended, by code.", &labels),
            received: vec("grpc_server_msg_received_total", "Messages received.", &labels[..3]),
            sent: vec("grpc_server_msg_sent_total", "Messages sent.", &labels[..3]),
            received_bytes: bytes(
                "etcd_network_client_grpc_received_bytes_total",
                "Bytes of calls' messages.",
            ),
            sent_bytes: bytes("etcd_network_client_grpc_sent_bytes_total", "Bytes of answers' messages."),
            durations: HistogramVec::new(durations.buckets(buckets(0.001, 14)), &["type", "success"])
                .expect("a legal name"),
            handling: extensive.then(|| HistogramVec::new(handling, &labels[..3]).expect("a legal name")),
            storage_work: STORAGE_WORK.map(|(_, name, help, first, count)| {
                let opts = HistogramOpts::new(name, help).buckets(buckets(first, count));
                Histogram::with_opts(opts).expect("a legal name")
            }),
            clients: Arc::new(Clients {
                all: vec(
                    "etcd_server_client_requests_total",
                    "Calls, by the version that the client names.",
                    &["type", "client_api_version"],
                ),
                last: Default::default(),
            }),
        }
    }

    /// The counters of a method, all at zero. `kind` is the value of the label `grpc_type`.
    pub fn method(&self, service: &str, name: &str, kind: &str) -> MethodCounters {
        let labels = [kind, service, name];
        let messages = |messages: &IntCounterVec, bytes: &IntCounter| MessageCounters {
            messages: messages.with_label_values(&labels),
            bytes: bytes.clone(),
        };
        let work = STORAGE_WORK.iter().position(|(method, ..)| *method == name);
        MethodCounters {
            started: self.started.with_label_values(&labels),
            handled: CODES
                .iter()
                .map(|code| self.handled.with_label_values(&[kind, service, name, *code]))
                .collect(),
            received: messages(&self.received, &self.received_bytes),
            sent: messages(&self.sent, &self.sent_bytes),
            store: store_name(service, name).map(|name| StoreDurations {
                name,
                all: self.durations.clone(),
                series: [const { OnceLock::new() }; 2],
            }),
            handling: self.handling.as_ref().map(|handling| handling.with_label_values(&labels)),
            storage_work: work.map(|at| self.storage_work[at].clone()),
            clients: Arc::clone(&self.clients),
            is_unary: kind == "unary",
        }
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let mut collectors: Vec<Box<dyn Collector>> = Vec::new();
        for counters in [&self.started, &self.handled, &self.received, &self.sent, &self.clients.all] {
            collectors.push(Box::new(counters.clone()));
        }
        for bytes in [&self.received_bytes, &self.sent_bytes] {
            collectors.push(Box::new(bytes.clone()));
        }
        for durations in std::iter::once(&self.durations).chain(&self.handling) {
            collectors.push(Box::new(durations.clone()));
        }
        for work in &self.storage_work {
            collectors.push(Box::new(work.clone()));
        }
        collectors
    }
}
