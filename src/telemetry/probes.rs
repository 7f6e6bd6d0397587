//! Counters of probes.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts};

/// Outcomes of `/health`, and of each check of `/livez` and `/readyz`.
#[derive(Clone, Debug)]
pub struct Probes {
    successes: IntCounter,
    failures: IntCounter,
    checks: IntCounterVec,
    last_checks: IntGaugeVec,
}

impl Probes {
    pub(super) fn new() -> Probes {
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("a legal name");
        let opts = |name: &str, help: &str| Opts::new(name, help);
        Probes {
            successes: counter("etcd_server_health_success", "Answers of /health that were good."),
            failures: counter("etcd_server_health_failures", "Answers of /health that were not."),
            checks: IntCounterVec::new(
                opts("etcd_server_healthchecks_total", "Checks made, by outcome."),
                &["type", "name", "status"],
            )
            .expect("a legal name"),
            last_checks: IntGaugeVec::new(
                opts("etcd_server_healthcheck", "Whether the last check was good."),
                &["type", "name"],
            )
            .expect("a legal name"),
        }
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.successes.clone()),
            Box::new(self.failures.clone()),
            Box::new(self.checks.clone()),
            Box::new(self.last_checks.clone()),
        ]
    }

    /// A response of `/health`.
    pub fn observe(&self, is_healthy: bool) {
        if is_healthy { self.successes.inc() } else { self.failures.inc() }
    }

    /// A check called `name` of `endpoint`, which is `livez` or `readyz`.
    pub fn observe_check(&self, endpoint: &str, name: &str, passed: bool) {
        let status = if passed { "success" } else { "error" };
        self.checks.with_label_values(&[endpoint, name, status]).inc();
        self.last_checks.with_label_values(&[endpoint, name]).set(i64::from(passed));
    }
}
