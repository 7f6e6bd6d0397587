//! The figures of one sample.

use crate::load::Outcome;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A figure that a sample can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    Rate,
    P50,
    P99,
    ServerCpu,
    ClientCpu,
    Delivered,
    Peak,
    Fill,
    FillCpu,
    Memory,
    Start,
    StartCpu,
    MemoryStarted,
    Disk,
    Gap,
    SlowestWrite,
    Snapshot,
    SnapshotMemory,
    P99Quiet,
}

impl Metric {
    /// In the order of the tables.
    pub(crate) const ALL: [Self; 19] = [
        Self::Rate,
        Self::ServerCpu,
        Self::P50,
        Self::P99,
        Self::P99Quiet,
        Self::Snapshot,
        Self::SnapshotMemory,
        Self::Delivered,
        Self::Gap,
        Self::SlowestWrite,
        Self::Start,
        Self::StartCpu,
        Self::Memory,
        Self::MemoryStarted,
        Self::Disk,
        Self::Fill,
        Self::FillCpu,
        Self::Peak,
        Self::ClientCpu,
    ];

    /// Its name in the JSON.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Rate => "operations_per_second",
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
            Self::ServerCpu => "server_cpu_us",
            Self::ClientCpu => "client_cpu_us",
            Self::Delivered => "delivered_percent",
            Self::Peak => "rss_mib",
            Self::Fill => "fill_puts_per_second",
            Self::FillCpu => "fill_cpu_us",
            Self::Memory => "memory_mib",
            Self::Start => "start_seconds",
            Self::StartCpu => "start_cpu_seconds",
            Self::MemoryStarted => "memory_after_start_mib",
            Self::Disk => "disk_mib",
            Self::Gap => "gap_ms",
            Self::SlowestWrite => "slowest_write_ms",
            Self::Snapshot => "snapshot_seconds",
            Self::SnapshotMemory => "snapshot_memory_mib",
            Self::P99Quiet => "p99_without_snapshot_us",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Rate => "Operations a second",
            Self::P50 => "Latency (watches: from sending a put to its event), p50, µs",
            Self::P99 => "Latency, p99, µs",
            Self::ServerCpu => "CPU of all server processes an operation, µs",
            Self::ClientCpu => "CPU of the client an operation, µs",
            Self::Delivered => "Events delivered of those expected, percent",
            Self::Peak => "Peak memory of all server processes, MiB",
            Self::Fill => "Filling the store, puts a second",
            Self::FillCpu => "Filling the store, CPU of all server processes a put, µs",
            Self::Memory => "Memory of all server processes once they rest, MiB",
            Self::Start => "From the start to the first answer, seconds",
            Self::StartCpu => "CPU of all server processes until the first answer, seconds",
            Self::MemoryStarted => "Memory after a start, at rest, MiB",
            Self::Disk => "Disk, MiB",
            Self::Gap => "Longest time without a successful write, ms",
            Self::SlowestWrite => "Slowest write with its retries, ms",
            Self::Snapshot => "A snapshot, seconds",
            Self::SnapshotMemory => "Memory of all server processes more while snapshots are taken, MiB",
            Self::P99Quiet => "Latency of the same writes without a snapshot, p99, µs",
        }
    }
}

/// The figures of one sample.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) figures: BTreeMap<Metric, f64>,
    /// When the peer's writes are on disk.
    pub(crate) durability: String,
    pub(crate) note: String,
}

impl Sample {
    pub(crate) fn of_load(outcome: Outcome, peak_rss: u64, durability: String) -> Self {
        let operations = outcome.operations as f64;
        let mut sample = Self { figures: BTreeMap::new(), durability, note: outcome.note };
        sample.set(Metric::Rate, operations / outcome.elapsed.as_secs_f64());
        sample.set(Metric::P50, micros(outcome.latencies.percentile(50.0)));
        sample.set(Metric::P99, micros(outcome.latencies.percentile(99.0)));
        sample.set(Metric::ServerCpu, micros(outcome.server_cpu) / operations);
        sample.set(Metric::ClientCpu, micros(outcome.client_cpu) / operations);
        sample.set(Metric::Peak, peak_rss as f64 / f64::from(1 << 20));
        if let Some(expected) = outcome.expected {
            sample.set(Metric::Delivered, 100.0 * operations / expected as f64);
        }
        sample
    }

    pub(crate) fn set(&mut self, metric: Metric, figure: f64) {
        self.figures.insert(metric, figure);
    }

    pub(crate) fn json(&self) -> Value {
        let mut object: Map<String, Value> =
            self.figures.iter().map(|(metric, figure)| (metric.key().to_owned(), json!(figure))).collect();
        object.insert("note".into(), json!(self.note));
        Value::Object(object)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (metric, shown) in &self.figures {
            write!(f, "{} {}, ", metric.key(), figure(*shown))?;
        }
        f.write_str(&self.note)
    }
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Three digits that say something, or the whole number.
pub(crate) fn figure(number: f64) -> String {
    match number {
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 100.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}
