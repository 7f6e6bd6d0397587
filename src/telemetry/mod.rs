//! The log and the metrics. Metric names are etcd's where a dashboard or alert for etcd reads them.

mod deadline;
mod frames;
mod grpc;
mod health;
mod metrics;
mod wording;

pub use grpc::{CountCalls, GrpcCalls};
pub use health::Health;
pub use metrics::{Metrics, Operations, write_histogram};
pub use wording::not_grpc;

pub(crate) use metrics::descriptor_limit;

use std::io::IsTerminal;

/// Sends the log to standard error.
pub fn init(filter: &str, json: bool) {
    let filter = tracing_subscriber::EnvFilter::new(filter);
    // A log that is kept in a file or sent on has no use for colours.
    let colours = std::io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    if json { log.json().init() } else { log.init() }
}
