//! The parts that all integration tests share: real servers, a client over bare messages, certificates, and
//! keys.
//!
//! The same tests run against jetway and against a real etcd: `JETWAY_TEST_TARGET=etcd` chooses the latter.
//! etcd is right if both disagree.
//!
//! Nothing here waits for a fixed time. Each wait is for a condition and has a bound, which is generous,
//! because a loaded machine is no failure.

pub mod auth;
pub mod call;
pub mod certificates;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod contents;
pub mod disk;
pub mod etcdctl;
pub mod figures;
pub mod history;
pub mod http;
pub mod http2;
pub mod keys;
pub mod lease;
pub mod metrics;
pub mod nats;
pub mod network;
pub mod preload;
pub mod program;
pub mod proxy;
pub mod s3;
pub mod server;
pub mod snapshot;
pub mod tls;
pub mod traffic;
pub mod watch;

use std::time::{Duration, Instant};

/// The longest that a single answer or condition may take before the test gives up on it.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest that a mirror or a replica of nats-server may take to follow again. nats-server waits 30 s for
/// the response to the request that a mirror begins with, and then 2 s and more before it sends another.
pub const CAUGHT_UP: Duration = Duration::from_secs(120);

/// Awaits `future` for at most [`TIMEOUT`] and panics with `what` after that.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_time(TIMEOUT, what, future).await
}

/// As [`within`], with a time of its own.
pub async fn within_time<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("gave up after {limit:?} waiting for {what}"),
    }
}

/// Asks `probe` again and again until it yields a value.
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(TIMEOUT, what, probe).await
}

/// As [`eventually`], with a time of its own.
pub async fn eventually_within<T>(limit: Duration, what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    within_time(limit, what, until_some(probe)).await
}

/// As [`eventually`], for what waits until a mirror or a replica of nats-server follows again.
pub async fn catches_up<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(CAUGHT_UP, what, probe).await
}

async fn until_some<T>(mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many rounds a long test makes: `make faults ROUNDS=n`, each its own number without.
pub fn rounds(of_its_own: usize) -> usize {
    std::env::var("JETWAY_FAULT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(of_its_own)
}

/// The end of a campaign that is to take a time instead of rounds: `make faults-long MINUTES=n`.
pub fn deadline() -> Option<Instant> {
    let minutes: u64 = std::env::var("JETWAY_FAULT_MINUTES").ok()?.parse().ok()?;
    Some(Instant::now() + Duration::from_secs(60 * minutes))
}

/// The seed of a test's random moments: `JETWAY_FAULT_SEED` makes the same ones again.
pub fn seed() -> u64 {
    let seed = std::env::var("JETWAY_FAULT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("JETWAY_FAULT_SEED={seed}");
    seed
}
