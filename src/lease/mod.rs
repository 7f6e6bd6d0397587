//! Leases: a table of what the meta stream says, and of the keys that hang on each.
//!
//! A lease is one entry of the meta stream, rewritten by each renewal; its time runs from the entry's own timestamp.
//! There is no lessor among the instances: each watches every deadline, and whoever finds one passed proposes the
//! lease's end by a delete that is guarded by the entry it saw. One such delete wins, a renewal in between makes all
//! of them fail. JetStream's own expiry of messages is not used: its marker is written without a guard and can roll
//! up a renewal that was acknowledged just before.
//!
//! Invariants:
//! - L1: a lease ends by its entry being deleted, never by an instance's clock alone.
//! - L2: keys that hang on an ended lease are deleted in one transaction each lease; whoever sees keys on a lease that
//!   is not in the (confirmed) meta stream does so, which covers a crash between the two steps and a put that raced
//!   with the end.

mod attachments;
mod table;

pub use attachments::Attachments;
pub use table::{Lease, LeaseTable};
