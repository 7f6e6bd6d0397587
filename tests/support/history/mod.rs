//! A record of the calls and watches of clients, and the proof that one order of all writes explains it.
//!
//! A watch from the beginning gives that order: each event has a revision. Then no search is needed, as it
//! would be for a store that does not number its writes:
//!
//! - [`watches`]: each watch has every event once, in order, with the pairs that the events before it made.
//! - [`writes`]: each answered write is one event of the revision in the answer. No event is of a write that
//!   nobody asked for, and none of a transaction alone.
//! - [`order`]: a call that begins after another one has ended comes behind it (linearizability).
//! - [`reads`]: each read returns the state at its revision. A serializable one may be of any revision.
//! - [`leases`]: no key goes with its lease before the time to live since the last sign of life is over.

#![expect(clippy::result_large_err, reason = "a test ends with the first violation")]

mod leases;
mod order;
mod reads;
mod record;
mod watches;
mod writes;

use std::collections::BTreeMap;

pub use record::Recorder;

/// Nanoseconds since the record was begun.
pub type Time = u64;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

/// The intention of a call. No two writes of a record have one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Put {
        key: String,
        value: String,
        lease: i64,
    },
    Delete {
        key: String,
    },
    /// Puts of several keys in one transaction, which get one revision.
    PutAll {
        puts: Vec<(String, String)>,
    },
    /// A put if the key has this revision, else a read of the key.
    Swap {
        key: String,
        expected: i64,
        value: String,
    },
    /// A read of one key, or of all.
    Read {
        key: Option<String>,
        is_serializable: bool,
    },
}

/// The end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It wrote this revision.
    Wrote(i64),
    /// It wrote nothing. These were the pairs of its keys at a revision.
    Read(i64, Vec<Pair>),
    /// The client does not know whether it wrote.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub begin: Time,
    pub end: Time,
    pub request: Request,
    pub outcome: Outcome,
}

/// An event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: i64,
    pub key: String,
    /// `None` for a deletion.
    pub pair: Option<Pair>,
    pub previous: Option<Pair>,
}

/// A response of a watch, and the time of its arrival.
#[derive(Clone, Debug)]
pub enum Response {
    Events(Time, Vec<Event>),
    /// All events up to this revision have come.
    Progress(i64),
}

/// A lease that was granted or kept alive. The client asked at a time and got an answer.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    pub lease: i64,
    pub asked: Time,
    pub time_to_live: Time,
}

/// All that clients have seen.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The revision before the first call.
    pub begin: i64,
    /// The last revision.
    pub end: i64,
    pub calls: Vec<Call>,
    /// Each from `begin` to `end`.
    pub watches: Vec<Vec<Response>>,
    pub renewals: Vec<Renewal>,
}

/// A fault of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    EventOutOfOrder { watch: usize, event: Event },
    EventMissing { watch: usize, revision: i64 },
    OtherEvent { watch: usize, event: Option<Event> },
    WrongPair { event: Event, expected: Option<Pair> },
    WrongPrevious { event: Event, expected: Option<Pair> },
    ProgressAhead { watch: usize, progress: i64, event: Event },
    WriteLost(Request, i64),
    WrittenInPart(Request),
    OtherRevision(Request, i64),
    WrittenTwice(Request),
    NotAsked(Event),
    ConditionIgnored(Request, i64),
    OutOfOrder { request: Request, revision: i64, after: i64 },
    WrongRead { request: Request, revision: i64, found: Vec<Pair>, expected: Vec<Pair> },
    RevisionAhead(Request, i64),
    LeaseEndedEarly { lease: i64, event: Event },
}

/// The pairs after the events up to some revision.
pub type State = BTreeMap<String, Pair>;

/// Brings the pairs behind one more event.
pub fn apply(state: &mut State, event: &Event) {
    match &event.pair {
        Some(pair) => drop(state.insert(event.key.clone(), pair.clone())),
        None => drop(state.remove(&event.key)),
    }
}

impl History {
    /// The events in the order of their revisions, of which all watches must be.
    pub fn events(&self) -> Vec<Event> {
        let of_first = self.watches.first().into_iter().flatten();
        of_first
            .filter_map(|response| match response {
                Response::Events(_, events) => Some(events.clone()),
                Response::Progress(_) => None,
            })
            .flatten()
            .collect()
    }

    /// Looks for a fault.
    ///
    /// # Errors
    /// The first [`Violation`] found.
    pub fn check(&self) -> Result<(), Violation> {
        let events = self.events();
        watches::check(self, &events)?;
        let revisions = writes::check(self, &events)?;
        order::check(self, &revisions)?;
        reads::check(self, &events)?;
        leases::check(self)
    }
}
