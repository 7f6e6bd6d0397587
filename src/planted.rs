//! Faults that the campaign over histories must find (`make planted-faults`).
//!
//! They exist with the feature `planted-faults` alone, which no shipped file has. Without it both functions
//! are `false` at compile time, and nothing of the faults is in the program. The variable `PLANTED_FAULT`
//! chooses one.
//!
//! Each fault takes one rule of the protocol away. jetway's own checks of the log and of its state would end
//! an instance at most of them before a client sees anything. So they are off beside each fault
//! ([`is_any`]), and the clients' record alone has to show it.

/// The rules that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted-faults"),
    allow(dead_code, reason = "they are compared with the feature alone")
)]
pub(crate) enum Fault {
    /// No guard keeps records of a deposed writer out of the log, and they are valid there.
    DeposedWriter,
    /// The same for the ends of leases alone.
    DeposedLessor,
    /// A linearizable read at the writer waits for no barrier and no record.
    NoBarrier,
    /// The writer answers before JetStream has acknowledged.
    EarlyAnswer,
    /// An instance answers a linearizable read from its own state, and does not ask the writer.
    StaleFollower,
    /// A follower leaves some records out.
    SkippedRecord,
    /// The records of a batch are valid one by one.
    TornBatch,
}

/// Whether the fault is planted in this process.
#[cfg(not(feature = "planted-faults"))]
pub(crate) const fn planted(_: Fault) -> bool {
    false
}

/// Whether any fault is.
#[cfg(not(feature = "planted-faults"))]
pub(crate) const fn is_any() -> bool {
    false
}

#[cfg(feature = "planted-faults")]
pub(crate) fn planted(fault: Fault) -> bool {
    chosen() == Some(fault)
}

#[cfg(feature = "planted-faults")]
pub(crate) fn is_any() -> bool {
    chosen().is_some()
}

#[cfg(feature = "planted-faults")]
fn chosen() -> Option<Fault> {
    static CHOSEN: std::sync::LazyLock<Option<Fault>> = std::sync::LazyLock::new(|| {
        let name = std::env::var("PLANTED_FAULT").ok()?;
        Some(match name.as_str() {
            "deposed-writer" => Fault::DeposedWriter,
            "deposed-lessor" => Fault::DeposedLessor,
            "no-barrier" => Fault::NoBarrier,
            "early-answer" => Fault::EarlyAnswer,
            "stale-follower" => Fault::StaleFollower,
            "skipped-record" => Fault::SkippedRecord,
            "torn-batch" => Fault::TornBatch,
            _ => panic!("PLANTED_FAULT={name}: src/planted.rs has no fault of that name"),
        })
    });
    *CHOSEN
}
