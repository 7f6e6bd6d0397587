//! `TxnRequest` by hand: the one message that may contain itself.
//!
//! prost refuses messages that nest more than a hundred levels, and a transaction in a transaction adds two.
//! etcd accepts as many levels as `--max-txn-ops` allows operations, 128 by default, and reports more as too
//! many operations. So each transaction is read with a fresh limit of prost's, and the depth is counted here.
//! It has a limit of its own, since each level takes some of the stack.

use super::etcdserverpb::{Compare, RequestOp};
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, message, skip_field};
use prost::{DecodeError, Message};
use std::cell::Cell;

/// Most levels of nested transactions.
const DEEPEST: usize = 256;

/// Comparisons and two lists of operations. One of the lists runs, in one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TxnRequest {
    /// If all of them hold, `success` runs, else `failure`.
    pub compare: Vec<Compare>,
    /// Runs if all comparisons hold.
    pub success: Vec<RequestOp>,
    /// Runs if one does not.
    pub failure: Vec<RequestOp>,
}

thread_local! {
    /// Levels of nested transactions that this thread is reading.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// One more level, until it is dropped.
struct Level;

impl Level {
    fn enter() -> Option<Level> {
        let depth = DEPTH.get();
        if depth == DEEPEST {
            return None;
        }
        DEPTH.set(depth + 1);
        Some(Level)
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

fn merge_ops(
    wire_type: WireType,
    ops: &mut Vec<RequestOp>,
    buf: &mut impl Buf,
    context: DecodeContext,
) -> Result<(), DecodeError> {
    match Level::enter() {
        Some(_level) => message::merge_repeated(wire_type, ops, buf, DecodeContext::default()),
        // With the same context prost reaches its own limit soon, and reports it with its own text.
        None => message::merge_repeated(wire_type, ops, buf, context),
    }
}

impl Message for TxnRequest {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        message::encode_repeated(1, &self.compare, buf);
        message::encode_repeated(2, &self.success, buf);
        message::encode_repeated(3, &self.failure, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => message::merge_repeated(wire_type, &mut self.compare, buf, context),
            2 => merge_ops(wire_type, &mut self.success, buf, context),
            3 => merge_ops(wire_type, &mut self.failure, buf, context),
            _ => skip_field(wire_type, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        message::encoded_len_repeated(1, &self.compare)
            + message::encoded_len_repeated(2, &self.success)
            + message::encoded_len_repeated(3, &self.failure)
    }

    fn clear(&mut self) {
        *self = TxnRequest::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::RangeRequest;
    use crate::proto::etcdserverpb::request_op::Request;

    fn nested(depth: usize) -> TxnRequest {
        let mut request = Request::RequestRange(RangeRequest { key: "k".into(), ..RangeRequest::default() });
        for _ in 1..depth {
            let success = vec![RequestOp { request: Some(request) }];
            request = Request::RequestTxn(TxnRequest { success, ..TxnRequest::default() });
        }
        TxnRequest {
            compare: vec![Compare { key: "c".into(), ..Compare::default() }],
            success: Vec::new(),
            failure: vec![RequestOp { request: Some(request) }],
        }
    }

    #[test]
    fn what_is_written_is_read_again_down_to_the_deepest() {
        for depth in [1, 2, 50, 128, DEEPEST] {
            let request = nested(depth);
            let wire = request.encode_to_vec();
            assert_eq!(wire.len(), request.encoded_len());
            assert_eq!(TxnRequest::decode(wire.as_slice()).expect("not too deep"), request);
        }
    }

    #[test]
    fn deeper_ones_are_refused_and_leave_nothing_behind() {
        let wire = nested(DEEPEST + 51).encode_to_vec();
        for _ in 0..2 {
            let error = TxnRequest::decode(wire.as_slice()).expect_err("too deep");
            assert!(error.to_string().ends_with("recursion limit reached"), "{error}");
        }
        assert_eq!(DEPTH.get(), 0);
        TxnRequest::decode(nested(DEEPEST).encode_to_vec().as_slice()).expect("not too deep");
    }
}
