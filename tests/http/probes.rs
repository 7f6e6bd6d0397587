//! `/health`, `/livez` and `/readyz`.

use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use jetway::proto::etcdserverpb::{AlarmRequest, AlarmType};
use support::http::http;
use support::server::Server;

use crate::is;
use support::metrics::Metrics;

/// HTTP-10, HTTP-11
#[tokio::test]
async fn probes_report_alarms() {
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
async fn each_check_has_its_own_path() {
    let server = Server::shared().await;
    let address = server.address();
    is(&address, "GET", "/livez/serializable_read?verbose", 200, "[+]serializable_read ok\nok\n").await;
    is(&address, "GET", "/readyz/non_learner?verbose", 200, "[+]non_learner ok\nok\n").await;
    for path in ["/livez/linearizable_read", "/livez/nothing", "/readyz/", "/livez/"] {
        is(&address, "GET", path, 404, "404 page not found\n").await;
    }
    is(&address, "GET", "/livez?verbose&exclude=serializable_read", 200, "ok\n").await;
}
