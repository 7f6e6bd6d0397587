//! The state as a whole against a plain model: one map of the store for every revision, and the list of
//! messages.

use super::{
    Change, ChangeKind, Event, Garbage, History, KeyVersion, RevisionEvents, State, VersionParts, Writer,
};
use crate::types::{KeyRange, LeaseId, LogIndex, Revision, Sequence};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Step {
    /// Changes of one revision, after a number of revisions without changes.
    Apply(i64, Vec<(Bytes, bool)>),
    /// Compacts to a revision this far before the newest.
    Compact(i64),
    /// Sweeps after compactions, and visits this many versions.
    Sweep(usize),
    /// The stream removes this share of the garbage, in the order that garbage sorts in.
    Collect(prop::sample::Index),
    Publish,
}

/// Few keys, so that each has a history.
fn few_keys() -> impl Strategy<Value = Bytes> + Clone + 'static {
    prop::sample::select(vec!["a", "ab", "b", "c", "d", "e", "f"])
        .prop_map(|key| Bytes::from_static(key.as_bytes()))
}

/// Enough keys for an index of several levels.
fn many_keys() -> impl Strategy<Value = Bytes> + Clone + 'static {
    prop::collection::vec(b'a'..b'g', 1..4).prop_map(Bytes::from)
}

fn step(key: impl Strategy<Value = Bytes> + 'static, most: usize) -> impl Strategy<Value = Step> {
    let gap = prop_oneof![5 => Just(0i64), 1 => 1i64..4];
    let change = (key, prop::bool::weighted(0.65));
    prop_oneof![
        8 => (gap, prop::collection::vec(change, 1..most)).prop_map(|(gap, changes)| Step::Apply(gap, changes)),
        2 => (0i64..8).prop_map(Step::Compact),
        3 => (1_usize..8).prop_map(Step::Sweep),
        1 => any::<prop::sample::Index>().prop_map(Step::Collect),
        2 => Just(Step::Publish),
    ]
}

type Map = BTreeMap<Bytes, KeyVersion>;

#[derive(Clone)]
struct Message {
    revision: Revision,
    change: Change,
    /// The key's version just before the revision.
    previous: Option<KeyVersion>,
    /// The key's version after the message.
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

    /// Applies changes at a revision, and returns the changes that a writer of this store would have sent.
    fn apply(&mut self, revision: Revision, changes: Vec<(Bytes, bool)>) -> Vec<Change> {
        let before = self.map(self.revision);
        let mut map = before.clone();
        let mut sent = Vec::new();
        for ((key, is_put), place) in changes.into_iter().zip(1..) {
            let sequence = Sequence(self.messages.len() as u64 + 10);
            let present = map.get(&key);
            let value = if is_put { Bytes::from(format!("{sequence}")) } else { Bytes::new() };
            let version = KeyVersion::new(&VersionParts {
                key: &key,
                value: &value,
                create_revision: match present {
                    _ if !is_put => Revision(0),
                    Some(present) => present.create_revision(),
                    None => revision,
                },
                mod_revision: revision,
                version: if is_put { present.map_or(1, |present| present.version() + 1) } else { 0 },
                lease: if is_put { LeaseId(sequence.0 as i64 % 3) } else { LeaseId::NONE },
                sequence,
                place,
            });
            let kind = if is_put {
                map.insert(key.clone(), version.clone());
                ChangeKind::Put {
                    value,
                    create_revision: Some(version.create_revision()).filter(|created| *created != revision),
                    version: version.version(),
                    lease: version.lease(),
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

    /// Whether a read or a watch at or above the floor needs a message: all from the floor on, and of the
    /// older ones those that are still the value of their key at the floor.
    fn needs(&self, message: &Message) -> bool {
        let Some(floor) = self.floor else { return true };
        message.revision >= floor || self.map(floor).get(&message.change.key) == Some(&message.version)
    }
}

/// An event as a watch would show it.
type Shown = (Revision, Sequence, KeyVersion, Option<KeyVersion>);

fn check(state: &State, model: &Model, ranges: &[KeyRange], limit: usize, is_swept: bool) {
    assert_eq!(state.revision, model.revision.max(Revision::EMPTY_STORE));
    assert_eq!(state.compacted, model.floor);
    for revision in (model.first_readable()..=model.revision.0).map(Revision) {
        let map = model.map(revision);
        for range in ranges {
            let expect: Vec<_> = map.values().filter(|version| range.contains(version.key())).collect();
            let found: Vec<_> = state.index.live_range(range, revision).collect();
            assert_eq!(found, expect, "{range:?} at {revision}");
            assert_eq!(state.count(range, revision), expect.len(), "count of {range:?} at {revision}");
            assert_eq!(pages(state, range, revision, limit), expect, "pages of {range:?} at {revision}");
        }
    }
    // A key has the versions that a read may need. It has more only until a sweep.
    let present = model.map(model.revision);
    for key in model.messages.iter().map(|message| &message.change.key).collect::<BTreeSet<_>>() {
        assert_eq!(state.get(key), present.get(key));
        let needed =
            model.messages.iter().rev().filter(|message| message.change.key == *key && model.needs(message));
        let expect: Vec<_> = needed.map(|message| &message.version).collect();
        let history = state.index.get(key);
        let mut found: Vec<_> = history.into_iter().flat_map(History::versions).collect();
        if !is_swept {
            assert!(found.is_sorted_by_key(|version| std::cmp::Reverse(version.sequence())));
            found.retain(|version| expect.contains(version));
        }
        assert_eq!(found, expect, "versions of {key:?}");
    }
    let shown = |event: &Event| -> Shown {
        let version = event.version.clone();
        let previous = state.previous_of(event).cloned();
        (version.mod_revision(), version.sequence(), version, previous)
    };
    for start in (model.first_readable()..=model.revision.0 + 1).map(Revision) {
        let mut last = None;
        let mut events = Vec::new();
        for entry in state.log.since(start) {
            assert!(last < Some(entry.revision()) && !entry.events().is_empty());
            last = Some(entry.revision());
            events.extend(entry.events().iter().map(shown));
        }
        let expect: Vec<Shown> = model
            .messages
            .iter()
            .filter(|message| message.revision >= start)
            .map(|message| {
                let readable = model.floor.is_none_or(|floor| floor < message.revision);
                let is_creation = message.version.create_revision() == message.revision;
                let previous = message.previous.clone().filter(|_| readable && !is_creation);
                (message.revision, message.change.sequence, message.version.clone(), previous)
            })
            .collect();
        assert_eq!(events, expect, "events from {start}");
        let revisions: BTreeSet<_> = expect.iter().map(|(revision, ..)| *revision).collect();
        assert_eq!(state.log.len_since(start), revisions.len());
        assert!(
            state.log.since(start).rev().map(RevisionEvents::revision).eq(revisions.iter().rev().copied())
        );
        assert_eq!(state.log.get(start).map(RevisionEvents::revision), revisions.get(&start).copied());
    }
}

/// The pages that a client gets for a range.
fn pages<'a>(state: &'a State, range: &KeyRange, revision: Revision, limit: usize) -> Vec<&'a KeyVersion> {
    let KeyRange::Span { start, end } = range else {
        let only = state.index.get(range.start()).and_then(|history| history.live_at(revision));
        return only.into_iter().collect();
    };
    let mut range = KeyRange::Span { start: start.clone(), end: end.clone() };
    let mut all = Vec::new();
    loop {
        let page: Vec<_> = state
            .index
            .live_range(&range, revision)
            .take(limit)
            .map(|version| Bytes::copy_from_slice(version.key()))
            .collect();
        for key in &page {
            let history = state.index.get(key).expect("it has just been there");
            all.push(history.live_at(revision).expect("it has just been there"));
        }
        let Some(last) = page.last().filter(|_| page.len() == limit) else { return all };
        let next = Bytes::from([last.as_ref(), b"\0"].concat());
        range = KeyRange::Span { start: next, end: end.clone() };
    }
}

/// Loads a core from the messages that are left in the stream, as a restart does, and returns the garbage.
fn load(writer: &mut Writer, left: &[Message], model: &Model) -> Vec<Garbage> {
    if let Some(floor) = model.floor {
        writer.set_floor(floor);
    }
    let mut garbage = Vec::new();
    for revision in left.chunk_by(|a, b| a.revision == b.revision) {
        let last = revision.last().expect("chunks are not empty");
        let versions = revision.iter().map(|message| message.change.version(last.revision));
        garbage.extend(writer.apply(last.revision, LogIndex(last.change.sequence.0), versions, |_, _| ()));
    }
    let state = writer.state();
    let (revision, index) = (state.revision.max(model.revision), state.log_index);
    writer.advance(revision, index);
    garbage
}

fn sorted(mut garbage: Vec<Garbage>) -> Vec<Garbage> {
    garbage.sort();
    garbage
}

/// Runs the steps on a core and on the model. Compares the newest state at the end, every state that was
/// published and held, and the state that a restart loads from the messages that are left.
fn compare(steps: Vec<Step>, ranges: &[KeyRange], limit: usize) -> Result<(), TestCaseError> {
    let (mut writer, reader) = Writer::new();
    let mut model = Model::default();
    let mut left: Vec<Message> = Vec::new();
    let mut pending: Vec<Garbage> = Vec::new();
    // The garbage of all compactions so far, and the part that sweeps have returned.
    let (mut taken, mut swept) = (Vec::new(), Vec::new());
    let mut kept: Vec<(Arc<State>, Model, bool)> = vec![(reader.snapshot(), model.clone(), true)];
    // Nothing is swept before.
    let mut is_published = false;
    for step in steps {
        match step {
            Step::Apply(gap, changes) => {
                let revision = Revision(writer.state().revision.0 + 1 + gap);
                let changes = model.apply(revision, changes);
                left.extend_from_slice(&model.messages[model.messages.len() - changes.len()..]);
                let index = LogIndex(changes.last().expect("there are changes").sequence.0);
                let versions = changes.iter().map(|change| change.version(revision));
                prop_assert_eq!(writer.apply(revision, index, versions, |_, _| ()), []);
            }
            Step::Compact(back) => {
                let floor = Revision((writer.state().revision.0 - back).max(0));
                writer.compact(floor);
                if model.floor.is_none_or(|old| floor > old) {
                    let needed_before: Vec<_> =
                        model.messages.iter().filter(|m| model.needs(m)).cloned().collect();
                    model.floor = Some(floor);
                    let expect =
                        needed_before.iter().filter(|message| !model.needs(message)).map(|message| Garbage {
                            is_tombstone: message.version.is_tombstone(),
                            sequence: message.change.sequence,
                        });
                    taken.extend(expect);
                }
            }
            Step::Sweep(most) => {
                let garbage = writer.sweep(most);
                swept.extend_from_slice(&garbage);
                pending.extend(garbage);
                pending.sort();
                if !writer.is_sweeping() && is_published {
                    prop_assert_eq!(sorted(swept.clone()), sorted(taken.clone()));
                }
            }
            Step::Collect(share) => {
                let gone = pending.drain(..share.index(pending.len() + 1)).map(|garbage| garbage.sequence);
                let gone: Vec<_> = gone.collect();
                left.retain(|message| !gone.contains(&message.change.sequence));
            }
            Step::Publish => {
                writer.publish();
                is_published = true;
                kept.push((reader.snapshot(), model.clone(), !writer.is_sweeping()));
            }
        }
    }
    writer.publish();
    check(writer.state(), &model, ranges, limit, !writer.is_sweeping());
    // A restart finds the garbage again, whether it was returned before or not.
    let mut unswept = writer.sweep(usize::MAX);
    unswept.extend(writer.sweep(usize::MAX));
    prop_assert!(!writer.is_sweeping());
    check(writer.state(), &model, ranges, limit, true);
    swept.extend_from_slice(&unswept);
    prop_assert_eq!(sorted(swept), sorted(taken));
    pending.extend(unswept);
    pending.sort();
    let (mut again, _) = Writer::new();
    let garbage = load(&mut again, &left, &model);
    again.publish();
    check(again.state(), &model, ranges, limit, true);
    prop_assert_eq!(&sorted(garbage), &pending);
    // The same after `reset`: readers keep the old state until the new one is published.
    let published = reader.snapshot();
    writer.reset();
    let garbage = load(&mut writer, &left, &model);
    prop_assert_eq!(sorted(garbage), pending);
    prop_assert!(Arc::ptr_eq(&published, &reader.snapshot()));
    writer.publish();
    prop_assert_eq!(reader.snapshot().incarnation, published.incarnation + 1);
    check(&reader.snapshot(), &model, ranges, limit, true);
    // Published states have not changed.
    for (state, model, is_swept) in &kept {
        check(state, model, ranges, limit, *is_swept);
    }
    Ok(())
}

fn range(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange::from_wire(Bytes::copy_from_slice(start), &Bytes::copy_from_slice(end))
}

/// Steps of one case.
const STEPS: usize = if cfg!(miri) { 10 } else { 60 };
/// Changes of one revision where there are many keys.
const CHANGES: usize = if cfg!(miri) { 4 } else { 12 };

pub(crate) fn config(cases: u32) -> ProptestConfig {
    if !cfg!(miri) {
        return ProptestConfig::with_cases(cases);
    }
    // Under miri everything is a thousand times slower, and files are out of reach.
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2) }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn the_state_is_the_model_at_every_revision_and_after_a_restart(
        steps in prop::collection::vec(step(few_keys(), 4), 1..STEPS),
        limit in 1_usize..4,
    ) {
        let ranges = [("a", "\0"), ("a", ""), ("ab", "d"), ("b", "f"), ("c", "b"), ("f", "\0"), ("aa", "ab\0")];
        let ranges = ranges.map(|(start, end)| range(start.as_bytes(), end.as_bytes()));
        compare(steps, &ranges, limit)?;
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn so_is_that_of_many_keys_in_any_ranges(
        steps in prop::collection::vec(step(many_keys(), CHANGES), 1..STEPS),
        bounds in prop::collection::vec((many_keys(), many_keys()), 1..if cfg!(miri) { 3 } else { 6 }),
        limit in 1_usize..20,
    ) {
        let mut ranges: Vec<_> = bounds.iter().map(|(start, end)| range(start, end)).collect();
        ranges.push(KeyRange::all());
        compare(steps, &ranges, limit)?;
    }
}
