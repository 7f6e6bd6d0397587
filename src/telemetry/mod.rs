//! Metrics and the log of the program. Metric names are etcd's where a dashboard or alert for etcd reads
//! them.
//!
//! This module measures, and knows nothing of the parts that it measures: they import it, and register their
//! own metrics in [`Metrics`].

mod calls;
mod log;
mod metrics;
mod operations;
mod probes;
mod series;

pub use calls::{CallCounters, MessageCounters, MethodCounters};
pub use log::{LogError, LogFormat, LogOutput, LogRotation, LogSettings, init};
pub use metrics::{Metrics, write_histogram};
pub use operations::Operations;
pub use probes::Probes;
pub use series::Series;

pub(crate) use metrics::descriptor_limit;
