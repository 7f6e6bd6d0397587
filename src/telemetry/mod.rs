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
