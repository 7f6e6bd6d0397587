//! Very many connections, and those that never get to the point.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::healthy_client::HealthyClient;
use crate::process::{Memory, raise_descriptor_limit};
use support::http2::*;
use support::server::{Server, Target};
use support::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_are_served() {
    const CONNECTIONS: usize = 10_000;
    let (limit, needed) = (raise_descriptor_limit(), CONNECTIONS as u64 + 1000);
    assert!(
        limit >= needed,
        "a process may open {limit} files here: raise that to {needed} with `ulimit -Hn`"
    );
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let began = Instant::now();
    let mut connections = Vec::new();
    while connections.len() < CONNECTIONS {
        connections.extend(join_all((0..200).map(|_| Connection::http2(&server))).await);
    }
    for connection in &mut connections {
        assert!(connection.ping().await);
    }
    println!("{CONNECTIONS} connections in {:?}", began.elapsed());
    memory.stayed_below("10,000 connections", 500);
    // One more, who wants something.
    server.client().await.put("/late", "v").await;
    drop(connections);
    server.client().await.put("/later", "v").await;
    healthy.finish().await;
}

/// Clients that send a byte now and then and never a whole request. etcd gives them minutes, or for ever;
/// what matters is that nobody else waits for them, and in the end they are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_finish_a_request_are_disconnected() {
    let server = Server::start().await;
    // jetway gives each step half a minute.
    let timeout = Duration::from_secs(if server.target() == Target::Jetway { 50 } else { 5 });
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let preface = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    // How far each kind gets at once, and what it sends from then on.
    let kinds: [(&str, &[u8], &[u8]); 6] = [
        ("silence", b"", b""),
        ("a request line", &request[..20], b"y"),
        ("headers", request, b"y"),
        ("half a preface", &PREFACE[..10], b""),
        ("half a frame", &preface[..preface.len() - 4], b""),
        ("half a handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b""),
    ];
    let all = kinds.iter().flat_map(|kind| std::iter::repeat_n(kind, 100));
    let loris = all.map(async |(what, start, more)| {
        let mut connection = Connection::open(&server).await;
        connection.send(start).await;
        let began = Instant::now();
        let mut answer = [0; 1000];
        while began.elapsed() < timeout {
            let reading = connection.io.read(&mut answer);
            let read = tokio::time::timeout(Duration::from_secs(2), reading).await;
            if matches!(read, Ok(Ok(0) | Err(_))) || connection.io.write_all(more).await.is_err() {
                return (*what, Some(began.elapsed()));
            }
        }
        (*what, None)
    });
    let ends = join_all(loris).await;
    for (what, _, _) in kinds {
        let ends: Vec<_> = ends.iter().filter(|(kind, _)| *kind == what).map(|(_, end)| *end).collect();
        let open = ends.iter().filter(|end| end.is_none()).count();
        println!("{what}: {open} still open, the last one closed after {:?}", ends.iter().flatten().max());
        assert!(open == 0 || server.target() == Target::Etcd, "{what}");
    }
    memory.stayed_below("slow loris", 50);
    healthy.finish().await;
}

/// Headers that are longer than any client's, up to where they are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_accepted_up_to_a_limit() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    for (size, status) in [(8 << 10, "200 OK"), (64 << 10, "200 OK"), (4 << 20, "431 ")] {
        let mut connection = Connection::open(&server).await;
        let value = vec![b'v'; size];
        let request = [b"GET /version HTTP/1.1\r\nHost: a\r\nX: ".as_slice(), &value, b"\r\n\r\n"].concat();
        connection.send(&request).await;
        let mut answer = vec![0; 100];
        let read = within("an answer", connection.io.read(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{size}: {answer}");
    }
    for (size, is_taken) in [(8_000, true), (100_000, true), (1_000_000, true), (20_000_000, false)] {
        let value: &'static str = "v".repeat(size).leak();
        let client = server.client().await.with_metadata("token", value);
        assert_eq!(client.get("k").await.is_ok(), is_taken, "metadata of {size}");
    }
    memory.stayed_below("huge headers", 100);
    healthy.finish().await;
}
