//! Ports as their clients see them: HTTP beside gRPC, probes, metrics, TLS, unix sockets, and rough treatment.
//!
//! As the rest of the contract, all that etcd has too is checked on etcd with `JETWAY_TEST_TARGET=etcd`.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use jetway::proto::etcdserverpb::{
    AlarmRequest, AlarmType, RangeRequest, RangeResponse, StatusRequest, StatusResponse, WatchCreateRequest,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use support::client::{get, op, put, refused, run};
use support::http::{HttpAnswer, http, request};
use support::keys::{b, unique};
use support::server::{Server, Target, peer, signal};
use support::watch::WatchStream;
use support::{eventually, within};

const CORS: [(&str, &str); 3] = [
    ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
    ("access-control-allow-origin", "*"),
    ("access-control-allow-headers", "accept, content-type, authorization"),
];

fn free_address() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

async fn is(address: &str, method: &str, path: &str, status: u16, body: &str) -> HttpAnswer {
    let answer = http(address, method, path).await;
    assert_eq!((answer.status, answer.body.as_str()), (status, body), "{method} {path}");
    answer
}

/// HTTP-3, HTTP-4
#[tokio::test]
async fn every_answer_of_a_client_port_allows_any_origin() {
    let server = Server::shared().await;
    for (method, path, status) in [
        ("GET", "/version", 200),
        ("POST", "/version", 405),
        ("GET", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nothing/here", 404),
        ("OPTIONS", "/version", 200),
        ("OPTIONS", "/nothing/here", 200),
        ("GET", "/debug/vars", 200),
        ("GET", "/debug/pprof/", 404),
        // The path of a method is nothing to those who do not speak gRPC.
        ("POST", "/etcdserverpb.KV/Range", 404),
    ] {
        let answer = http(&server.address(), method, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
        for (name, value) in CORS {
            assert_eq!(answer.header(name), Some(value), "{method} {path}");
        }
        if method == "OPTIONS" {
            assert_eq!(answer.body, "");
        }
    }
}

/// HTTP-3
#[tokio::test]
async fn only_pages_of_these_origins_may_read() {
    let server = Server::start_with(&["--cors", "http://a.example:1,http://b.example:2"]).await;
    for (origin, allowed) in [("http://b.example:2", true), ("http://b.example", false), ("*", false)] {
        for (method, path) in [("GET", "/version"), ("OPTIONS", "/v3/kv/range"), ("POST", "/v3/nothing")] {
            let answer =
                request(&server.address(), method, path, &[("Host", "a"), ("Origin", origin)], "").await;
            for (name, value) in CORS {
                let value = if name.ends_with("origin") { origin } else { value };
                assert_eq!(answer.header(name), allowed.then_some(value), "{method} {path} {origin}");
            }
        }
    }
}

/// HTTP-3
#[tokio::test]
async fn a_host_that_is_not_on_the_list_is_misdirected() {
    let server = Server::start_with(&["--host-whitelist", "127.0.0.1,good.example"]).await;
    let get = async |host: &str| request(&server.address(), "GET", "/version", &[("Host", host)], "").await;
    for host in ["127.0.0.1:1", "good.example", "good.example:2379"] {
        assert_eq!(get(host).await.status, 200, "{host}");
    }
    for (host, name) in
        [("bad.example:2379", "bad.example"), ("[::1]:5", "::1"), ("good.example.", "good.example.")]
    {
        let answer = get(host).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.body.contains(&format!("  - e.g. etcd --host-whitelist \"{name}\"\n")), "{answer:?}");
        assert!(
            answer.body.starts_with("\netcd received your request, but the Host header was unrecognized.\n")
        );
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // gRPC has no pages that could be deceived.
    server.client().await.put(unique("host"), "x").await;
}

/// HTTP-1
#[tokio::test]
async fn http_may_have_ports_of_its_own() {
    let address = free_address();
    let server = Server::start_with(&["--listen-client-http-urls", &format!("http://{address}")]).await;
    eventually("the port", async || TcpStream::connect(&address).await.is_ok().then_some(())).await;
    for (path, status) in [("/version", 200), ("/health", 200), ("/metrics", 200), ("/nothing", 404)] {
        assert_eq!(http(&address, "GET", path).await.status, status, "{path}");
    }
    assert_eq!(
        request(&address, "POST", "/v3/kv/range", &[("Host", "a")], "{\"key\":\"YQ==\"}").await.status,
        200
    );
    server.client().await.put(unique("split"), "x").await;
    // HTTP/1 is not spoken on the other port; etcd does not even say so.
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    within("the end", stream.read_to_end(&mut answer)).await.ok();
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
}

/// HTTP-4
#[tokio::test]
async fn profiles_are_there_if_they_are_asked_for() {
    let server = Server::start_with(&["--enable-pprof"]).await;
    let answer = http(&server.address(), "GET", "/debug/pprof/").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(answer.body.contains("/debug/pprof/"));
    let moved = http(&server.address(), "GET", "/debug/pprof").await;
    assert_eq!((moved.status, moved.header("location")), (307, Some("/debug/pprof/")));
    let unknown = is(&server.address(), "GET", "/debug/pprof/nothing", 404, "Unknown profile\n").await;
    assert_eq!(unknown.header("x-go-pprof"), Some("1"));
}

/// HTTP-12
#[tokio::test]
async fn a_version_is_read_and_not_written() {
    let server = Server::shared().await;
    let answer = is(&server.address(), "POST", "/version", 405, "Method Not Allowed\n").await;
    assert_eq!(answer.header("allow"), Some("GET"));
}

/// HTTP-2
#[tokio::test]
async fn a_metrics_port_has_metrics_and_probes_only() {
    let address = free_address();
    let server = Server::start_with(&["--listen-metrics-urls", &format!("http://{address}")]).await;
    for path in ["/metrics", "/health", "/livez", "/readyz", "/readyz/linearizable_read"] {
        // etcd opens this port a little after the client port.
        eventually(path, async || (TcpStream::connect(&address).await.is_ok()).then_some(())).await;
        let answer = http(&address, "GET", path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header(CORS[0].0), None, "{path}");
    }
    for path in ["/version", "/debug/vars", "/v3/kv/range"] {
        is(&address, "GET", path, 404, "404 page not found\n").await;
    }
    assert_eq!(http(&server.address(), "GET", "/metrics").await.status, 200);
}

/// HTTP-10, HTTP-11
#[tokio::test]
async fn alarms_are_told_to_probes() {
    let server = Server::start().await;
    let client = server.client().await;
    let address = server.address();
    let healthy = r#"{"health":"true","reason":""}"#;
    let set = async |action: AlarmAction, alarm: AlarmType| {
        let request = AlarmRequest { action: action.into(), member_id: 0, alarm: alarm.into() };
        client.alarm(request).await.unwrap();
    };
    is(&address, "GET", "/health", 200, healthy).await;

    set(AlarmAction::Activate, AlarmType::Nospace).await;
    let unhealthy = "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n";
    let answer = is(&address, "GET", "/health", 503, unhealthy).await;
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    is(&address, "GET", "/health?serializable=true", 503, unhealthy).await;
    is(&address, "GET", "/health?exclude=NOSPACE", 200, healthy).await;
    is(&address, "GET", "/health?exclude=CORRUPT&exclude=NOSPACE", 200, healthy).await;
    is(&address, "GET", "/health?exclude=CORRUPT", 503, unhealthy).await;
    is(&address, "GET", "/readyz", 200, "ok\n").await;
    set(AlarmAction::Deactivate, AlarmType::Nospace).await;
    is(&address, "GET", "/health", 200, healthy).await;

    set(AlarmAction::Activate, AlarmType::Corrupt).await;
    is(&address, "GET", "/health", 503, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n").await;
    is(&address, "GET", "/livez", 200, "ok\n").await;
    let failed = "[-]data_corruption failed: alarm activated: CORRUPT\n\n";
    is(&address, "GET", "/readyz/data_corruption", 503, failed).await;
    let answer = http(&address, "GET", "/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains(failed.trim_end()), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    is(&address, "GET", "/readyz?exclude=data_corruption", 200, "ok\n").await;
    is(&address, "GET", "/readyz/linearizable_read", 200, "ok\n").await;

    let metrics = Metrics::scrape(&address).await;
    metrics.is("etcd_server_health_failures", &[], 4.0);
    metrics.is("etcd_server_healthcheck", &[("type", "readyz"), ("name", "data_corruption")], 0.0);
    let failures = [("type", "readyz"), ("name", "data_corruption"), ("status", "error")];
    metrics.is("etcd_server_healthchecks_total", &failures, 2.0);
}

/// HTTP-11
#[tokio::test]
async fn checks_are_also_paths() {
    let server = Server::shared().await;
    let address = server.address();
    is(&address, "GET", "/livez/serializable_read?verbose", 200, "[+]serializable_read ok\nok\n").await;
    is(&address, "GET", "/readyz/non_learner?verbose", 200, "[+]non_learner ok\nok\n").await;
    for path in ["/livez/linearizable_read", "/livez/nothing", "/readyz/", "/livez/"] {
        is(&address, "GET", path, 404, "404 page not found\n").await;
    }
    is(&address, "GET", "/livez?verbose&exclude=serializable_read", 200, "ok\n").await;
}

/// Metrics as Prometheus reads them.
struct Metrics {
    types: HashMap<String, String>,
    series: Vec<(String, f64)>,
}

impl Metrics {
    async fn scrape(address: &str) -> Metrics {
        let answer = http(address, "GET", "/metrics").await;
        assert_eq!(answer.status, 200);
        let mut metrics = Metrics { types: HashMap::new(), series: Vec::new() };
        for line in answer.body.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                metrics.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                metrics.series.push((series.to_owned(), value.parse().unwrap()));
            }
        }
        metrics
    }

    /// The value of the only series of this name with these labels.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let of = |series: &str| {
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            found == name
                && labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
        };
        let found: Vec<_> = self.series.iter().filter(|(series, _)| of(series)).collect();
        let [(_, value)] = found[..] else { panic!("{name} with {labels:?}: {found:?}") };
        *value
    }

    /// Every series of this name has just these labels, and a histogram's buckets their bound.
    #[track_caller]
    fn has_labels(&self, name: &str, labels: &[&str]) {
        let mut found = 0;
        for (series, _) in &self.series {
            let (of, rest) = series.split_once('{').unwrap_or((series, ""));
            let suffix = of.strip_prefix(name);
            if !matches!(suffix, Some("" | "_sum" | "_count" | "_bucket")) {
                continue;
            }
            let rest = rest.trim_end_matches('}');
            let names = rest.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
            let mut names: Vec<_> = names.filter(|name| *name != "le").collect();
            names.sort_unstable();
            let mut labels = labels.to_vec();
            labels.sort_unstable();
            assert_eq!(names, labels, "{series}");
            found += 1;
        }
        assert_ne!(found, 0, "{name}");
    }

    #[track_caller]
    fn is(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let found = self.value(name, labels);
        assert!((found - value).abs() < 1e-9, "{name} {labels:?} is {found}, not {value}");
    }
}

fn method<'a>(kind: &'a str, service: &'a str, name: &'a str) -> [(&'a str, &'a str); 3] {
    [("grpc_type", kind), ("grpc_service", service), ("grpc_method", name)]
}

fn with_code<'a>(labels: [(&'a str, &'a str); 3], code: &'a str) -> [(&'a str, &'a str); 4] {
    let [kind, service, method] = labels;
    [kind, service, method, ("grpc_code", code)]
}

/// MET-6: the families that dashboards and alerts of etcd read, with their types.
#[tokio::test]
async fn metrics_have_etcds_names_and_types() {
    let server = Server::shared().await;
    server.client().await.put(unique("metrics"), "x").await;
    is(&server.address(), "GET", "/readyz", 200, "ok\n").await;
    let metrics = Metrics::scrape(&server.address()).await;
    for (kind, names) in [
        (
            "gauge",
            "etcd_server_has_leader etcd_server_is_leader etcd_server_is_learner etcd_server_id \
             etcd_server_version etcd_cluster_version etcd_server_quota_backend_bytes \
             etcd_server_proposals_pending etcd_server_proposals_committed_total \
             etcd_server_proposals_applied_total etcd_server_healthcheck \
             etcd_mvcc_db_total_size_in_bytes etcd_mvcc_db_total_size_in_use_in_bytes \
             etcd_debugging_mvcc_keys_total etcd_debugging_mvcc_current_revision \
             etcd_debugging_mvcc_compact_revision etcd_debugging_mvcc_watch_stream_total \
             etcd_debugging_mvcc_watcher_total etcd_debugging_mvcc_slow_watcher_total \
             etcd_debugging_mvcc_pending_events_total os_fd_used os_fd_limit \
             process_resident_memory_bytes process_open_fds process_max_fds process_start_time_seconds",
        ),
        (
            "counter",
            "etcd_server_leader_changes_seen_total etcd_server_proposals_failed_total \
             etcd_server_client_requests_total etcd_server_health_success etcd_server_health_failures \
             etcd_server_healthchecks_total etcd_mvcc_range_total etcd_mvcc_put_total \
             etcd_mvcc_delete_total etcd_mvcc_txn_total etcd_debugging_mvcc_events_total \
             etcd_network_client_grpc_sent_bytes_total etcd_network_client_grpc_received_bytes_total \
             grpc_server_started_total grpc_server_handled_total grpc_server_msg_received_total \
             grpc_server_msg_sent_total process_cpu_seconds_total",
        ),
        (
            "histogram",
            "etcd_disk_wal_fsync_duration_seconds etcd_disk_backend_commit_duration_seconds \
             etcd_server_request_duration_seconds",
        ),
    ] {
        for name in names.split_whitespace() {
            assert_eq!(metrics.types.get(name).map(String::as_str), Some(kind), "{name}");
        }
    }
    for name in ["etcd_disk_wal_fsync_duration_seconds", "etcd_disk_backend_commit_duration_seconds"] {
        for bound in ["0.001", "8.192", "+Inf"] {
            metrics.value(&format!("{name}_bucket"), &[("le", bound)]);
        }
    }
    metrics.is("etcd_server_version", &[("server_version", "3.7.3")], 1.0);
    metrics.is("etcd_cluster_version", &[("cluster_version", "3.7")], 1.0);
}

/// When answered writes are on the disk is told by the log, the metrics and each Status.
#[tokio::test]
async fn the_level_of_durability_is_told() {
    if Target::from_env() == Target::Etcd {
        return;
    }
    for level in ["group", "always", "lazy"] {
        let server = Server::start_with(&["--sync", level]).await;
        let client = server.client().await;
        client.put("a", "b").await;
        let metrics = Metrics::scrape(&server.address()).await;
        metrics.is("jetway_sync", &[("level", level)], 1.0);
        assert!(metrics.value("etcd_disk_wal_fsync_duration_seconds_count", &[]) >= 1.0, "{level}");
        let status = client
            .unary_with_metadata::<_, StatusResponse>("/etcdserverpb.Maintenance/Status", StatusRequest {})
            .await
            .unwrap();
        assert_eq!(status.metadata().get("jetway-sync").unwrap(), level);
        assert!(server.log().contains(&format!("sync=\"{level}\"")), "{}", server.log());
    }
}

/// MET-1, MET-6: the metrics that etcd's dashboard and alerts read, with the labels that they select by. A cluster of one
/// has no peers, and no series of any.
#[tokio::test]
async fn the_mixin_finds_what_it_reads() {
    let server = Server::start_with(&["--metrics", "extensive"]).await;
    server.client().await.put("a", "b").await;
    let metrics = Metrics::scrape(&server.address()).await;
    let call: &[&str] = &["grpc_type", "grpc_service", "grpc_method"];
    let with_code: &[&str] = &["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
    for (name, kind, labels) in [
        ("etcd_server_has_leader", "gauge", &[][..]),
        ("etcd_server_leader_changes_seen_total", "counter", &[]),
        ("etcd_server_proposals_failed_total", "counter", &[]),
        ("etcd_server_proposals_pending", "gauge", &[]),
        ("etcd_server_proposals_committed_total", "gauge", &[]),
        ("etcd_server_proposals_applied_total", "gauge", &[]),
        ("etcd_server_quota_backend_bytes", "gauge", &[]),
        ("etcd_mvcc_db_total_size_in_bytes", "gauge", &[]),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", &[]),
        ("etcd_disk_wal_fsync_duration_seconds", "histogram", &[]),
        ("etcd_disk_backend_commit_duration_seconds", "histogram", &[]),
        ("etcd_network_client_grpc_sent_bytes_total", "counter", &[]),
        ("etcd_network_client_grpc_received_bytes_total", "counter", &[]),
        ("grpc_server_started_total", "counter", call),
        ("grpc_server_handled_total", "counter", with_code),
        ("grpc_server_msg_received_total", "counter", call),
        ("grpc_server_msg_sent_total", "counter", call),
        ("grpc_server_handling_seconds", "histogram", call),
        ("process_resident_memory_bytes", "gauge", &[]),
    ] {
        assert_eq!(metrics.types.get(name).map(String::as_str), Some(kind), "{name}");
        metrics.has_labels(name, labels);
    }
    for name in ["round_trip_time_seconds", "sent_failures_total", "sent_bytes_total", "received_bytes_total"]
    {
        assert_eq!(metrics.types.get(&format!("etcd_network_peer_{name}")), None);
    }
    let alarm = [("grpc_method", "Alarm"), ("grpc_service", "etcdserverpb.Maintenance"), ("le", "0.005")];
    metrics.is("grpc_server_handling_seconds_bucket", &alarm, 0.0);
    let puts = [("grpc_method", "Put"), ("grpc_service", "etcdserverpb.KV"), ("le", "+Inf")];
    metrics.is("grpc_server_handling_seconds_bucket", &puts, 1.0);
    // Every method has its series from the start; those of Lock and Election come with their first call in etcd.
    let started = metrics.series.iter().filter(|(series, _)| {
        series.starts_with("grpc_server_started_total{") && !series.contains("grpc_service=\"v3")
    });
    assert_eq!(started.count(), 45);
}

/// MET-3, MET-4: names, types and labels that etcd's mixin does not read.
#[tokio::test]
async fn other_metrics_have_etcds_names_types_and_labels() {
    let server = Server::start().await;
    let client = server.client().await;
    let address = server.address();
    let lease = client.lease_grant(0, 100).await.unwrap().id;
    client.put("a", "b").await;
    let revision = client.put("a", "c").await;
    client.get("a").await.unwrap();
    client.compact(revision).await.unwrap();
    client.lease_revoke(lease).await.unwrap();
    client.defragment().await.unwrap();
    let request =
        AlarmRequest { action: AlarmAction::Activate.into(), member_id: 7, alarm: AlarmType::Nospace.into() };
    client.alarm(request).await.unwrap();
    for path in ["/health", "/readyz"] {
        http(&address, "GET", path).await;
    }
    let metrics = Metrics::scrape(&address).await;
    for (name, kind, labels) in [
        ("etcd_server_is_leader", "gauge", &[][..]),
        ("etcd_server_is_learner", "gauge", &[]),
        ("etcd_server_id", "gauge", &["server_id"]),
        ("etcd_server_version", "gauge", &["server_version"]),
        ("etcd_cluster_version", "gauge", &["cluster_version"]),
        ("etcd_server_health_success", "counter", &[]),
        ("etcd_server_health_failures", "counter", &[]),
        ("etcd_server_healthcheck", "gauge", &["type", "name"]),
        ("etcd_server_healthchecks_total", "counter", &["type", "name", "status"]),
        ("etcd_server_client_requests_total", "counter", &["type", "client_api_version"]),
        ("etcd_server_request_duration_seconds", "histogram", &["type", "success"]),
        ("etcd_server_range_duration_seconds", "histogram", &["success"]),
        ("etcd_server_slow_read_indexes_total", "counter", &[]),
        ("etcd_server_read_indexes_failed_total", "counter", &[]),
        ("etcd_server_heartbeat_send_failures_total", "counter", &[]),
        ("etcd_server_learner_promote_successes", "counter", &[]),
        ("etcd_server_snapshot_apply_in_progress_total", "gauge", &[]),
        ("etcd_network_known_peers", "gauge", &["Local", "Remote"]),
        ("etcd_disk_backend_defrag_duration_seconds", "histogram", &[]),
        ("etcd_disk_backend_snapshot_duration_seconds", "histogram", &[]),
        ("etcd_mvcc_range_total", "counter", &[]),
        ("etcd_mvcc_put_total", "counter", &[]),
        ("etcd_mvcc_delete_total", "counter", &[]),
        ("etcd_mvcc_txn_total", "counter", &[]),
        ("etcd_mvcc_hash_duration_seconds", "histogram", &[]),
        ("etcd_mvcc_hash_rev_duration_seconds", "histogram", &[]),
        ("os_fd_used", "gauge", &[]),
        ("os_fd_limit", "gauge", &[]),
        ("etcd_debugging_mvcc_total_put_size_in_bytes", "gauge", &[]),
        ("etcd_debugging_mvcc_db_compaction_last", "gauge", &[]),
        ("etcd_debugging_mvcc_db_compaction_keys_total", "counter", &[]),
        ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "histogram", &[]),
        ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "histogram", &[]),
        ("etcd_debugging_lease_granted_total", "counter", &[]),
        ("etcd_debugging_lease_revoked_total", "counter", &[]),
        ("etcd_debugging_lease_renewed_total", "counter", &[]),
        ("etcd_debugging_lease_ttl_total", "histogram", &[]),
        ("etcd_debugging_server_lease_expired_total", "counter", &[]),
        ("etcd_debugging_server_alarms", "gauge", &["server_id", "alarm_type"]),
        ("etcd_debugging_auth_revision", "gauge", &[]),
        ("go_goroutines", "gauge", &[]),
    ] {
        assert_eq!(metrics.types.get(name).map(String::as_str), Some(kind), "{name}");
        metrics.has_labels(name, labels);
    }
    metrics.is("etcd_debugging_lease_granted_total", &[], 1.0);
    metrics.is("etcd_debugging_lease_revoked_total", &[], 1.0);
    metrics.is("etcd_debugging_lease_ttl_total_bucket", &[("le", "64")], 0.0);
    metrics.is("etcd_debugging_lease_ttl_total_bucket", &[("le", "128")], 1.0);
    metrics.is("etcd_debugging_mvcc_total_put_size_in_bytes", &[], 4.0);
    metrics.is("etcd_debugging_server_alarms", &[("server_id", "7"), ("alarm_type", "NOSPACE")], 1.0);
    metrics.is("etcd_debugging_auth_revision", &[], 1.0);
    metrics.is("etcd_disk_backend_defrag_duration_seconds_bucket", &[("le", "409.6")], 1.0);
    let ranges = [("success", "true"), ("le", "+Inf")];
    assert!(metrics.value("etcd_server_range_duration_seconds_bucket", &ranges) > 0.5);
    let revoked = [("type", "LeaseRevoke"), ("success", "true")];
    metrics.is("etcd_server_request_duration_seconds_count", &revoked, 1.0);
    eventually("the old version to be removed", async || {
        let metrics = Metrics::scrape(&address).await;
        (metrics.value("etcd_debugging_mvcc_db_compaction_keys_total", &[]) > 0.5).then_some(())
    })
    .await;
}

/// MET-1, MET-2
#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let server = Server::start().await;
    let client = server.client().await;
    let address = server.address();
    let before = Metrics::scrape(&address).await;
    let lock = method("bidi_stream", "etcdserverpb.Watch", "Watch");
    before.is("grpc_server_started_total", &lock, 0.0);
    before.is("grpc_server_handled_total", &with_code(lock, "Canceled"), 0.0);

    client.put("a", "value").await;
    client.put("b", "value").await;
    refused(client.put_request(put("", "")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    client.txn(run(vec![op(put("a", "1")), op(put("c", "1")), op(get("a"))])).await.unwrap();
    client.txn(run(vec![op(put("a", "2"))])).await.unwrap();
    let after = Metrics::scrape(&address).await;
    let puts = method("unary", "etcdserverpb.KV", "Put");
    after.is("grpc_server_started_total", &puts, 3.0);
    after.is("grpc_server_handled_total", &with_code(puts, "OK"), 2.0);
    after.is("grpc_server_handled_total", &with_code(puts, "InvalidArgument"), 1.0);
    after.is("grpc_server_msg_received_total", &puts, 3.0);
    after.is("grpc_server_msg_sent_total", &puts, 3.0);
    let grown = |name: &str| after.value(name, &[]) - before.value(name, &[]);
    // Two alone and three in transactions; only one transaction had more than one operation.
    assert_eq!((grown("etcd_mvcc_put_total") as u64, grown("etcd_mvcc_txn_total") as u64), (5, 1));
    let sent = f64::from(u32::try_from(prost::Message::encoded_len(&put("a", "value"))).unwrap());
    assert!(grown("etcd_network_client_grpc_received_bytes_total") >= 2.0 * sent);
    assert!(grown("etcd_network_client_grpc_sent_bytes_total") > 0.0);
    let count = |success| [("type", "Put"), ("success", success)];
    after.is("etcd_server_request_duration_seconds_count", &count("true"), 2.0);
    assert!(grown("etcd_debugging_mvcc_current_revision") >= 4.0);

    // An open watch is one that was started and not handled.
    let mut stream = WatchStream::open(&client);
    let watcher = stream.create(WatchCreateRequest { key: b("a"), ..Default::default() }).await;
    assert!(watcher.created);
    let open = Metrics::scrape(&address).await;
    open.is("grpc_server_started_total", &lock, 1.0);
    let handled = |metrics: &Metrics| {
        let all = metrics.series.iter().filter(|(series, _)| {
            series.starts_with("grpc_server_handled_total{")
                && series.contains("grpc_method=\"Watch\"")
                && series.contains("etcdserverpb.Watch")
        });
        all.map(|(_, value)| value).sum::<f64>()
    };
    assert!(handled(&open).abs() < f64::EPSILON);
    open.is("etcd_debugging_mvcc_watch_stream_total", &[], 1.0);
    open.is("etcd_debugging_mvcc_watcher_total", &[], 1.0);
    drop(stream);
    eventually("the watch to be counted as handled", async || {
        let metrics = Metrics::scrape(&address).await;
        let ended =
            handled(&metrics) > 0.5 && metrics.value("etcd_debugging_mvcc_watch_stream_total", &[]) < 0.5;
        ended.then_some(())
    })
    .await;
    let closed = Metrics::scrape(&address).await;
    closed.is("grpc_server_handled_total", &with_code(lock, "Canceled"), 1.0);
}

/// MD-3, and its metric.
#[tokio::test]
async fn the_clients_version_is_counted_and_must_be_text() {
    let server = Server::start().await;
    let channel = tonic::transport::Endpoint::new(server.endpoint()).unwrap().connect().await.unwrap();
    let call = async |version: MetadataValue<tonic::metadata::Ascii>| {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let mut request = Request::new(get("a"));
        request.metadata_mut().insert("client-api-version", version);
        let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let codec = tonic_prost::ProstCodec::<RangeRequest, RangeResponse>::default();
        within("an answer", grpc.unary(request, path, codec)).await
    };
    call("3.7".parse().unwrap()).await.unwrap();
    let broken = MetadataValue::try_from(&b"3.\xff"[..]).unwrap();
    refused(call(broken).await, Code::InvalidArgument, "etcdserver: invalid client api version");
    let metrics = Metrics::scrape(&server.address()).await;
    let told = [("type", "unary"), ("client_api_version", "3.7")];
    metrics.is("etcd_server_client_requests_total", &told, 1.0);
}

/// HTTP-1
#[tokio::test]
async fn grpc_is_spoken_by_http_2_only() {
    let server = Server::shared().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = "POST /etcdserverpb.KV/Range HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                   Content-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
}

/// A client may open and cancel watches by the thousand on one connection; that is no attack.
#[tokio::test]
async fn thousands_of_watches_are_cancelled_at_once() {
    let server = Server::start().await;
    let client = server.client().await;
    for _ in 0..2 {
        let mut streams: Vec<WatchStream> = (0..2_500).map(|_| WatchStream::open(&client)).collect();
        for stream in &streams {
            stream.request(WatchCreateRequest { key: b("a"), ..Default::default() });
        }
        for stream in &mut streams {
            assert!(stream.next().await.created);
        }
    }
    client.put("a", "b").await;
    eventually("all watches to be gone", async || {
        let metrics = Metrics::scrape(&server.address()).await;
        (metrics.value("etcd_debugging_mvcc_watch_stream_total", &[]) < 0.5).then_some(())
    })
    .await;
}

/// The same with calls that are cancelled before the server has looked at them: all in one write, frame by frame.
#[tokio::test]
async fn thousands_of_calls_are_cancelled_before_they_begin() {
    const CALLS: u32 = 5_000;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const END_HEADERS: u8 = 4;
    const ACK: u8 = 1;
    const CANCEL: u32 = 8;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    // Header fields by their index in the static table, with a literal value where the table has none.
    let literal = |index: &[u8], value: &str| [index, &[value.len() as u8], value.as_bytes()].concat();
    let (post, http) = (vec![0x83], vec![0x86]);
    let path = literal(&[0x04], "/etcdserverpb.Watch/Watch");
    let authority = literal(&[0x01], "localhost");
    let content_type = literal(&[0x0f, 0x10], "application/grpc");
    let headers = [post, http, path, authority, content_type].concat();

    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut request = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    for call in 0..CALLS {
        request.extend(frame(HEADERS, END_HEADERS, 2 * call + 1, &headers));
        request.extend(frame(RST_STREAM, 0, 2 * call + 1, &CANCEL.to_be_bytes()));
    }
    request.extend(frame(PING, 0, 0, b"still up"));
    let (mut reading, mut writing) = stream.split();
    let write = async { writing.write_all(&request).await.unwrap() };
    let read = async {
        loop {
            let mut head = [0; 9];
            reading.read_exact(&mut head).await.expect("the connection goes on");
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            reading.read_exact(&mut payload).await.unwrap();
            assert_ne!(kind, GOAWAY, "the server takes this for an attack: {payload:?}");
            if (kind, flags) == (PING, ACK) {
                return payload;
            }
        }
    };
    let ((), payload) = within("an answer to a ping", async { tokio::join!(write, read) }).await;
    assert_eq!(payload, b"still up");
}

/// Kubernetes' preflight only connects (and so does every port scan).
#[tokio::test]
async fn connections_that_say_nothing_leave_no_trace_in_the_log() {
    let server = Server::start().await;
    for _ in 0..20 {
        drop(TcpStream::connect(server.address()).await.unwrap());
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x00\xa5\x01\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // An answer or a reset, both are fine.
        within("the connection to end", stream.read_to_end(&mut answer)).await.ok();
    }
    server.client().await.put("a", "b").await;
    if server.target() == Target::Jetway {
        // The last line of the start may be written after the first call is answered.
        let after = eventually("the end of the start", async || {
            server.log().split_once("ready to serve client requests").map(|(_, after)| after.to_owned())
        });
        let after = after.await;
        assert_eq!(after.lines().skip(1).collect::<Vec<_>>(), Vec::<&str>::new());
    }
}

/// Runs jetway, which must end by itself with an error; answers what it says.
fn jetway_fails(args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetway"));
    command.args(args).arg("--data-dir").arg(dir.path()).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_taken_address_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    for flag in ["--listen-client-urls", "--listen-metrics-urls"] {
        let (flag, url) = (flag.to_owned(), url.clone());
        let free = format!("http://{}", free_address());
        let says = tokio::task::spawn_blocking(move || {
            let other = ["--listen-client-urls", &free];
            let args = if flag.contains("client") {
                vec![&*flag, &*url]
            } else {
                [&other[..], &[&*flag, &*url]].concat()
            };
            let says = jetway_fails(&args);
            assert!(says.contains(&flag) && says.contains(&url), "{says}");
            says
        })
        .await
        .unwrap();
        assert!(says.contains("in use"), "{says}");
    }
}

/// A client and a server by the same authority, as files in a directory.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn make() -> Certificates {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        for (name, purpose) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let key = KeyPair::generate().unwrap();
            let mut params =
                CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
            params.extended_key_usages.push(purpose);
            // etcd checks its own listener with its server certificate, as a client.
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
            let certificate = params.signed_by(&key, &authority).unwrap();
            std::fs::write(dir.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Certificates { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn client_config(&self, with_certificate: bool, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if with_certificate {
            let chain = vec![CertificateDer::from_pem_file(self.path("client.pem")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(self.path("client.key")).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

/// A server that takes clients with TLS only, beside the plain port that the tests' own client uses.
async fn secure_server(certificates: &Certificates, more: &[&str]) -> (Server, String) {
    let address = free_address();
    let (cert, key) = (certificates.path("server.pem"), certificates.path("server.key"));
    let url = format!("https://{address}");
    let args = ["--listen-metrics-urls", &url, "--cert-file", &cert, "--key-file", &key];
    let server = Server::start_with(&[&args[..], more].concat()).await;
    eventually("the port with TLS", async || TcpStream::connect(&address).await.ok()).await;
    (server, address)
}

/// GETs `path` over TLS; answers what was negotiated and the whole answer.
async fn secure_get(
    address: &str,
    config: ClientConfig,
    path: &str,
) -> std::io::Result<(Option<Vec<u8>>, String)> {
    let stream = TcpStream::connect(address).await?;
    let name = "localhost".try_into().unwrap();
    let mut stream =
        within("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await?;
    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    within("an answer", stream.read_to_end(&mut answer)).await?;
    Ok((protocol, String::from_utf8_lossy(&answer).into_owned()))
}

#[tokio::test]
async fn http_is_served_over_tls() {
    let certificates = Certificates::make();
    let (server, address) = secure_server(&certificates, &[]).await;
    for (offered, chosen) in [(&["http/1.1"][..], Some(&b"http/1.1"[..])), (&[], None)] {
        let config = certificates.client_config(false, offered);
        let (protocol, answer) = secure_get(&address, config, "/health").await.unwrap();
        // etcd's own metrics port chooses none.
        if server.target() == Target::Jetway {
            assert_eq!(protocol.as_deref(), chosen);
        }
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    // Somebody who does not know that there is TLS.
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    within("an end", stream.read_to_end(&mut answer)).await.ok();
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn clients_without_a_certificate_are_refused_where_one_is_asked_for() {
    let certificates = Certificates::make();
    let authority = certificates.path("ca.pem");
    let more = ["--trusted-ca-file", &authority, "--client-cert-auth"];
    let (_server, address) = secure_server(&certificates, &more).await;
    let config = certificates.client_config(true, &["http/1.1"]);
    let (_, answer) = secure_get(&address, config, "/health").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // By TLS 1.3 a client hears of the refusal with the first read.
    let config = certificates.client_config(false, &["http/1.1"]);
    let refused = secure_get(&address, config, "/health").await;
    assert!(refused.as_ref().map_or(true, |(_, answer)| answer.is_empty()), "{refused:?}");
    let stranger = Certificates::make();
    let mut config = certificates.client_config(false, &["http/1.1"]);
    config.client_auth_cert_resolver = stranger.client_config(true, &[]).client_auth_cert_resolver;
    let refused = secure_get(&address, config, "/health").await;
    assert!(refused.as_ref().map_or(true, |(_, answer)| answer.is_empty()), "{refused:?}");
}

/// Runs etcdctl; answers what it printed.
async fn etcdctl(args: Vec<String>) -> String {
    within(
        "etcdctl",
        tokio::task::spawn_blocking(move || {
            let output = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl")).args(&args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        }),
    )
    .await
    .unwrap()
}

/// gRPC through TLS with certificates on both sides, as kube-apiserver connects.
#[tokio::test]
async fn etcdctl_connects_with_tls() {
    let certificates = Certificates::make();
    let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(|name| certificates.path(name));
    let address = free_address();
    let plain = free_address();
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetway"));
    command
        .args(["--listen-client-urls", &format!("http://{plain},https://{address}")])
        .args(["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"])
        .args(["--sync", "lazy"])
        .arg("--data-dir")
        .arg(dir.path())
        .stderr(Stdio::null());
    let mut server = Running(support::server::spawn(command).unwrap());
    let args = |more: &[&str]| {
        let (cert, key) = (certificates.path("client.pem"), certificates.path("client.key"));
        let endpoint = format!("https://{address}");
        let flags = ["--endpoints", &endpoint, "--cacert", &ca, "--cert", &cert, "--key", &key];
        flags.iter().chain(more).map(ToString::to_string).collect()
    };
    eventually("the server", async || TcpStream::connect(&address).await.ok()).await;
    assert_eq!(etcdctl(args(&["put", "a", "b"])).await, "OK\n");
    assert_eq!(etcdctl(args(&["get", "a"])).await, "a\nb\n");
    server.stop().await;
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Running {
    async fn stop(&mut self) {
        signal(self.0.id(), libc::SIGTERM);
        let status = eventually("the end", async || self.0.try_wait().unwrap()).await;
        assert!(status.success(), "{status:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A socket by its absolute path and with a port that is none, as k0s gives it.
#[tokio::test]
async fn etcdctl_connects_through_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("jetway.sock:2379");
    let url = format!("unix://{}", socket.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetway"));
    command
        .args(["--listen-client-urls", &url, "--sync", "lazy"])
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .stderr(Stdio::null());
    let mut server = Running(support::server::spawn(command).unwrap());
    eventually("the socket", async || UnixStream::connect(&socket).ok()).await;
    let args = |more: &[&str]| ["--endpoints", &url].iter().chain(more).map(ToString::to_string).collect();
    assert_eq!(etcdctl(args(&["put", "a", "b"])).await, "OK\n");
    assert_eq!(etcdctl(args(&["get", "a"])).await, "a\nb\n");
    let path: &Path = &socket;
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    server.stop().await;
    assert!(!socket.exists(), "the socket stays behind");
}

/// A server that is told to stop keeps nobody waiting: every call ends, and later connections are refused.
#[tokio::test]
async fn a_stop_ends_every_call() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let mut stream = WatchStream::open(&client);
    assert!(stream.create(WatchCreateRequest { key: b("a"), ..Default::default() }).await.created);
    let puts = (0..50).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.put_request(put(format!("{n}"), "x")).await })
    });
    let puts: Vec<_> = puts.collect();
    let status = server.stop().await;
    assert!(status.success() || server.target() == Target::Etcd, "{status:?}\n{}", server.log());
    for put in puts {
        // What came too late is refused by one side or the other.
        within("the end of a put", put).await.unwrap().ok();
    }
    while let Some(Ok(_)) = within("the end of the watch", stream.message()).await {}
    assert!(TcpStream::connect(server.address()).await.is_err());
}
