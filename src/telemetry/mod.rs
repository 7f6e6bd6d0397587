//! Counters that the services keep.

use prometheus::IntCounter;

/// Operations on the store, those of clients' calls.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Range calls.
    pub ranges: IntCounter,
    /// Put calls.
    pub puts: IntCounter,
    /// DeleteRange calls.
    pub deletes: IntCounter,
    /// Txn calls.
    pub txns: IntCounter,
}

/// Sends the log to standard error.
pub fn init(filter: &str, json: bool) {
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { log.json().init() } else { log.init() }
}
