//! Counters of operations on the store, for the KV service.

use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{ResponseOp, TxnResponse};
use prometheus::{HistogramOpts, HistogramVec, IntCounter};
use std::time::Instant;

/// Operations on the store, those of clients' calls.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Ranges, alone and in transactions.
    pub ranges: IntCounter,
    /// Puts, alone and in transactions.
    pub puts: IntCounter,
    /// Deletions, alone and in transactions. One of many keys is one.
    pub deletes: IntCounter,
    /// Transactions of more than one operation, as etcd counts them.
    pub txns: IntCounter,
    /// How long reading took, by whether it succeeded.
    pub range_durations: HistogramVec,
}

impl Operations {
    /// Times a range alone, without the waits before it.
    pub fn time_range<T, E>(&self, range: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begun = Instant::now();
        let result = range();
        let success = if result.is_ok() { "true" } else { "false" };
        self.range_durations.with_label_values(&[success]).observe(begun.elapsed().as_secs_f64());
        result
    }

    /// Counts the operations of the branch that a transaction took, at any depth.
    pub fn count_txn(&self, response: &TxnResponse) {
        if self.count_branch(response) > 1 {
            self.txns.inc();
        }
    }

    fn count_branch(&self, response: &TxnResponse) -> usize {
        let count = |op: &ResponseOp| {
            match &op.response {
                Some(Response::ResponseRange(_)) => self.ranges.inc(),
                Some(Response::ResponsePut(_)) => self.puts.inc(),
                Some(Response::ResponseDeleteRange(_)) => self.deletes.inc(),
                Some(Response::ResponseTxn(nested)) => return self.count_branch(nested),
                None => return 0,
            }
            1
        };
        response.responses.iter().map(count).sum()
    }
}

pub(super) fn range_durations() -> HistogramVec {
    let buckets = prometheus::exponential_buckets(0.0001, 2.0, 20).expect("legal buckets");
    let opts =
        HistogramOpts::new("etcd_server_range_duration_seconds", "Time that reading took.").buckets(buckets);
    HistogramVec::new(opts, &["success"]).expect("a legal name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations() -> Operations {
        let counter = || IntCounter::new("name", "help").expect("a legal name");
        Operations {
            ranges: counter(),
            puts: counter(),
            deletes: counter(),
            txns: counter(),
            range_durations: range_durations(),
        }
    }

    fn txn(responses: Vec<Response>) -> TxnResponse {
        let responses =
            responses.into_iter().map(|response| ResponseOp { response: Some(response) }).collect();
        TxnResponse { responses, ..TxnResponse::default() }
    }

    #[test]
    fn a_transaction_counts_by_its_operations() {
        let put = || Response::ResponsePut(crate::proto::etcdserverpb::PutResponse::default());
        let range = || Response::ResponseRange(crate::proto::etcdserverpb::RangeResponse::default());
        let delete =
            || Response::ResponseDeleteRange(crate::proto::etcdserverpb::DeleteRangeResponse::default());
        for (response, counts) in [
            (txn(vec![]), [0, 0, 0, 0]),
            (txn(vec![put()]), [0, 1, 0, 0]),
            (txn(vec![put(), put(), range(), delete()]), [1, 2, 1, 1]),
            (txn(vec![Response::ResponseTxn(txn(vec![put(), range()]))]), [1, 1, 0, 1]),
        ] {
            let operations = operations();
            operations.count_txn(&response);
            let Operations { ranges, puts, deletes, txns, .. } = &operations;
            assert_eq!([ranges, puts, deletes, txns].map(IntCounter::get), counts, "{response:?}");
        }
    }
}
