//! From a published revision to the responses of many watch streams.

use crate::store::Store;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use futures_util::{StreamExt, stream};
use jetway::types::{KeyRange, Revision};
use jetway::watch::{Body, Create, Notify, Request, WatchHub, WatchStream};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Revisions that are published before the streams are read, as a busy server has it.
const BURST: u64 = 64;

/// Bursts after which history is forgotten.
const COMPACT_EVERY: u64 = 64;

async fn watcher(hub: &WatchHub, store: &Store) -> WatchStream {
    let create = Create {
        range: KeyRange::from_wire(Bytes::from_static(b"/registry/"), &Bytes::from_static(b"/registry0")),
        start: Revision(0),
        watch_id: 0,
        prev_kv: true,
        progress_notify: false,
        fragment: false,
        no_put: false,
        no_delete: false,
    };
    let requests = stream::iter([Ok(Request::Create(create))]).chain(stream::pending());
    let day = Duration::from_hours(24);
    let mut stream = WatchStream::new(hub.clone(), store.reader.clone(), requests, day, pending());
    let first = stream.next().await.expect("a stream ends with an error").expect("nothing has gone wrong");
    assert!(matches!(first.body, Body::Created), "{first:?}");
    stream
}

/// Reads until so many events have come.
async fn read(stream: &mut WatchStream, count: u64) {
    let mut seen = 0;
    while seen < count {
        let response =
            stream.next().await.expect("a stream ends with an error").expect("nothing has gone wrong");
        if let Body::Events { events, .. } = response.body {
            seen += events.len() as u64;
        }
    }
    assert_eq!(seen, count, "no event comes twice");
}

pub(crate) fn fan_out(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("fan-out, one event to one watcher");
    for watchers in [1, 100, 1000] {
        let mut store = Store::of(BURST);
        let (hub, mut streams) = runtime.block_on(async {
            let hub = WatchHub::spawn(store.reader.clone(), Arc::new(Notify::new()));
            let mut streams = Vec::new();
            for _ in 0..watchers {
                streams.push(watcher(&hub, &store).await);
            }
            (hub, streams)
        });
        group.throughput(Throughput::Elements(BURST * watchers));
        group.bench_function(BenchmarkId::from_parameter(watchers), |bencher| {
            bencher.iter_custom(|times| {
                let mut taken = Duration::ZERO;
                for time in 0..times {
                    (0..BURST).for_each(|number| store.put(number));
                    let start = Instant::now();
                    hub.wake();
                    runtime.block_on(async {
                        for stream in &mut streams {
                            read(stream, BURST).await;
                        }
                    });
                    taken += start.elapsed();
                    if time % COMPACT_EVERY == 0 {
                        store.compact();
                    }
                }
                taken
            });
        });
    }
    group.finish();
}
