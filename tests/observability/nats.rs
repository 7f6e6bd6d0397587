//! A NATS that stands still or loses a leader.

use serde_json::json;
use support::client::{get, put};
use support::eventually;
use support::nats::Nats;
use support::server::{Server, signal};
use tonic::Code;

use crate::{becomes, line, lines};

/// Stops a process and waits until it stands still: its threads may work on for a moment.
async fn pause(pid: u32) {
    signal(pid, libc::SIGSTOP);
    eventually("the process to stand still", async || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let states = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        states.into_iter().all(|stat| stat.contains(") T ")).then_some(())
    })
    .await;
}

/// Fault 28: the errors of calls name the true cause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_name_a_nats_that_stands_still() {
    let embedded = Server::start().await;
    let nats = Nats::start().await;
    let external = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    for (server, pid) in [(&embedded, embedded.nats_pid()), (&external, nats.pid())] {
        let client = server.client().await;
        client.put("/k", "v").await;
        pause(pid).await;
        let (write, read, list) =
            tokio::join!(client.put_request(put("/k", "w")), client.range(get("/k")), client.members());
        let write = write.expect_err("nothing is stored");
        let mut errors = vec![write];
        // The embedded server's only writer knows what it has written.
        errors.extend(read.err());
        errors.extend(list.err());
        assert!(errors.len() == 3 || std::ptr::eq(server, &raw const embedded), "{errors:?}");
        for status in errors {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            let words = ["stands still", "does not answer", "no answer"];
            assert!(words.iter().any(|word| status.message().contains(word)), "{status}");
            assert!(!status.message().contains("permitted"), "{status}");
        }
        signal(pid, libc::SIGCONT);
        eventually("a write", async || client.put_request(put("/k", "w")).await.ok()).await;
    }
}

/// Fault 28: the member list names the URL that was given.
#[tokio::test]
async fn the_member_list_has_the_peer_url_of_the_flag() {
    let url = "http://10.9.8.7:2380";
    let server = Server::start_with(&["--initial-advertise-peer-urls", url]).await;
    let members = server.client().await.members().await.unwrap().members;
    assert_eq!(members[0].peer_ur_ls, [url]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_of_the_stream_and_its_replicas_are_measured() {
    let mut nodes = Nats::cluster().await;
    let servers: Vec<String> = nodes.iter().map(Nats::address).collect();
    let endpoint = format!("nats://{}?bucket=test&replicas=3", servers.join(","));
    let server = Server::start_with(&["--endpoint", &endpoint]).await;
    let client = server.client().await;
    client.put("/k", "v").await;
    let leader = async |nodes: &[Nats; 3]| {
        let node = nodes.iter().find(|node| node.is_running()).expect("one runs");
        let info = node.api("STREAM.INFO.KV_test", &json!(null)).await;
        let leader = info["cluster"]["leader"].as_str().unwrap_or_default().to_owned();
        nodes.iter().position(|node| node.name() == leader)
    };
    let first = eventually("a leader", async || leader(&nodes).await).await;
    let replica = (first + 1) % 3;
    let of = |server: &'static str| [("server", server)];
    let name: &'static str = ["n0", "n1", "n2"][replica];
    becomes(&server, "jetway_stream_replica_current", &of(name), |is| is > 0.5).await;
    becomes(&server, "jetway_stream_has_leader", &[], |has| has > 0.5).await;

    // A replica that is away lags.
    nodes[replica].kill9();
    becomes(&server, "jetway_stream_replica_current", &of(name), |is| is < 0.5).await;
    for n in 0..50 {
        client.put(format!("/k{n}"), "v").await;
    }
    becomes(&server, "jetway_stream_replica_lag_operations", &of(name), |lag| lag > 40.0).await;
    nodes[replica].restart().await;
    becomes(&server, "jetway_stream_replica_current", &of(name), |is| is > 0.5).await;
    becomes(&server, "jetway_stream_replica_lag_operations", &of(name), |lag| lag < 0.5).await;

    // Another leader.
    nodes[first].kill9();
    becomes(&server, "jetway_stream_leader_changes_total", &[], |changes| changes > 0.5).await;
    let before = format!("before=\"{}\"", ["n0", "n1", "n2"][first]);
    line(&server, &["INFO", "the stream has a new leader", &before]).await;
    eventually("a write", async || client.put_request(put("/k", "w")).await.ok()).await;

    // None.
    let second = eventually("a leader", async || leader(&nodes).await).await;
    let third = 3 - first - second;
    nodes[third].kill9();
    becomes(&server, "jetway_stream_has_leader", &[], |has| has < 0.5).await;
    line(&server, &["WARN", "the stream has no leader", "KV_test"]).await;
    // One server of three has no meta leader either.
    becomes(&server, "jetway_jetstream_available", &[], |is| is < 0.5).await;
    nodes[first].restart().await;
    becomes(&server, "jetway_stream_has_leader", &[], |has| has > 0.5).await;
    becomes(&server, "jetway_jetstream_available", &[], |is| is > 0.5).await;
    // One line for each time without a leader. The election after the first kill may be one of them.
    let logged = lines(&server, &["the stream has no leader"]).len();
    assert!(logged == 1 || logged == 2, "{logged}: {}", server.log());
    // It outlived all of it.
    eventually("a write", async || client.put_request(put("/k", "w")).await.ok()).await;
}

/// An error that the server reported on a connection that went on is not why the connection ended later. The
/// same error, every two seconds, is not a line each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_error_is_not_the_cause_of_a_loss() {
    let rights = "permissions: { publish: { deny: \"$JS.API.INFO\" } }";
    let user = format!("{{ user: jw, password: pw, {rights} }}");
    let mut nats = Nats::start_with(&format!("authorization {{ users: [ {user} ] }}")).await;
    let endpoint = format!("nats://jw:pw@{}?bucket=test", nats.address());
    let server = Server::start_with(&["--endpoint", &endpoint]).await;
    let client = server.client().await;
    client.put("/k", "v").await;
    line(&server, &["WARN", "Permissions Violation", "$JS.API.INFO"]).await;
    nats.kill9();
    let lost = line(&server, &["WARN", "the connection to NATS is lost"]).await;
    assert!(lost.contains("closed the connection") && !lost.contains("ermission"), "{lost}");
    let refused = client.put_request(put("/k", "w")).await.expect_err("nobody stores it");
    assert!(!refused.message().contains("ermission"), "{refused}");
}

/// A server that is about to stop announces it before it disconnects its clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_about_to_stop_is_logged() {
    let nats = Nats::start().await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    server.client().await.put("/k", "v").await;
    nats.signal(libc::SIGUSR2);
    line(&server, &["WARN", "about to stop", "lame duck"]).await;
    line(&server, &["WARN", "the connection to NATS is lost"]).await;
}
