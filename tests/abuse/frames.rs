//! Bytes on the port that are no HTTP at all, and HTTP/2 that is meant to exhaust a server.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::healthy_client::HealthyClient;
use crate::process::Memory;
use support::http2::*;
use support::server::{Server, Target};
use support::within;

const RANGE: &str = "/etcdserverpb.KV/Range";

/// Random bytes, alone and behind the preface of HTTP/2. The server must close the connection after the
/// client has closed its side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_end_only_their_own_connection() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let mut rng = StdRng::seed_from_u64(1);
    let settings = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for n in 0..300 {
        let mut garbage = vec![0; rng.random_range(1..4096)];
        rng.fill_bytes(&mut garbage);
        let before: &[u8] = match n % 4 {
            0 => b"",
            1 => b"GET /health HTTP/1.1\r\n",
            2 => PREFACE,
            _ => &settings,
        };
        let mut connection = Connection::open(&server).await;
        connection.send(before).await;
        connection.send(&garbage).await;
        drop(connection.io.shutdown().await);
        let mut rest = Vec::new();
        // Closed or reset; the server may have had enough before it had read everything.
        drop(within("the end of the connection", connection.io.read_to_end(&mut rest)).await);
    }
    memory.stayed_below("garbage", 50);
    healthy.finish().await;
}

/// Well-formed frames with nonsense in them: wrong streams, flags, lengths and payloads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_end_only_their_own_connection() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..300 {
        let mut connection = Connection::http2(&server).await;
        connection.open_stream(1, RANGE).await;
        let mut frames = Vec::new();
        for _ in 0..50 {
            let mut payload = vec![0; rng.random_range(0..64)];
            rng.fill_bytes(&mut payload);
            let stream = if rng.random_bool(0.5) { 1 } else { rng.random_range(0..8) };
            frames.extend(frame(rng.random_range(0..12), rng.random(), stream, &payload));
        }
        connection.send(&frames).await;
        drop(connection.io.shutdown().await);
        connection.ended().await;
    }
    memory.stayed_below("frames without sense", 50);
    healthy.finish().await;
}

/// RFC 9113: a frame may not be longer than the server has allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_frame_is_refused_by_its_header() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    for kind in [DATA, HEADERS, SETTINGS, PING, CONTINUATION, 77] {
        let mut connection = Connection::http2(&server).await;
        connection.open_stream(1, RANGE).await;
        let mut head = frame(kind, 0, 1, &[]);
        head[..3].fill(0xff);
        connection.send(&head).await;
        connection.send(&[0; 100]).await;
        // FRAME_SIZE_ERROR; etcd closes without a word.
        let code = connection.ended().await;
        assert!(matches!(code, None | Some(6)), "type {kind}: {code:?}");
    }
    healthy.finish().await;
}

/// A header of four thousand bytes put into the table once and then named by one byte each: a few kilobytes
/// that stand for many megabytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_indexed_headers_take_bounded_memory() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut connection = Connection::http2(&server).await;
        // With incremental indexing, so that it becomes entry 62.
        let mut insert = vec![0x40];
        integer(&mut insert, 0, 7, 1);
        insert.push(b'x');
        integer(&mut insert, 0, 7, 4000);
        insert.extend([b'v'; 4000]);
        let first = [call(RANGE), insert].concat();
        connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first)).await;
        for stream in (3..20).step_by(2) {
            let bomb = [call(RANGE), vec![0x80 | 62; 15_000]].concat();
            if !connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb)).await {
                break;
            }
        }
        let alive = connection.ping().await;
        connections.push((connection, alive));
    }
    let alive = connections.iter().filter(|(_, alive)| *alive).count();
    println!("{alive} of {} connections outlive the bomb", connections.len());
    memory.stayed_below("HPACK bombs", 100);
    healthy.finish().await;
}

/// Headers that never end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_continuations_end_the_connection() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    for payload in [vec![], field("x", b"y"), field("x", &[b'y'; 16_000])] {
        let mut connection = Connection::http2(&server).await;
        connection.send(&frame(HEADERS, 0, 1, &call(RANGE))).await;
        let more: Vec<u8> = frame(CONTINUATION, 0, 1, &payload);
        let batch = more.repeat((256 << 10) / more.len());
        let mut sent = 0;
        while connection.send(&batch).await {
            sent += batch.len();
            if sent > 64 << 20 {
                // Go reads empty ones for as long as they come.
                assert_eq!(server.target(), Target::Etcd, "continuations of {} bytes go on", payload.len());
                break;
            }
        }
        println!("continuations of {} bytes: cut off after {sent}", payload.len());
    }
    memory.stayed_below("continuations", 100);
    healthy.finish().await;
}

/// Calls that are cancelled as soon as they are made, a hundred thousand on each of two connections, one
/// after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_take_bounded_memory_and_leave_other_clients_served() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let headers = call(RANGE);
    for _ in 0..2 {
        let mut connection = Connection::http2(&server).await;
        let mut sent = 0;
        while sent < 100_000 {
            let mut frames = Vec::new();
            for n in sent..sent + 1000 {
                frames.extend(frame(HEADERS, END_HEADERS, 1 + 2 * n, &headers));
                frames.extend(frame(RST_STREAM, 0, 1 + 2 * n, &CANCEL.to_be_bytes()));
            }
            if !connection.send(&frames).await {
                break;
            }
            sent += 1000;
        }
        let alive = connection.ping().await;
        println!("{sent} calls made and cancelled; the connection lives on: {alive}");
        println!("{} MiB", memory.grown() >> 20);
    }
    memory.stayed_below("rapid resets", 250);
    healthy.finish().await;
}

/// Frames that want an answer, from a client that never reads one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_responses_take_bounded_memory() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    for (what, frames) in [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("settings that resize the table", frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 16, 0])),
        ("windows", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("streams that are closed", frame(RST_STREAM, 0, 1, &[0; 4])),
    ] {
        let memory = Memory::of(&server);
        let mut connection = Connection::http2(&server).await;
        connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &call(RANGE))).await;
        let batch = frames.repeat((64 << 10) / frames.len());
        let mut sent = 0;
        // It stops reading, or closes, or takes it all without keeping any.
        while sent < 32 << 20 {
            let sending = tokio::time::timeout(Duration::from_secs(2), connection.io.write_all(&batch));
            let Ok(Ok(())) = sending.await else { break };
            sent += batch.len();
        }
        memory.stayed_below(&format!("{sent} bytes of {what}"), 50);
    }
    healthy.finish().await;
}

/// Part of the preface, and then silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_prefaces_do_not_delay_other_clients() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let mut connections = Vec::new();
    for n in 0..200 {
        let mut connection = Connection::open(&server).await;
        connection.send(&PREFACE[..n % PREFACE.len()]).await;
        connections.push(connection);
    }
    memory.stayed_below("half prefaces", 50);
    healthy.finish().await;
}
