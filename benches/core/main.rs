//! The cost of the core's structures by themselves, through the crate's public interface alone: no server, no
//! client, no disk.
//!
//! `cargo bench --bench core` runs all, a name after `--` those that contain it; Criterion shows how each
//! compares with the run before. An operation is one call unless a benchmark names another.

mod fan_out;
mod store;

use criterion::{BenchmarkId, Criterion, Throughput};
use jetway::types::{KeyRange, Revision};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use store::{Store, key};

/// Keys of the stores that are read and written: a small cluster's, and as many as must be served.
const SIZES: [u64; 2] = [10_000, 1_000_000];

/// Keys of a page, as Kubernetes' clients ask for them.
const PAGE: usize = 500;

/// Numbers that jump over a whole store, the same in each run.
fn scattered(keys: u64) -> impl Iterator<Item = u64> {
    // A prime that is far from all sizes, so that every key has its turn.
    (0..).map(move |turn: u64| turn.wrapping_mul(2_654_435_761) % keys)
}

fn index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index");
    for size in SIZES {
        let mut store = Store::of(size);
        let mut numbers = scattered(size);
        numbers.by_ref().take(1000).for_each(|number| store.put(number));
        let state = store.reader.snapshot();
        let mut number = || numbers.next().unwrap_or_default();
        group.bench_function(BenchmarkId::new("get", size), |bencher| {
            bencher.iter(|| black_box(state.get(&key(number()))).is_some());
        });
        group.bench_function(BenchmarkId::new("get of nothing", size), |bencher| {
            bencher.iter(|| black_box(state.get(&key(size + number()))).is_none());
        });
        group.bench_function(BenchmarkId::new("count of 10 k", size), |bencher| {
            bencher.iter(|| {
                let first = number() % (size - 10_000 + 1);
                let range = KeyRange::from_wire(key(first), &key(first + 10_000));
                state.count(black_box(&range), state.revision)
            });
        });
        group.bench_function(BenchmarkId::new("count of 10 k, 1000 revisions ago", size), |bencher| {
            let past = Revision(state.revision.0 - 1000);
            bencher.iter(|| {
                let first = number() % (size - 10_000 + 1);
                let range = KeyRange::from_wire(key(first), &key(first + 10_000));
                state.count(black_box(&range), past)
            });
        });
        group.throughput(Throughput::Elements(PAGE as u64));
        group.bench_function(BenchmarkId::new("range of 500", size), |bencher| {
            bencher.iter(|| {
                let range = KeyRange::from_wire(key(number() % (size - PAGE as u64)), &key(size));
                let page = state.index.live_range(&range, state.revision).take(PAGE);
                page.map(|version| version.value().len()).sum::<usize>()
            });
        });
        group.throughput(Throughput::Elements(1));
        // With a reader's snapshot held: what the writer changes it has to copy first.
        group.bench_function(BenchmarkId::new("put and publish", size), |bencher| {
            bencher.iter(|| store.put(number()));
        });
        store.compact();
    }
    group.finish();
}

fn log(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event log");
    let mut store = Store::of(1000);
    // Grows while it is measured, as it does between two compactions; what lies before counts for little.
    group.bench_function("append", |bencher| {
        let mut numbers = scattered(1000);
        bencher.iter(|| store.put_unpublished(numbers.next().unwrap_or_default()));
    });
    store.compact();
    for number in scattered(1000).take(100_000) {
        store.put(number);
    }
    let state = store.reader.snapshot();
    let mut places = scattered(90_000);
    let mut past = || Revision(state.revision.0 - 1000 - places.next().unwrap_or_default() as i64);
    group.bench_function("find", |bencher| bencher.iter(|| state.log.get(black_box(past())).is_some()));
    group.throughput(Throughput::Elements(1000));
    group.bench_function("read 1000", |bencher| {
        bencher.iter(|| {
            let entries = state.log.since(past()).take(1000);
            entries
                .flat_map(|entry| entry.events().iter())
                .map(|event| event.version.value().len())
                .sum::<usize>()
        });
    });
    group.finish();
    criterion.bench_function("compaction/of 10 k revisions", |bencher| {
        bencher.iter_custom(|times| {
            let mut taken = Duration::ZERO;
            for _ in 0..times {
                for number in scattered(1000).take(10_000) {
                    store.put(number);
                }
                let start = Instant::now();
                store.compact();
                taken += start.elapsed();
            }
            taken
        });
    });
}

/// How long a compaction of 1 M keys keeps writes waiting: when the floor rises, and in each turn after that.
fn compaction(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compaction of 1 M keys");
    group.sample_size(10);
    let mut store = Store::of(1_000_000);
    let mut rewritten = || {
        for number in scattered(1_000_000).take(1_000_000) {
            store.put_unpublished(number);
        }
        store.writer.publish();
        let start = Instant::now();
        store.writer.compact(store.writer.state().revision);
        store.writer.publish();
        let rise = start.elapsed();
        let (mut turns, start) = (0, Instant::now());
        while store.writer.is_sweeping() {
            store.writer.sweep(store::SWEEP);
            store.writer.publish();
            turns += 1;
        }
        (rise, start.elapsed() / turns)
    };
    group.bench_function("rise of the floor", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| rewritten().0).sum());
    });
    group.bench_function("turn", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| rewritten().1).sum());
    });
    group.finish();
}

fn snapshot(criterion: &mut Criterion) {
    let mut store = Store::of(10_000);
    let reader = store.reader.clone();
    criterion.bench_function("snapshot/load", |bencher| bencher.iter(|| black_box(reader.snapshot())));
    criterion.bench_function("snapshot/revision", |bencher| bencher.iter(|| black_box(reader.revision())));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in scattered(10_000) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                store.put(number);
                if number == 0 {
                    store.compact();
                }
            }
        });
        criterion.bench_function("snapshot/load under writes", |bencher| {
            bencher.iter(|| black_box(reader.snapshot()));
        });
        stop.store(true, Ordering::Relaxed);
    });
}

criterion::criterion_group!(benches, fan_out::fan_out, snapshot, log, compaction, index);
criterion::criterion_main!(benches);
