//! The events of one revision on their way to watchers, encoded once for all of them.

use crate::core::{Event, KeyVersion, RevisionEvents, State};
use crate::proto::mvccpb;
use crate::txn::key_value;
use crate::types::Revision;
use bytes::Bytes;
use prost::Message;
use std::sync::OnceLock;

/// All events of one revision, shared by every delivery that carries some of them.
#[derive(Debug)]
pub(super) struct Batch {
    entry: RevisionEvents,
    /// Whether the revision before this one could still be read when the batch was made (WAT-22).
    shows_previous: bool,
    encoded: Box<[Encoded]>,
}

/// One event as `mvccpb.Event`, in the two forms that watchers ask for. The first who needs a form makes it.
#[derive(Debug, Default)]
struct Encoded {
    plain: OnceLock<Bytes>,
    with_previous: OnceLock<Bytes>,
}

impl Batch {
    pub(super) fn new(entry: &RevisionEvents, state: &State) -> Batch {
        Batch {
            entry: entry.clone(),
            shows_previous: !state.is_compacted(entry.revision().prev()),
            encoded: entry.events().iter().map(|_| Encoded::default()).collect(),
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.entry.revision()
    }

    /// The encoded events that `matched` names, in their order.
    pub(super) fn events<'a>(
        &'a self,
        matched: &'a Matched,
        with_previous: bool,
    ) -> impl Iterator<Item = Bytes> + 'a {
        let (all, some) = match matched {
            Matched::All => (0..self.encoded.len(), [].iter()),
            Matched::Some(places) => (0..0, places.iter()),
        };
        all.chain(some.map(|place| *place as usize)).map(move |place| self.event(place, with_previous))
    }

    fn event(&self, place: usize, with_previous: bool) -> Bytes {
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

/// Which events of a revision a watcher gets.
#[derive(Clone, Debug)]
pub(super) enum Matched {
    All,
    /// Places in the revision, ascending.
    Some(Box<[u32]>),
}

impl Matched {
    /// Nothing where no place is named.
    pub(super) fn new(places: &[u32], of: usize) -> Option<Matched> {
        match places.len() {
            0 => None,
            count if count == of => Some(Matched::All),
            _ => Some(Matched::Some(places.into())),
        }
    }
}

/// About how much memory the events of a revision hold.
pub(super) fn weight(entry: &RevisionEvents) -> usize {
    let of = |version: &KeyVersion| version.key().len() + version.value().len();
    entry.events().iter().map(|event| of(&event.version) + event.previous.as_ref().map_or(0, of)).sum()
}

fn encode(event: &Event, previous: Option<&KeyVersion>) -> Bytes {
    let version = &event.version;
    let kind =
        if version.is_tombstone() { mvccpb::event::EventType::Delete } else { mvccpb::event::EventType::Put };
    // A tombstone has nothing but its key and revision, as WAT-21 wants it.
    let event =
        mvccpb::Event { r#type: kind.into(), kv: Some(key_value(version)), prev_kv: previous.map(key_value) };
    event.encode_to_vec().into()
}
