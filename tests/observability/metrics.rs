//! Each metric is made to move, and is compared with the truth.

use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::PutRequest;
use support::client::put;
use support::metrics::Metrics;
use support::nats::Nats;
use support::server::{Server, signal};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::{becomes, line, value};

const FAILED: &str = "etcd_server_proposals_failed_total";
const CONNECTIONS: &str = "jetway_nats_server_connections";
const SLOW: &str = "jetway_nats_server_slow_consumers_total";

/// The kernel's own word for the memory of a process.
fn resident_bytes(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024.0 * line.trim().trim_end_matches(" kB").parse::<f64>().unwrap()
}

#[tokio::test]
async fn memory_of_both_processes_is_measured_apart() {
    let server = Server::start().await;
    let is_near = |value: f64, pid: u32| {
        let is = resident_bytes(pid);
        (value - is).abs() < is / 4.0
    };
    let (own, nats) = (server.pid(), server.nats_pid());
    becomes(&server, "process_resident_memory_bytes", &[], |value| is_near(value, own)).await;
    becomes(&server, "jetway_nats_server_resident_memory_bytes", &[], |value| is_near(value, nats)).await;
}

/// A refusal is no failure. A write that nobody carries out is one, whether the client waits or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_proposals_are_counted() {
    let mut nats = Nats::start().await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = server.client().await;
    client.put("/k", "v").await;
    client.put_request(PutRequest { lease: 9, ..put("/k", "v") }).await.expect_err("there is no such lease");
    assert!(value(&server, FAILED).await < 0.5);
    nats.kill9();
    client.put_request(put("/k", "w")).await.expect_err("nobody stores it");
    becomes(&server, FAILED, &[], |failed| failed as u64 == 1).await;
    // A lease is a proposal as well.
    client.lease_grant(5, 100).await.expect_err("nobody grants it");
    becomes(&server, FAILED, &[], |failed| failed as u64 == 2).await;
    let timeout = Duration::from_millis(500);
    tokio::time::timeout(timeout, client.put_request(put("/k", "x"))).await.expect_err("it waits");
    becomes(&server, FAILED, &[], |failed| failed as u64 == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_is_measured_against_each_limit() {
    let server = Server::start().await;
    becomes(&server, "jetway_storage_limit_bytes", &[("limit", "disk")], |bytes| bytes > 1e6).await;
    let metrics = Metrics::scrape(&server.address()).await;
    let of = |name: &str, limit| metrics.value(name, &[("limit", limit)]);
    assert!(of("jetway_storage_used_bytes", "disk") < of("jetway_storage_limit_bytes", "disk"));
    assert!((of("jetway_storage_limit_bytes", "quota") - f64::from(1_u32 << 31)).abs() < 0.5);
    // The embedded server sets no other limits.
    assert_eq!(metrics.find("jetway_storage_limit_bytes", &[("limit", "account")]), None);

    let config = "accounts { A { jetstream: { max_file: 90000000 }, users: [{ user: a, password: a }] } }";
    let nats = Nats::start_with(config).await;
    let endpoint = format!("nats://a:a@{}?bucket=test", nats.address());
    let server = Server::start_with(&["--endpoint", &endpoint]).await;
    let account = [("limit", "account")];
    becomes(&server, "jetway_storage_limit_bytes", &account, |bytes| (bytes - 9e7).abs() < 0.5).await;
    let before = becomes(&server, "jetway_storage_used_bytes", &account, |bytes| bytes > 0.0).await;
    server.client().await.put("/k", vec![b'x'; 1 << 19]).await;
    becomes(&server, "jetway_storage_used_bytes", &account, |bytes| bytes >= before + f64::from(1 << 19))
        .await;
    // Only the embedded server is asked for its load.
    assert_eq!(Metrics::scrape(&server.address()).await.find(CONNECTIONS, &[]), None);
}

/// Another client of the embedded server, which does not read, and whom the server therefore disconnects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_slow_consumers_of_the_embedded_server_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("more.conf");
    std::fs::write(&config, "max_pending: 9000000\n").unwrap();
    let server = Server::start_with(&["--nats-config", config.to_str().unwrap()]).await;
    becomes(&server, CONNECTIONS, &[], |connections| connections > 0.5).await;
    assert!(becomes(&server, SLOW, &[], |_| true).await < 0.5);

    let data = server.dir().join("data");
    let written = std::fs::read_to_string(data.join("nats-server.conf")).unwrap();
    let token = written.split("password: \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let ports = std::fs::read_dir(&data)
        .unwrap()
        .flatten()
        .find(|file| file.path().extension().is_some_and(|extension| extension == "ports"));
    let ports = std::fs::read_to_string(ports.unwrap().path()).unwrap();
    let ports: serde_json::Value = serde_json::from_str(&ports).unwrap();
    let address = ports["nats"][0].as_str().unwrap().trim_start_matches("nats://");
    let connect = async |subscription: &str| {
        let mut client = BufReader::new(TcpStream::connect(address).await.unwrap());
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"user\":\"jetway\",\"pass\":\"{token}\"}}\r\n{subscription}PING\r\n"
        );
        client.get_mut().write_all(hello.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while answer != "PONG\r\n" {
            answer.clear();
            assert_ne!(client.read_line(&mut answer).await.unwrap(), 0);
        }
        client
    };
    let mut more = Vec::new();
    for _ in 0..20 {
        more.push(connect("").await);
    }
    // jetway itself has fewer than ten.
    becomes(&server, CONNECTIONS, &[], |now| now > 20.0).await;
    drop(more);
    becomes(&server, CONNECTIONS, &[], |now| now < 10.0).await;

    let slow = connect("SUB $KV.> 1\r\n").await;
    let client = server.client().await;
    while value(&server, SLOW).await < 0.5 {
        client.put("/k", vec![b'x'; 1 << 20]).await;
    }
    line(&server, &["WARN", "disconnected clients that read too slowly", "clients=1"]).await;
    drop(slow);
}

/// A scrape asks nobody, so it is quick when NATS stands still, and shows that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_is_quick_while_nats_stands_still() {
    let server = Server::start().await;
    becomes(&server, "jetway_jetstream_available", &[], |is| is > 0.5).await;
    let nats = server.nats_pid();
    signal(nats, libc::SIGSTOP);
    let mut slowest = Duration::ZERO;
    while value(&server, "jetway_jetstream_available").await > 0.5 {
        let begun = Instant::now();
        Metrics::scrape(&server.address()).await;
        slowest = slowest.max(begun.elapsed());
    }
    signal(nats, libc::SIGCONT);
    // JetStream's API is given up after five seconds.
    assert!(slowest < Duration::from_secs(2), "a scrape took {slowest:?}");
    becomes(&server, "jetway_jetstream_available", &[], |is| is > 0.5).await;
}

/// The page for operators names each metric of jetway's own, and no other.
#[tokio::test]
async fn the_page_and_the_program_have_the_same_metrics() {
    const PAGE: &str = include_str!("../../docker/OPERATING.md");
    // Only a cluster has replicas and foreign servers, and only a mirror has a lag.
    const OF_OTHERS: [&str; 5] = [
        "jetway_server_without_member",
        "jetway_stream_replica_lag_operations",
        "jetway_stream_replica_current",
        "jetway_mirror_lag_messages",
        "jetway_mirror_silence_seconds",
    ];
    // Those of scheduled snapshots are there when one was saved.
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let server = Server::start_with(&["--snapshot-schedule", "1s", "--snapshot-dir", dir]).await;
    becomes(&server, CONNECTIONS, &[], |_| true).await;
    becomes(&server, "jetway_snapshot_last_duration_seconds", &[], |_| true).await;
    let metrics = Metrics::scrape(&server.address()).await;
    let own = metrics.types.keys().map(String::as_str).filter(|name| name.starts_with("jetway_"));
    let mut shown: Vec<&str> = own.chain(OF_OTHERS).collect();
    let words = PAGE.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    // The page also names packages, as jetway_<version>_<arch>.deb.
    let is_name = |word: &&str| word.strip_prefix("jetway_").is_some_and(|rest| !rest.is_empty());
    let mut named: Vec<&str> = words.filter(is_name).collect();
    for names in [&mut shown, &mut named] {
        names.sort_unstable();
        names.dedup();
    }
    assert_eq!(named, shown);
}
