//! The log and the metrics. Metric names are etcd's where a dashboard or alert for etcd reads them.

mod deadline;
mod frames;
mod grpc;
mod health;
mod log;
mod metrics;
mod wording;

pub use grpc::{CountCalls, CountingService, GrpcCalls};
pub use health::Health;
pub use log::{LogError, LogFormat, LogOutput, LogRotation, LogSettings, init};
pub use metrics::{Metrics, Operations, write_histogram};
pub use wording::not_grpc;

pub(crate) use metrics::descriptor_limit;
