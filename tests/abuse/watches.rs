//! A hundred thousand watches.

use std::time::Instant;

use crate::healthy_client::HealthyClient;
use crate::process::Memory;
use support::client::Client;
use support::server::Server;
use support::watch::{WatchStream, watch_key};

const WATCHES: usize = 100_000;

/// Creates so many watches on one stream, and takes the answers as they come.
async fn create(client: &Client, key: impl Fn(usize) -> String) -> WatchStream {
    let mut stream = WatchStream::open(client);
    let mut answered = 0;
    for n in 0..WATCHES {
        stream.request(watch_key(key(n)));
        // As far ahead as a client gets that writes without looking.
        if n >= answered + 10_000 {
            assert!(stream.next().await.created);
            answered += 1;
        }
    }
    while answered < WATCHES {
        let answer = stream.next().await;
        assert!(answer.created && !answer.canceled, "{answer:?}");
        answered += 1;
    }
    stream
}

async fn cancel(stream: &mut WatchStream) {
    for id in 0..WATCHES as i64 {
        stream.cancel(id);
    }
    let mut canceled = 0;
    while canceled < WATCHES {
        let answer = stream.next().await;
        assert!(answer.canceled, "{answer:?}");
        canceled += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_serves_a_hundred_thousand_watches() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let client = server.client().await;
    let memory = Memory::of(&server);
    let began = Instant::now();
    let mut stream = create(&client, |n| format!("/watched/{n}")).await;
    println!("created in {:?}: {} MiB", began.elapsed(), memory.grown() >> 20);
    // One event to each, in a hundred and twenty-eight of them a transaction.
    let began = Instant::now();
    let writer = server.client().await;
    let writing = tokio::spawn(async move {
        let keys: Vec<_> = (0..WATCHES).collect();
        for keys in keys.chunks(128) {
            use support::client::{op, put, run};
            let puts = keys.iter().map(|n| op(put(format!("/watched/{n}"), "v"))).collect();
            writer.txn(run(puts)).await.unwrap();
        }
    });
    let mut is_served = vec![false; WATCHES];
    for _ in 0..WATCHES {
        let response = stream.next_but_progress().await;
        let [event] = &response.events[..] else { panic!("one event each: {response:?}") };
        let id = response.watch_id as usize;
        assert_eq!(event.kv.as_ref().unwrap().key, format!("/watched/{id}"));
        assert!(!std::mem::replace(&mut is_served[id], true), "watch {id} gets the event twice");
    }
    writing.await.unwrap();
    println!("events in {:?}", began.elapsed());
    let began = Instant::now();
    cancel(&mut stream).await;
    println!("cancelled in {:?}: {} MiB", began.elapsed(), memory.grown() >> 20);
    memory.stayed_below("100,000 watches on one stream", 300);
    healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_has_a_hundred_thousand_watches() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let client = server.client().await;
    let memory = Memory::of(&server);
    let mut stream = create(&client, |_| "/watched".into()).await;
    println!("created: {} MiB", memory.grown() >> 20);
    let began = Instant::now();
    let first = client.put("/watched", "1").await;
    let second = client.put("/watched", "2").await;
    let mut counts = vec![0; WATCHES];
    let mut events = 0;
    while events < 2 * WATCHES {
        let response = stream.next_but_progress().await;
        for event in &response.events {
            let count = &mut counts[response.watch_id as usize];
            let expected = if *count == 0 { first } else { second };
            assert!(*count < 2 && event.kv.as_ref().unwrap().mod_revision == expected, "{response:?}");
            *count += 1;
            events += 1;
        }
    }
    println!("two events each in {:?}", began.elapsed());
    // The stream goes away with all of them at once.
    drop(stream);
    client.put("/watched", "3").await;
    memory.stayed_below("100,000 watches of one key", 300);
    healthy.finish().await;
}
