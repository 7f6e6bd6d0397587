//! HTTP/1.1 on the client port.

use serde_json::{Value, json};

use support::http::{HttpAnswer, http};
use support::server::Server;

async fn get(path: &str) -> HttpAnswer {
    http(&Server::shared().await.address(), "GET", path).await
}

fn body(answer: &HttpAnswer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// HTTP-1, HTTP-12
#[tokio::test]
async fn version_reports_server_cluster_and_storage() {
    let server = Server::shared().await;
    let answer = get("/version").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let versions = body(&answer);
    let status = server.client().await.status().await.unwrap();
    assert_eq!(versions["etcdserver"], status.version);
    let (minor, _) = status.version.rsplit_once('.').unwrap();
    assert_eq!(versions["etcdcluster"], format!("{minor}.0"));
    assert_eq!(versions["storage"], status.storage_version);
}

/// HTTP-10
#[tokio::test]
async fn health_is_the_string_true() {
    for path in ["/health", "/health?serializable=true", "/health?exclude=NOSPACE"] {
        let answer = get(path).await;
        assert_eq!(answer.status, 200);
        assert_eq!(body(&answer), json!({"health": "true", "reason": ""}));
    }
    let answer = http(&Server::shared().await.address(), "POST", "/health").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
}

/// HTTP-11
#[tokio::test]
async fn livez_and_readyz_respond_ok_and_name_their_checks() {
    let readyz = ["data_corruption", "serializable_read", "linearizable_read", "non_learner"];
    for (path, checks) in [("/livez", &["serializable_read"][..]), ("/readyz", &readyz)] {
        let answer = get(path).await;
        assert_eq!((answer.status, &answer.body[..]), (200, "ok\n"), "{path}");
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
        let verbose = get(&format!("{path}?verbose")).await;
        for check in checks {
            assert!(verbose.body.contains(&format!("[+]{check} ok\n")), "{verbose:?}");
            assert_eq!(get(&format!("{path}/{check}")).await.status, 200);
        }
        let excluded = get(&format!("{path}?verbose&exclude=serializable_read&exclude=nonsense")).await;
        assert_eq!(excluded.status, 200);
        assert!(!excluded.body.contains("serializable_read"));
        let answer = http(&Server::shared().await.address(), "POST", path).await;
        assert_eq!(answer.status, 405);
    }
}

/// HTTP-4
#[tokio::test]
async fn other_paths_are_not_found() {
    assert_eq!(get("/nothing/here").await.status, 404);
}

/// MET-1, MET-6
#[tokio::test]
async fn metrics_have_the_names_that_dashboards_use() {
    let server = Server::shared().await;
    server.client().await.put("metric", "x").await;
    let answer = get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    let value = |series: &str| -> f64 {
        let line = answer.body.lines().find(|line| line.starts_with(&format!("{series} ")));
        let line = line.unwrap_or_else(|| panic!("no {series} in\n{}", answer.body));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!((value("etcd_server_has_leader") - 1.0).abs() < f64::EPSILON);
    assert!(value("etcd_mvcc_db_total_size_in_bytes") > 0.0);
    assert!(value("etcd_mvcc_db_total_size_in_use_in_bytes") > 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("etcd_debugging_mvcc_current_revision") >= 2.0);
    assert!(value("etcd_disk_wal_fsync_duration_seconds_count") >= 0.0);
    let labelled = |name: &str, labels: &[&str]| -> f64 {
        let of_series =
            |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
        let line = answer.body.lines().find(of_series);
        let line = line.unwrap_or_else(|| panic!("no {name} with {labels:?} in\n{}", answer.body));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let put = [r#"grpc_method="Put""#, r#"grpc_service="etcdserverpb.KV""#, r#"grpc_type="unary""#];
    assert!(labelled("grpc_server_started_total{", &put) >= 1.0);
    assert!(labelled("grpc_server_handled_total{", &[&put[..], &[r#"grpc_code="OK""#]].concat()) >= 1.0);
}
