//! The log and the metrics. Metric names are etcd's where a dashboard or alert for etcd reads them.

mod frames;
mod grpc;
mod health;
mod log;
mod metrics;

pub use grpc::{CountCalls, GrpcCalls};
pub use health::Health;
pub use log::{LogError, LogFormat, LogOutput, LogRotation, LogSettings, init};
pub use metrics::{Metrics, Operations, write_histogram};

pub(crate) use metrics::descriptor_limit;
