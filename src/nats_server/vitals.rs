//! Figures of the embedded server for metrics: its memory, and how often it was started again.

use super::NatsServer;
use crate::telemetry::Metrics;
use prometheus::IntCounter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Written by the supervisor.
#[derive(Debug)]
pub(super) struct Vitals {
    /// 0 while there is no process. Relaxed: a number by itself.
    pid: AtomicU32,
    restarts: IntCounter,
}

impl Vitals {
    pub(super) fn new() -> Vitals {
        let restarts = IntCounter::new(
            "jetway_nats_server_restarts_total",
            "Times that the embedded nats-server was started again, because it had ended or could not write.",
        );
        Vitals { pid: AtomicU32::new(0), restarts: restarts.expect("a legal name") }
    }

    pub(super) fn runs(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub(super) fn ended(&self) {
        self.pid.store(0, Ordering::Relaxed);
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Counts a restart.
    pub(super) fn restarted(&self) {
        self.restarts.inc();
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts.get()
    }
}

/// The memory of a process in bytes, from the kernel's own table.
fn resident_bytes(pid: u32) -> Option<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

impl NatsServer {
    /// Registers the metrics of the server.
    pub(crate) fn register(&self, metrics: &mut Metrics) {
        let memory = metrics.series(
            "jetway_nats_server_resident_memory_bytes",
            "Memory of the embedded nats-server; process_resident_memory_bytes does not include it.",
            &[],
        );
        metrics.register(self.vitals.restarts.clone());
        let (vitals, memory) = (Arc::clone(&self.vitals), Arc::new(memory));
        metrics.on_scrape(move || {
            let (vitals, memory) = (Arc::clone(&vitals), Arc::clone(&memory));
            Box::pin(async move {
                let pid = vitals.pid();
                memory.show_value(if pid == 0 { None } else { resident_bytes(pid) });
            })
        });
    }
}
