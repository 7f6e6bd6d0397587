//! A start on a bucket that holds much: it reports its progress, and goes on after its connections break off.

use tokio::net::TcpStream;

use support::client::{all, delete, op, put, run};
use support::eventually;
use support::http::http;
use support::nats::Nats;
use support::proxy::Proxy;
use support::server::Server;

const KEYS: usize = 6000;

fn key(at: usize) -> String {
    format!("/load/{at:05}")
}

/// Writes so many messages that the half of them is more than a batch; compacts a part of their revisions.
/// Returns the last revision, and the number of messages that are left: those of keys, and the records beside
/// them.
async fn fill(nats: &Nats) -> (i64, u64) {
    let mut writer = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = writer.client().await;
    let value = "v".repeat(300);
    for first in (0..KEYS).step_by(100) {
        let puts = (first..first + 100).map(|at| op(put(key(at), &value))).collect();
        client.txn(run(puts)).await.unwrap();
    }
    for at in 0..20 {
        client.put(key(at), "again").await;
    }
    let floor = client.put("/load/floor", "").await;
    client.compact(floor).await.unwrap();
    let revision = client.txn(run(vec![op(delete(key(7))), op(put(key(8), "last"))])).await.unwrap();
    let revision = revision.header.unwrap().revision;
    let left = KEYS as u64 + 1 + 2;
    eventually("what is compacted to be gone", async || {
        let of_keys = serde_json::json!({ "subjects_filter": "$KV.test.=.>" });
        let info = nats.api("STREAM.INFO.KV_test", &of_keys).await;
        let counts = info["state"]["subjects"].as_object().expect("keys");
        let messages: u64 = counts.values().filter_map(serde_json::Value::as_u64).sum();
        (messages == left).then_some(())
    })
    .await;
    writer.stop().await;
    let info = nats.api("STREAM.INFO.KV_test", &serde_json::Value::Null).await;
    (revision, info["state"]["messages"].as_u64().expect("a number"))
}

fn progress(body: &str, of: u64) -> Option<u64> {
    let loaded = body.strip_prefix("[-]start failed: loading the log: ")?;
    loaded.strip_suffix(&format!(" of {of} messages\n\n"))?.parse().ok()
}

#[tokio::test]
async fn a_start_reports_its_progress_and_takes_up_a_load_that_broke_off() {
    let nats = Nats::start().await;
    let (revision, messages) = fill(&nats).await;
    let proxy = Proxy::to(nats.address(), KEYS / 2 * 500).await;
    let endpoint = format!("nats://{}?bucket=test", proxy.address);
    let mut server = Server::prepare(&["--endpoint", &endpoint]);
    let address = server.address();
    let watching = async {
        eventually("the ports", async || TcpStream::connect(&address).await.ok()).await;
        eventually("a part of the load", async || {
            let answer = http(&address, "GET", "/readyz").await;
            assert_eq!(answer.status, 503, "{answer:?}");
            progress(&answer.body, messages).filter(|loaded| (1..messages).contains(loaded))
        })
        .await;
        // It is no reason to start the server again.
        assert_eq!(http(&address, "GET", "/livez").await.status, 200);
        proxy.open();
    };
    tokio::join!(server.restart(), watching);
    let log = server.log();
    assert!(log.contains("loading the log"), "{log}");
    let client = server.client().await;
    let found = client.range(all("/load/")).await.unwrap();
    assert_eq!(found.header.unwrap().revision, revision);
    let expect: Vec<String> =
        (0..KEYS).filter(|at| *at != 7).map(key).chain(["/load/floor".to_owned()]).collect();
    let keys: Vec<_> = found.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect();
    assert_eq!(keys, expect);
    for (kv, at) in found.kvs.iter().zip((0..KEYS).filter(|at| *at != 7)) {
        let value = match at {
            8 => "last".to_owned(),
            0..20 => "again".to_owned(),
            _ => "v".repeat(300),
        };
        assert_eq!(kv.value, value.as_bytes(), "{at}");
        let expect = if at < 20 { if at == 8 { 3 } else { 2 } } else { 1 };
        assert_eq!((kv.create_revision, kv.version), (at as i64 / 100 + 2, expect), "{at}");
    }
}
