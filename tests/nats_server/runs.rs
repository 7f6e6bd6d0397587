//! Runs of the child: the port, the data, and restarts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use jetway::nats_server::{NatsServer, Status, client_url};
use support::server::{alive, signal};
use support::{TIMEOUT, eventually};
use tempfile::TempDir;

use super::{ask, connect, ports_files, running_after, server_pid, settings};

#[tokio::test]
async fn a_stopped_server_leaves_no_process_and_no_ports_file() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let port = server.port().unwrap();
    assert_eq!(*server.status().borrow(), Status::Running { port, generation: 1 });
    assert_eq!(server.client_url().unwrap(), client_url(port));

    let client = connect(&server).await;
    let info = client.server_info();
    assert_eq!(info.version, server.version());
    assert_eq!(info.max_payload, 8 << 20);
    let config = dir.path().join("nats-server.conf");
    assert_eq!(config.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    async_nats::connect(client_url(port)).await.expect_err("a connection without the token is refused");

    let pid = server_pid(dir.path());
    assert!(alive(pid));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap();
    assert_eq!(group, pid.to_string(), "alone in its process group, out of reach of Ctrl-C");
    server.stop().await.unwrap();
    assert!(!alive(pid));
    assert_eq!(ports_files(dir.path()), 0);
    assert_eq!(*server.status().borrow(), Status::Stopped);
    assert_eq!(server.port(), None);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_handle_stops_the_server() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let pid = server_pid(dir.path());
    drop(server);
    eventually("the server is gone", async || (!alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn a_killed_server_is_restarted_on_its_port_with_its_data() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let port = server.port().unwrap();
    let client = connect(&server).await;
    let stream = r#"{"name":"kept","subjects":["kept.>"],"storage":"file","num_replicas":1}"#;
    let created = ask(&client, "$JS.API.STREAM.CREATE.kept", stream).await;
    assert!(created.get("error").is_none(), "{created}");

    let mut generation = 1;
    for published in 1..=3_u64 {
        let ack = ask(&client, "kept.one", "value").await;
        assert_eq!(ack["seq"], published, "{ack}");
        let pid = server_pid(dir.path());
        signal(pid, libc::SIGKILL);
        let (now_on, now) = running_after(&server, generation).await;
        assert_eq!((now_on, now), (port, generation + 1));
        assert_ne!(server_pid(dir.path()), pid);
        generation = now;
        // The same client reconnects by itself, with the token of this run.
        let info = ask(&client, "$JS.API.STREAM.INFO.kept", "").await;
        assert_eq!(info["state"]["messages"], published, "{info}");
    }
    server.stop().await.unwrap();
}

/// A store that has refused one write refuses all, in silence, until its server is restarted.
#[tokio::test]
async fn a_store_that_refuses_writes_is_reported_and_the_server_restarted() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let client = connect(&server).await;
    ask(&client, "$JS.API.STREAM.CREATE.kept", r#"{"name":"kept","subjects":["kept.>"],"storage":"file"}"#)
        .await;
    assert_eq!(*server.write_error().borrow(), None);

    let reserve = dir.path().join("reserve");
    assert!(reserve.exists(), "the disk has no room for the reserve");
    // A write error that no room can mend: no file of this process may grow beyond 100 kB. The next process
    // is not limited.
    let pid = server_pid(dir.path()).to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, "--fsize=100000"]).status().unwrap().success());
    let mut write_error = server.write_error();
    let value = "x".repeat(1000);
    let noticed = async {
        while write_error.borrow().is_none() {
            client.publish("kept.one", value.clone().into()).await.unwrap();
            client.flush().await.unwrap();
        }
    };
    tokio::time::timeout(TIMEOUT, noticed).await.expect("the write error is reported");
    let text = write_error.borrow_and_update().clone().unwrap();
    assert!(text.contains("file too large"), "{text}");

    let mut status = server.status();
    let cause = status.wait_for(|status| matches!(status, Status::Restarting { .. }));
    let cause = tokio::time::timeout(TIMEOUT, cause).await.expect("it is restarted").unwrap().clone();
    assert!(matches!(&cause, Status::Restarting { cause, .. } if cause.contains(&text)), "{cause:?}");
    assert!(reserve.exists(), "the reserve is spent where no room is wanting");
    running_after(&server, 1).await;
    assert_eq!(*server.write_error().borrow(), None);
    let ack = ask(&client, "kept.one", "value").await;
    assert!(ack["seq"].as_u64() > Some(1), "{ack}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_that_was_taken_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let port = server.port().unwrap();
    // The supervisor pauses longer after each kill, so that the thief comes first in the end.
    let mut stolen = None;
    eventually("the port is taken", async || {
        stolen = std::net::TcpListener::bind(("127.0.0.1", port)).ok();
        let pid = server_pid(dir.path());
        if stolen.is_none() && alive(pid) {
            signal(pid, libc::SIGKILL);
        }
        stolen.is_some().then_some(())
    })
    .await;
    let mut status = server.status();
    let tried = status.wait_for(
        |status| matches!(status, Status::Restarting { cause, .. } if cause.contains("address already in use")),
    );
    tokio::time::timeout(TIMEOUT, tried).await.expect("it is tried").expect("the supervisor lives");
    assert_eq!(*server.token().borrow(), None);
    drop(stolen);
    assert_eq!(running_after(&server, 1).await.0, port);
    connect(&server).await;
    server.stop().await.unwrap();
}
