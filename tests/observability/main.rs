//! Everything that an operator has: the lines of the log, and the metrics. All of it is read from the real
//! program, whose NATS goes away, stands still, loses a leader or fills up.

mod clients;
mod failures;
mod log;
mod metrics;
mod nats;
mod s3;
mod snapshots;

use support::eventually;
use support::metrics::Metrics;
use support::server::Server;

/// Lines of the log that hold all of these words.
fn lines(server: &Server, words: &[&str]) -> Vec<String> {
    let log = server.log();
    let found = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
    found.map(str::to_owned).collect()
}

/// Waits for a line with all of these words; returns the first one.
async fn line(server: &Server, words: &[&str]) -> String {
    let what = format!("a line with {words:?}");
    eventually(&what, async || lines(server, words).into_iter().next()).await
}

/// Waits until a series has a value.
async fn becomes(
    server: &Server,
    name: &str,
    labels: &[(&str, &str)],
    is_right: impl Fn(f64) -> bool,
) -> f64 {
    let what = format!("{name} {labels:?} to become right");
    eventually(&what, async || {
        let metrics = Metrics::scrape(&server.address()).await;
        metrics.find(name, labels).filter(|value| is_right(*value))
    })
    .await
}

async fn value(server: &Server, name: &str) -> f64 {
    Metrics::scrape(&server.address()).await.value(name, &[])
}
