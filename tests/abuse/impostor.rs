//! A program that listens on the port of the embedded nats-server while that is down.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use support::eventually;
use support::server::{Server, Target, signal};

/// The port of the nats-server that keeps its data there.
fn port(data: &Path) -> Option<u16> {
    let mut files = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|extension| extension == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
}

const INFO: &str = concat!(
    r#"INFO {"server_id":"x","server_name":"x","version":"2.15.1","go":"go1.26","host":"127.0.0.1","port":1,"#,
    r#""headers":true,"jetstream":true,"max_payload":8388608,"proto":1,"auth_required":true}"#,
    "\r\n"
);

/// Plays a nats-server, and keeps each line that it gets.
async fn collect(mut stream: TcpStream, lines: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let (from, mut to) = stream.split();
    to.write_all(INFO.as_bytes()).await?;
    let mut from = BufReader::new(from).lines();
    while let Some(line) = from.next_line().await? {
        if line == "PING" {
            to.write_all(b"PONG\r\n").await?;
        }
        lines.lock().unwrap().push(line);
    }
    Ok(())
}

/// Logs in to a nats-server with a line that was collected; returns its answer.
async fn replay(port: u16, connect: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    stream.write_all(format!("{connect}\r\nPING\r\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let info = lines.next_line().await.unwrap().unwrap();
    assert!(info.starts_with("INFO "), "{info}");
    lines.next_line().await.unwrap().unwrap_or_default()
}

/// The credentials that jetway sends to whatever has its port open no door, before and after the restart of
/// the real server, and jetway goes on once the port is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_on_the_port_of_a_dead_nats_server_collects_nothing_of_use() {
    let server = Server::launch(Target::Jetway, &[]).await;
    let data = server.dir().join("data");
    let client = server.client().await;
    client.put("before", "v").await;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port(&data).expect("it runs")));
    // The supervisor pauses longer after each kill, so that the other program comes first in the end.
    let listener = eventually("the port is taken", async || {
        if let Ok(listener) = TcpListener::bind(at).await {
            return Some(listener);
        }
        if let Some(pid) = server.find_nats_pid() {
            signal(pid, libc::SIGKILL);
        }
        None
    })
    .await;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let thief = tokio::spawn({
        let lines = Arc::clone(&lines);
        async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(collect(stream, Arc::clone(&lines)));
            }
        }
    });
    // nats-server is tried on its port, and clients have had the time of several attempts.
    eventually("nats-server finds its port taken three times", async || {
        (server.log().matches("Error listening on port").count() >= 3).then_some(())
    })
    .await;
    thief.abort();
    drop(thief.await);
    // It needs its server again.
    client.put("after", "v").await;
    let now_on = port(&data).expect("it runs");
    assert_eq!(now_on, at.port(), "clients know no other port");
    let lines = lines.lock().unwrap().clone();
    println!("collected: {} lines", lines.len());
    for connect in lines.iter().filter(|line| line.starts_with("CONNECT ")) {
        let answer = replay(now_on, connect).await;
        assert!(answer.contains("Authorization Violation"), "{connect} opens it: {answer}");
    }
}
