//! Messages of the key stream that somebody else may have written, and what the core makes of them.

use super::Choices;
use crate::applier::{Applier, Floor};
use crate::core::{History, KeyVersion, Reader, State, Writer};
use crate::jetstream::record::{self, Record};
use crate::lease::Attachments;
use crate::types::{KeyRange, Revision, Sequence};
use async_nats::HeaderMap;
use bytes::Bytes;
use std::collections::BTreeSet;

/// Messages, gaps, torn transactions and floors in any order, to an applier that publishes after each and to one that
/// publishes once: neither panics, the store makes sense at each step, and in the end both hold the same.
pub fn records(data: &[u8]) {
    let mut choices = Choices::new(data);
    let floor = (choices.byte() == 1).then(|| any_floor(&mut choices)).filter(Floor::is_sound);
    let (mut often, reader) = applier(floor.clone());
    let (mut once, other) = applier(floor);
    let mut next = Sequence(2);
    let mut seen = (Revision(0), Sequence(0));
    let mut garbage = BTreeSet::new();
    while !choices.is_empty() {
        match choices.byte() % 16 {
            0..=9 => {
                let body = message(&mut choices);
                let record = Record { sequence: next, time: 0, body };
                often.take(record.clone());
                once.take(record);
                next = next.next();
            }
            10 => next = Sequence(next.0 + choices.number().unsigned_abs() % 1_000_000),
            11 => {
                // What the consumer says of its position lies before the next message.
                let position = Sequence(next.0 - 1);
                often.advance(position);
                once.advance(position);
            }
            12 => {
                assert_eq!(often.tear(), once.tear());
            }
            13 => {
                let floor = any_floor(&mut choices);
                if floor.is_sound() {
                    often.raise_floor(floor.clone());
                    once.raise_floor(floor);
                }
            }
            14 => often.sweep(usize::from(choices.byte())),
            _ => {
                let revision = Revision(choices.number());
                if let Some(floor) = true_floor(&often, &reader.snapshot(), revision) {
                    often.raise_floor(floor.clone());
                    once.raise_floor(floor);
                }
            }
        }
        // Nothing is shown while what the floor was made of has not come.
        if often.floor().is_none_or(|floor| floor.sequence <= often.reached()) {
            often.publish();
            let state = reader.snapshot();
            check(&state);
            assert!(
                seen.0 <= state.revision && seen.1 <= state.position,
                "the store went back from {seen:?}"
            );
            seen = (state.revision, state.position);
            for message in often.take_garbage() {
                assert!(message.sequence < next, "there is no such message yet");
                assert!(garbage.insert(message.sequence), "{:?} is garbage twice", message.sequence);
            }
            let all = KeyRange::all();
            let needed = state.index.range(&all);
            let needed: Vec<_> = needed.flat_map(History::versions).map(KeyVersion::sequence).collect();
            assert!(needed.iter().all(|sequence| !garbage.contains(sequence)), "garbage that is needed");
        }
    }
    for applier in [&mut often, &mut once] {
        // Nothing is swept before the first publication.
        applier.publish();
        while applier.is_sweeping() {
            applier.sweep(usize::MAX);
        }
        applier.publish();
    }
    assert_eq!(outline(&reader.snapshot()), outline(&other.snapshot()));
}

fn applier(floor: Option<Floor>) -> (Applier, Reader) {
    let (writer, reader) = Writer::new();
    (Applier::new(writer, Attachments::default(), floor), reader)
}

/// A message as jetway could have written it but for its numbers, or of any text.
fn message(choices: &mut Choices<'_>) -> record::Body {
    let mut headers = HeaderMap::new();
    let (subject, header) = match choices.byte() % 8 {
        0 => (choices.text(), choices.text()),
        1 => (record::BARRIER.to_owned(), String::new()),
        shape => {
            let key = ["a", "b", "=.c", "c.d"][usize::from(choices.byte() % 4)];
            let (create, version) = match shape {
                2 => (0, 0),
                3 | 4 => (0, 1),
                _ => (choices.number(), choices.number()),
            };
            let (place, count) = match choices.byte() {
                single @ 0..=127 => (1, 1 + u32::from(single % 2 * (single % 3))),
                more => (1 + u32::from(more % 4), 1 + u32::from(more / 4 % 4)),
            };
            let (lease, operation) = (choices.byte() % 3, choices.byte() % 2);
            (key.to_owned(), format!("{create} {version} {lease} {place}/{count} 1.{operation}"))
        }
    };
    // A header holds no line ends, and this is where the client library checks that.
    if let Ok(value) = header.parse::<async_nats::HeaderValue>() {
        headers.insert(record::HEADER, value);
    }
    record::decode(&subject, Some(&headers), &Bytes::copy_from_slice(header.as_bytes()))
}

/// A floor as an entry of the meta stream could say it.
fn any_floor(choices: &mut Choices<'_>) -> Floor {
    let mut floor = Floor {
        revision: Revision(choices.number()),
        sequence: Sequence(choices.number() as u64),
        steps: Vec::new(),
    };
    for _ in 0..choices.byte() % 4 {
        let (from, offset) = (Sequence(choices.number() as u64), choices.number() as u64);
        floor.steps.push(crate::jetstream::Step { from, offset });
    }
    floor
}

/// The floor that an instance would record for a compaction.
fn true_floor(applier: &Applier, state: &State, revision: Revision) -> Option<Floor> {
    let is_shown = state.position == applier.position()
        && state.compacted == applier.floor().map(|floor| floor.revision);
    if !is_shown || revision > state.revision || state.is_compacted(revision) {
        return None;
    }
    if revision.0 < 0 || state.compacted == Some(revision) {
        return None;
    }
    let map = applier.map();
    let sequence = map.last_sequence(revision, state.position);
    let mut survivors: Vec<Sequence> = state
        .index
        .range(&KeyRange::all())
        .flat_map(History::versions)
        .map(KeyVersion::sequence)
        .filter(|survivor| *survivor <= sequence)
        .collect();
    survivors.sort_unstable();
    let steps =
        if map.has_steps(sequence) { map.steps_for(survivors.into_iter(), sequence) } else { Vec::new() };
    let floor = Floor { revision, sequence, steps };
    assert!(floor.is_sound(), "{floor:?}");
    Some(floor)
}

/// What must hold of every store that is shown.
fn check(state: &State) {
    let all = KeyRange::all();
    let histories: Vec<_> = state.index.range(&all).collect();
    assert!(histories.is_sorted_by(|a, b| a.key() < b.key()), "keys in order, each once");
    let live = histories.iter().filter(|history| history.is_live()).count();
    assert_eq!(state.index.live(), live);
    assert_eq!(state.index.count(&all), live);
    for history in &histories {
        let revisions: Vec<_> = history.versions().map(KeyVersion::mod_revision).collect();
        // A transaction may change a key twice.
        assert!(revisions.is_sorted_by(|a, b| a >= b), "{revisions:?}");
        assert!(revisions.iter().all(|revision| *revision <= state.revision));
    }
    let mut last = state.compacted.map_or(Revision(0), Revision::prev);
    for entry in state.log.since(Revision(0)) {
        assert!(last < entry.revision() && entry.revision() <= state.revision, "the log goes on from {last}");
        assert!(!entry.events().is_empty());
        last = entry.revision();
    }
    for past in state.compacted.map_or(0, |floor| floor.0).max(state.revision.0 - 5)..=state.revision.0 {
        let at = Revision(past);
        assert_eq!(state.count(&all, at), state.index.live_range(&all, at).count(), "count at {past}");
    }
}

/// Key, value, and the revisions and number of a version.
type Outlined = (Vec<u8>, Vec<u8>, i64, i64, i64);

/// What two stores of the same stream agree in.
fn outline(state: &State) -> (Revision, Sequence, Option<Revision>, usize, Vec<Outlined>) {
    let all = KeyRange::all();
    let versions = state.index.range(&all).flat_map(History::versions).map(|version| {
        (
            version.key().to_vec(),
            version.value().to_vec(),
            version.create_revision().0,
            version.mod_revision().0,
            version.version(),
        )
    });
    (state.revision, state.position, state.compacted, state.log.len(), versions.collect())
}
