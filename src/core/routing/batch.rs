//! The events of one revision for watchers, encoded once for all of them.

use crate::core::{Event, KeyVersion, RevisionEvents, State};
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use smallvec::SmallVec;
use std::sync::OnceLock;

/// All events of one revision, shared by every delivery that carries some of them.
#[derive(Debug)]
pub struct Batch {
    entry: RevisionEvents,
    /// Whether the revision before this one could still be read when the batch was made (WAT-22).
    shows_previous: bool,
    weight: usize,
    /// Nearly every revision has one event.
    encoded: SmallVec<[Encoded; 1]>,
}

/// The two encodings of an event: with and without the previous version. The first stream that needs one
/// makes it. Another stream waits for it meanwhile, which takes less time than encoding it again.
#[derive(Debug, Default)]
struct Encoded {
    plain: OnceLock<Bytes>,
    with_previous: OnceLock<Bytes>,
}

impl Batch {
    /// The events of one entry of the log, with the previous versions that `state` lets watchers see.
    pub fn new(entry: &RevisionEvents, state: &State) -> Batch {
        let of = |version: &KeyVersion| version.key().len() + version.value().len();
        let events = entry.events().iter();
        Batch {
            entry: entry.clone(),
            shows_previous: !state.is_compacted(entry.revision().prev()),
            weight: events
                .clone()
                .map(|event| of(&event.version) + event.previous.as_ref().map_or(0, of))
                .sum(),
            encoded: events.map(|_| Encoded::default()).collect(),
        }
    }

    /// The revision of all of its events.
    pub fn revision(&self) -> Revision {
        self.entry.revision()
    }

    /// About how much memory the events hold.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The encodings of the events that `matched` names, in order. `encode` gets an event and its previous
    /// version. All callers must pass the same `encode`, since only the first call runs it.
    pub fn events<'a>(
        &'a self,
        matched: &'a Matched,
        with_previous: bool,
        encode: impl Fn(&Event, Option<&KeyVersion>) -> Bytes + 'a,
    ) -> impl Iterator<Item = Bytes> + 'a {
        let (all, some) = match matched {
            Matched::All => (0..self.encoded.len(), [].iter()),
            Matched::Some(places) => (0..0, places.iter()),
        };
        let places = all.chain(some.map(|place| *place as usize));
        places.map(move |place| self.event(place, with_previous, &encode))
    }

    fn event(
        &self,
        place: usize,
        with_previous: bool,
        encode: impl Fn(&Event, Option<&KeyVersion>) -> Bytes,
    ) -> Bytes {
        let event = &self.entry.events()[place];
        let encoded = &self.encoded[place];
        match event.visible_previous() {
            Some(previous) if with_previous && self.shows_previous => {
                encoded.with_previous.get_or_init(|| encode(event, Some(previous))).clone()
            }
            _ => encoded.plain.get_or_init(|| encode(event, None)).clone(),
        }
    }
}

/// The events of a revision that a watcher gets.
#[derive(Clone, Debug)]
pub enum Matched {
    /// All of them.
    All,
    /// Places in the revision, ascending.
    Some(Box<[u32]>),
}

impl Matched {
    /// `None` for no place.
    pub(super) fn new(places: &[u32], of: usize) -> Option<Matched> {
        match places.len() {
            0 => None,
            count if count == of => Some(Matched::All),
            _ => Some(Matched::Some(places.into())),
        }
    }
}

/// The events that a watcher wants.
#[derive(Clone, Debug)]
pub struct Interest {
    /// The keys.
    pub range: KeyRange,
    /// Puts are not wanted.
    pub no_put: bool,
    /// Deletes are not wanted.
    pub no_delete: bool,
}

impl Interest {
    /// The events of a revision that the watcher wants.
    pub fn matched(&self, entry: &RevisionEvents) -> Option<Matched> {
        let wants = |event: &Event| {
            let filtered = if event.version.is_tombstone() { self.no_delete } else { self.no_put };
            !filtered && self.range.contains(event.version.key())
        };
        if let [only] = entry.events() {
            return wants(only).then_some(Matched::All);
        }
        let places: Vec<u32> = (0..)
            .zip(entry.events().iter())
            .filter(|(_, event)| wants(event))
            .map(|(place, _)| place)
            .collect();
        Matched::new(&places, entry.events().len())
    }
}
