//! Clients that ask for much and read nothing of it.

use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::*;

use crate::healthy_client::HealthyClient;
use crate::process::Memory;
use support::client::*;
use support::server::Server;
use support::watch::{WatchStream, watch_all};
use support::within;

const VALUE: usize = 1 << 20;

/// A store of so many mebibytes.
async fn filled(mebibytes: usize) -> (Server, Client) {
    let server = Server::start_with(&["--quota-backend-bytes", "8589934592"]).await;
    let client = server.client().await;
    for n in 0..mebibytes {
        client.put(format!("/big/{n:04}"), vec![n as u8; VALUE]).await;
    }
    (server, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_of_two_hundred_mebibytes_is_sent() {
    let (server, client) = filled(200).await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let began = Instant::now();
    let answer = client.range(all("/big/")).await.unwrap();
    assert_eq!(answer.kvs.len(), 200);
    assert!(answer.kvs.iter().all(|kv| kv.value.len() == VALUE));
    println!("200 MiB in {:?}", began.elapsed());
    drop(answer);
    memory.stayed_below("one answer of 200 MiB", 700);
    healthy.finish().await;
}

/// The answer is one message, and whoever does not read it holds that much; a stream holds no more than a
/// window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_range_streams_take_bounded_memory() {
    let (server, client) = filled(100).await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let mut streams = Vec::new();
    for _ in 0..50 {
        // A connection each, since the window of one is shared by its streams.
        let reader = server.client().await;
        let stream: tonic::Streaming<RangeStreamResponse> =
            reader.server_stream("/etcdserverpb.KV/RangeStream", all("/big/")).await.unwrap();
        streams.push((reader, stream));
    }
    // A stream reads its own revision to the end, even if all keys are overwritten meanwhile.
    for n in 0..100 {
        client.put(format!("/big/{n:04}"), "new").await;
    }
    let (_, stream) = &mut streams[0];
    let mut bytes = 0;
    while let Some(chunk) = within("a chunk", stream.message()).await.unwrap() {
        bytes += chunk.range_response.unwrap().kvs.iter().map(|kv| kv.value.len()).sum::<usize>();
    }
    assert_eq!(bytes, 100 * VALUE);
    memory.stayed_below("50 streams that nobody reads", 400);
    healthy.finish().await;
}

/// A watcher that takes no event while a gigabyte of them passes: it costs its queue, and everybody else is
/// told in time. When it wakes up it is given them all, from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_never_reads_takes_bounded_memory() {
    let (server, client) = filled(0).await;
    let healthy = HealthyClient::start(&server).await;
    let unread = UnreadWatch::watch(&server).await;
    let mut awake = WatchStream::open(&client);
    awake.watch(watch_all("/big/")).await;
    let memory = Memory::of(&server);
    let mut last = 0;
    for n in 0..1024_usize {
        last = client.put(format!("/big/{}", n % 10), vec![n as u8; VALUE]).await;
        let event = awake.events(1).await;
        assert_eq!(event[0].kv.as_ref().unwrap().mod_revision, last);
        if n % 100 == 99 {
            client.compact(last - 10).await.unwrap();
        }
    }
    println!("a gigabyte later: {} MiB", memory.grown() >> 20);
    memory.stayed_below("a watcher that never reads", 350);
    let (events, end) = unread.read_all(last).await;
    println!("it then got {events} events and {end}");
    healthy.finish().await;
}

/// A watch whose responses nobody takes off the connection.
struct UnreadWatch {
    _client: Client,
    _requests: tokio::sync::mpsc::UnboundedSender<WatchRequest>,
    responses: tonic::Streaming<WatchResponse>,
}

impl UnreadWatch {
    async fn watch(server: &Server) -> Self {
        let client = server.client().await;
        let (requests, outgoing) = tokio::sync::mpsc::unbounded_channel();
        let create = watch_request::RequestUnion::CreateRequest(watch_all("/big/"));
        requests.send(WatchRequest { request_union: Some(create) }).unwrap();
        let outgoing = tokio_stream::wrappers::UnboundedReceiverStream::new(outgoing);
        let call = client.bidi_stream("/etcdserverpb.Watch/Watch", outgoing);
        let mut responses: tonic::Streaming<WatchResponse> = within("headers", call).await.unwrap();
        assert!(within("an answer", responses.message()).await.unwrap().unwrap().created);
        Self { _client: client, _requests: requests, responses }
    }

    /// Reads everything up to `last`, or up to the end that compaction gives it.
    async fn read_all(mut self, last: i64) -> (usize, String) {
        let mut events = 0;
        loop {
            let response = within("a response", self.responses.message()).await.unwrap().unwrap();
            if response.canceled {
                assert!(response.compact_revision > 0, "{response:?}");
                return (events, format!("the end by compaction at {}", response.compact_revision));
            }
            events += response.events.len();
            if response.events.last().is_some_and(|event| event.kv.as_ref().unwrap().mod_revision == last) {
                return (events, "the last".into());
            }
        }
    }
}

/// The same with nothing compacted: the log has it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_resumes_reading_gets_every_event_from_the_log() {
    let (server, client) = filled(0).await;
    let unread = UnreadWatch::watch(&server).await;
    let mut last = 0;
    for n in 0..150_usize {
        last = client.put(format!("/big/{}", n % 10), vec![n as u8; VALUE]).await;
    }
    let (events, _) = tokio::time::timeout(Duration::from_secs(60), unread.read_all(last)).await.unwrap();
    assert_eq!(events, 150);
}

/// Values come in together and leave one by one: a small one that stays must not hold on to a large one that
/// was beside it on its way in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_small_value_does_not_keep_a_large_one_in_memory() {
    let (server, client) = filled(0).await;
    let memory = Memory::of(&server);
    for n in 0..300 {
        let large = client.put("/large", vec![b'l'; VALUE]);
        let small = client.put(format!("/small/{n}"), "s");
        let (large, small) = tokio::join!(large, small);
        if n % 20 == 19 {
            client.compact(large.max(small)).await.unwrap();
        }
    }
    memory.stayed_below("300 small values beside as many large ones", 100);
}
