//! Very many connections, and those that never get to the point.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bystander::Bystander;
use crate::process::{Memory, raise_descriptor_limit};
use crate::raw::*;
use crate::support::server::{Server, Target};
use crate::support::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections() {
    const CONNECTIONS: usize = 10_000;
    let limit = raise_descriptor_limit();
    if limit < CONNECTIONS as u64 + 1000 {
        return println!("skipped: a process may open only {limit} files here");
    }
    let server = Server::start().await;
    let bystander = Bystander::start(&server).await;
    let memory = Memory::of(&server);
    let began = Instant::now();
    let mut connections = Vec::new();
    while connections.len() < CONNECTIONS {
        connections.extend(join_all((0..200).map(|_| Connection::http2(&server))).await);
    }
    for connection in &mut connections {
        assert!(connection.is_alive().await);
    }
    println!("{CONNECTIONS} connections in {:?}", began.elapsed());
    memory.stayed_below("10,000 connections", 500);
    // One more, who wants something.
    server.client().await.put("/late", "v").await;
    drop(connections);
    server.client().await.put("/later", "v").await;
    bystander.finish().await;
}

/// Clients that send a byte now and then and never a whole request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_loris() {
    let server = Server::start().await;
    let bystander = Bystander::start(&server).await;
    let memory = Memory::of(&server);
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let preface = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    // How far each kind gets at once before it becomes slow.
    let starts: [(&str, &[u8]); 5] = [
        ("silence", b""),
        ("a request line", &request[..20]),
        ("headers", request),
        ("half a preface", &PREFACE[..10]),
        ("half a frame", &preface[..preface.len() - 4]),
    ];
    let loris = starts.iter().flat_map(|start| std::iter::repeat_n(start, 100)).map(async |(what, start)| {
        let mut connection = Connection::open(&server).await;
        connection.send(start).await;
        let began = Instant::now();
        let mut byte = [0; 1000];
        while began.elapsed() < Duration::from_secs(40) {
            let read = tokio::time::timeout(Duration::from_secs(2), connection.stream.read(&mut byte)).await;
            if let Ok(Ok(0) | Err(_)) = read {
                return (*what, Some(began.elapsed()));
            }
            let slow: &[u8] = if what.starts_with("half") || *what == "silence" { b"" } else { b"y" };
            if connection.stream.write_all(slow).await.is_err() {
                return (*what, Some(began.elapsed()));
            }
        }
        (*what, None)
    });
    let ends = join_all(loris).await;
    for (what, _) in starts {
        let open = ends.iter().filter(|(kind, end)| *kind == what && end.is_none()).count();
        let last = ends.iter().filter(|(kind, _)| *kind == what).filter_map(|(_, end)| *end).max();
        println!("{what}: {open} still open, the last one closed after {last:?}");
        if server.target() == Target::Jetway && what != "half a frame" {
            assert_eq!(open, 0, "{what}");
        }
    }
    memory.stayed_below("slow loris", 50);
    bystander.finish().await;
}

/// Headers of a size that no client has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_headers() {
    let server = Server::start().await;
    let bystander = Bystander::start(&server).await;
    let memory = Memory::of(&server);
    for size in [8 << 10, 64 << 10, 512 << 10, 4 << 20] {
        let mut connection = Connection::open(&server).await;
        let value = vec![b'v'; size];
        let request = [b"GET /version HTTP/1.1\r\nHost: a\r\nX: ".as_slice(), &value, b"\r\n\r\n"].concat();
        connection.send(&request).await;
        let mut answer = vec![0; 100];
        let read = within("an answer", connection.stream.read(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer[..read.unwrap_or(0)]).into_owned();
        println!("HTTP/1.1 with a header of {size}: {:?}", answer.lines().next());
    }
    memory.stayed_below("huge headers", 100);
    bystander.finish().await;
}
