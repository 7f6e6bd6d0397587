//! Leases: their TTLs, the keys attached to them, and their deadlines.
//!
//! A grant and an end are records of the log. The end is one batch with the deletes of the lease's keys, so
//! that no client sees one without the other. Renewals are never written. The writer alone keeps deadlines
//! ([`Lessor`]), in its memory, and each new writer gives every lease its full TTL again.
//!
//! Invariants:
//! - L1: a lease ends by its record, never by an instance's clock alone.
//! - L2: no lease ends before its TTL has passed since its last answered renewal, on a clock that counts
//!   suspended time.

mod attachments;
mod lessor;
mod table;

pub(crate) use attachments::Attachments;
pub(crate) use lessor::{Lessor, MAX_TTL, MIN_TTL};
pub(crate) use table::LeaseTable;
