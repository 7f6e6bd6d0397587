//! Open calls of this instance: their ids, their deadlines, and the error where nobody writes.

use super::Node;
use crate::auth::Caller;
use crate::engine::proposal::{Call, Origin, Proposal};
use crate::engine::{NewCall, REQUEST_TIMEOUT};
use crate::error::EtcdError;
use crate::record::OperationId;
use tokio::time::Instant;

impl Node {
    pub(in crate::engine) fn next_operation(&mut self) -> OperationId {
        self.counter += 1;
        OperationId { instance: self.start, counter: self.counter }
    }

    pub(in crate::engine) fn call_of(&mut self, new: NewCall) -> Call {
        let NewCall { proposal, caller, deadline, answer } = new;
        let origin = answer.map_or(Origin::Internal, Origin::Local);
        let operation = self.next_operation();
        Call { operation, proposal, caller, deadline, origin, is_confirmed: false }
    }

    /// A call that this instance makes by itself.
    pub(in crate::engine) fn own_call(&mut self, proposal: Proposal) -> Call {
        Call {
            operation: self.next_operation(),
            proposal,
            caller: Caller::default(),
            deadline: Instant::now() + REQUEST_TIMEOUT,
            origin: Origin::Internal,
            is_confirmed: false,
        }
    }

    /// Refuses calls whose time is over.
    pub(in crate::engine) fn expire(&mut self) {
        let now = Instant::now();
        let over: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.call.deadline <= now)
            .map(|(counter, _)| *counter)
            .collect();
        let error = self.unavailable();
        for counter in over {
            if let Some(open) = self.open.remove(&counter) {
                // None of these says of a write that it is not stored.
                open.call.refuse(if open.sent.is_some() { EtcdError::Timeout } else { error.clone() });
            }
        }
        for call in self.reads.extract_if(.., |call| call.deadline <= now || call.is_abandoned()) {
            call.refuse(error.clone());
        }
        for (calls, ..) in self.reads_sent.values_mut() {
            for call in calls.extract_if(.., |call| call.deadline <= now) {
                call.refuse(EtcdError::Timeout);
            }
        }
        self.forget_silent_peers();
    }

    /// The error for calls that wait for a writer.
    pub(in crate::engine) fn unavailable(&self) -> EtcdError {
        if let Some(outage) = self.log.connection().link.borrow().outage() {
            return EtcdError::Unavailable(outage);
        }
        match self.status.known_leader() {
            Ok(_) => EtcdError::Timeout,
            Err(cause) => EtcdError::Unavailable(format!("there is no writer now: {cause}")),
        }
    }
}
