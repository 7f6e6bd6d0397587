//! The state as a whole against a plain model: one map of the store for every revision, and the list of messages.

use super::{Change, ChangeKind, Event, Garbage, KeyVersion, State, Writer};
use crate::types::{KeyRange, LeaseId, Revision, Sequence};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Step {
    /// Changes of one revision, after so many revisions without any.
    Apply(i64, Vec<(Bytes, bool)>),
    /// Compacts to so many revisions before the present.
    Compact(i64),
    /// The stream removes this share of the garbage, in the order that garbage sorts in.
    Collect(prop::sample::Index),
    Publish,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "ab", "b", "c", "d", "e", "f"])
        .prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn step() -> impl Strategy<Value = Step> {
    let gap = prop_oneof![5 => Just(0i64), 1 => 1i64..4];
    let change = (key(), prop::bool::weighted(0.65));
    prop_oneof![
        8 => (gap, prop::collection::vec(change, 1..4)).prop_map(|(gap, changes)| Step::Apply(gap, changes)),
        2 => (0i64..8).prop_map(Step::Compact),
        1 => any::<prop::sample::Index>().prop_map(Step::Collect),
        2 => Just(Step::Publish),
    ]
}

type Map = BTreeMap<Bytes, KeyVersion>;

#[derive(Clone)]
struct Message {
    revision: Revision,
    change: Change,
    /// What the key was just before the revision.
    previous: Option<KeyVersion>,
    /// What it is after the message.
    version: KeyVersion,
}

#[derive(Clone, Default)]
struct Model {
    /// The store after each revision that changed it.
    maps: BTreeMap<Revision, Map>,
    /// Every message ever.
    messages: Vec<Message>,
    floor: Option<Revision>,
    revision: Revision,
}

impl Model {
    fn map(&self, revision: Revision) -> Map {
        self.maps.range(..=revision).next_back().map(|(_, map)| map.clone()).unwrap_or_default()
    }

    /// Applies changes at a revision; the model decides what a writer of this store would have sent.
    fn apply(&mut self, revision: Revision, changes: Vec<(Bytes, bool)>) -> Vec<Change> {
        let before = self.map(self.revision);
        let mut map = before.clone();
        let mut sent = Vec::new();
        for ((key, is_put), place) in changes.into_iter().zip(1..) {
            let sequence = Sequence(self.messages.len() as u64 + 10);
            let present = map.get(&key);
            let version = KeyVersion {
                key: key.clone(),
                value: if is_put { Bytes::from(format!("{sequence}")) } else { Bytes::new() },
                create_revision: match present {
                    _ if !is_put => Revision(0),
                    Some(present) => present.create_revision,
                    None => revision,
                },
                mod_revision: revision,
                version: if is_put { present.map_or(1, |present| present.version + 1) } else { 0 },
                lease: if is_put { LeaseId(sequence.0 as i64 % 3) } else { LeaseId::NONE },
                sequence,
                place,
            };
            let kind = if is_put {
                map.insert(key.clone(), version.clone());
                ChangeKind::Put {
                    value: version.value.clone(),
                    create_revision: Some(version.create_revision).filter(|created| *created != revision),
                    version: version.version,
                    lease: version.lease,
                }
            } else {
                map.remove(&key);
                ChangeKind::Delete
            };
            let change = Change { key: key.clone(), sequence, place, kind };
            sent.push(change.clone());
            self.messages.push(Message { revision, change, previous: before.get(&key).cloned(), version });
        }
        self.maps.insert(revision, map);
        self.revision = revision;
        sent
    }

    fn first_readable(&self) -> i64 {
        self.floor.map_or(0, |floor| floor.0)
    }

    /// Whether a read or a watch at or above the floor needs a message: all from the floor on, and of the older ones
    /// those that are still the value of their key at the floor.
    fn needs(&self, message: &Message) -> bool {
        let Some(floor) = self.floor else { return true };
        message.revision >= floor || self.map(floor).get(&message.change.key) == Some(&message.version)
    }
}

/// An event as a watch would show it.
type Shown = (Revision, Sequence, KeyVersion, Option<KeyVersion>);

fn check(state: &State, model: &Model) {
    assert_eq!(state.revision, model.revision.max(Revision::EMPTY_STORE));
    assert_eq!(state.compacted, model.floor);
    let ranges = [("a", "\0"), ("a", ""), ("ab", "d"), ("b", "f"), ("c", "b"), ("f", "\0"), ("aa", "ab\0")];
    for revision in (model.first_readable()..=model.revision.0).map(Revision) {
        let map = model.map(revision);
        for (start, end) in ranges {
            let range = KeyRange::from_wire(Bytes::from(start), &Bytes::from(end));
            let expect: Vec<_> = map.values().filter(|version| range.contains(&version.key)).collect();
            let found: Vec<_> = state.index.live_range(&range, revision).map(AsRef::as_ref).collect();
            assert_eq!(found, expect, "{range:?} at {revision}");
            assert_eq!(state.count(&range, revision), expect.len(), "count of {range:?} at {revision}");
        }
    }
    for (key, version) in model.map(model.revision) {
        assert_eq!(state.get(&key).map(AsRef::as_ref), Some(&version));
    }
    let shown = |event: &Event| -> Shown {
        let version = event.version.as_ref().clone();
        let previous = state.previous_of(event).map(|previous| previous.as_ref().clone());
        (version.mod_revision, version.sequence, version, previous)
    };
    for start in (model.first_readable()..=model.revision.0 + 1).map(Revision) {
        let mut last = None;
        let mut events = Vec::new();
        for entry in state.log.since(start) {
            assert!(last < Some(entry.revision) && !entry.events.is_empty());
            last = Some(entry.revision);
            assert_eq!(entry.events.last().map(|event| event.version.sequence), Some(entry.sequence));
            events.extend(entry.events.iter().map(shown));
        }
        let expect: Vec<Shown> = model
            .messages
            .iter()
            .filter(|message| message.revision >= start)
            .map(|message| {
                let readable = model.floor.is_none_or(|floor| floor < message.revision);
                let is_creation = message.version.create_revision == message.revision;
                let previous = message.previous.clone().filter(|_| readable && !is_creation);
                (message.revision, message.change.sequence, message.version.clone(), previous)
            })
            .collect();
        assert_eq!(events, expect, "events from {start}");
    }
}

/// Loads a new core from the messages left in the stream, as a restart does; answers what it takes for garbage.
fn replay(left: &[Message], model: &Model) -> (Writer, Vec<Garbage>) {
    let (mut writer, _) = Writer::new();
    if let Some(floor) = model.floor {
        writer.set_floor(floor);
    }
    let mut garbage = Vec::new();
    for revision in left.chunk_by(|a, b| a.revision == b.revision) {
        let last = revision.last().expect("chunks are not empty");
        let changes = revision.iter().map(|message| message.change.clone()).collect();
        garbage.extend(writer.apply(last.revision, last.change.sequence, changes));
    }
    let state = writer.state();
    let (revision, position) = (state.revision.max(model.revision), state.position);
    writer.advance(revision, position);
    (writer, garbage)
}

fn sorted(mut garbage: Vec<Garbage>) -> Vec<Garbage> {
    garbage.sort();
    garbage
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_state_is_the_model_at_every_revision_and_after_a_restart(steps in prop::collection::vec(step(), 1..60)) {
        let (mut writer, reader) = Writer::new();
        let mut model = Model::default();
        let mut left: Vec<Message> = Vec::new();
        let mut pending: Vec<Garbage> = Vec::new();
        let mut kept: Vec<(Arc<State>, Model)> = vec![(reader.snapshot(), model.clone())];
        for step in steps {
            match step {
                Step::Apply(gap, changes) => {
                    let revision = Revision(writer.state().revision.0 + 1 + gap);
                    let changes = model.apply(revision, changes);
                    left.extend_from_slice(&model.messages[model.messages.len() - changes.len()..]);
                    let position = changes.last().expect("there are changes").sequence;
                    prop_assert_eq!(writer.apply(revision, position, changes), []);
                }
                Step::Compact(back) => {
                    let floor = Revision((writer.state().revision.0 - back).max(0));
                    let garbage = writer.compact(floor);
                    if model.floor.is_none_or(|old| floor > old) {
                        let needed_before: Vec<_> = model.messages.iter().filter(|m| model.needs(m)).cloned().collect();
                        model.floor = Some(floor);
                        let expect = needed_before.iter().filter(|message| !model.needs(message)).map(|message| {
                            Garbage { is_tombstone: message.version.is_tombstone(), sequence: message.change.sequence }
                        });
                        prop_assert_eq!(sorted(garbage.clone()), sorted(expect.collect()));
                    } else {
                        prop_assert_eq!(&garbage, &[]);
                    }
                    pending.extend(garbage);
                    pending.sort();
                }
                Step::Collect(share) => {
                    let gone = pending.drain(..share.index(pending.len() + 1)).map(|garbage| garbage.sequence);
                    let gone: Vec<_> = gone.collect();
                    left.retain(|message| !gone.contains(&message.change.sequence));
                }
                Step::Publish => {
                    writer.publish();
                    kept.push((reader.snapshot(), model.clone()));
                }
            }
        }
        check(writer.state(), &model);
        // What was published stays as it was.
        for (state, model) in &kept {
            check(state, model);
        }
        let (again, garbage) = replay(&left, &model);
        check(again.state(), &model);
        prop_assert_eq!(sorted(garbage), pending);
    }
}
