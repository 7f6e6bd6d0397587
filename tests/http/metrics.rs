//! Names, types, labels and values of metrics.

use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use jetway::proto::etcdserverpb::{
    AlarmRequest, AlarmType, RangeRequest, RangeResponse, StatusRequest, StatusResponse, WatchCreateRequest,
};
use support::client::{get, op, put, refused, run};
use support::http::http;
use support::keys::{b, unique};
use support::server::{Server, Target};
use support::watch::WatchStream;
use support::{eventually, within};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::is;
use support::metrics::Metrics;

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

/// The log, the metrics and each Status report when answered writes are on the disk.
#[tokio::test]
async fn log_metrics_and_status_report_the_level_of_durability() {
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

/// MET-1, MET-6: the metrics that etcd's dashboard and alerts read, with the labels that they select by. A
/// cluster of one has no peers, and no series of any.
#[tokio::test]
async fn the_metrics_of_etcds_mixin_exist_with_their_labels() {
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
    // The first leader is a change.
    metrics.is("etcd_server_leader_changes_seen_total", &[], 1.0);
    metrics.is("etcd_server_proposals_failed_total", &[], 0.0);
    let puts = [("grpc_method", "Put"), ("grpc_service", "etcdserverpb.KV"), ("le", "+Inf")];
    metrics.is("grpc_server_handling_seconds_bucket", &puts, 1.0);
    // Every method has its series from the start; those of Lock and Election come with their first call in
    // etcd.
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

fn method<'a>(kind: &'a str, service: &'a str, name: &'a str) -> [(&'a str, &'a str); 3] {
    [("grpc_type", kind), ("grpc_service", service), ("grpc_method", name)]
}

fn with_code<'a>(labels: [(&'a str, &'a str); 3], code: &'a str) -> [(&'a str, &'a str); 4] {
    let [kind, service, method] = labels;
    [kind, service, method, ("grpc_code", code)]
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
    let labels = [("type", "unary"), ("client_api_version", "3.7")];
    metrics.is("etcd_server_client_requests_total", &labels, 1.0);
}
