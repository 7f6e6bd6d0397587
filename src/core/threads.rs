//! Readers on their own threads while the writer writes and compacts, on arc-swap itself. Miri (`make miri`)
//! checks here what loom (`loom_model`) cannot see: arc-swap, `Arc`, `OnceLock`, and that unused memory is
//! freed.

use super::{Change, ChangeKind, Reader, State, Writer};
use crate::types::{KeyRange, LeaseId, LogIndex, Revision, Sequence};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

const KEYS: i64 = if cfg!(miri) { 5 } else { 100 };
const REVISIONS: i64 = if cfg!(miri) { 15 } else { 5_000 };
/// Revisions that a compaction leaves.
const KEPT: i64 = 6;

fn name(key: i64) -> Bytes {
    Bytes::from(format!("{key:03}"))
}

/// Every revision puts all keys with an even number, or all with an odd one, and deletes the others.
fn write(writer: &mut Writer) {
    let revision = writer.state().revision.next();
    let sequence = Sequence(revision.0 as u64);
    let changes: Vec<_> = (0..KEYS)
        .map(|key| {
            let kind = if (key + revision.0) % 2 == 0 {
                let value = Bytes::from(revision.to_string());
                ChangeKind::Put { value, create_revision: None, version: 1, lease: LeaseId::NONE }
            } else {
                ChangeKind::Delete
            };
            Change { key: name(key), sequence, place: key as u32 + 1, kind }
        })
        .collect();
    let versions = changes.iter().map(|change| change.version(revision));
    writer.apply(revision, LogIndex(sequence.0), versions, |_, _| ());
}

/// Reads one whole state while the other threads run.
fn check(state: &State) {
    let range = KeyRange::all();
    let newest = state.revision.0;
    let first = state.compacted.map_or(2, |floor| floor.0.max(2));
    for revision in first..=newest {
        let mut expect = (0..KEYS).filter(|key| (key + revision) % 2 == 0);
        for version in state.index.live_range(&range, Revision(revision)) {
            assert_eq!(version.mod_revision().0, revision);
            assert_eq!(version.key(), name(expect.next().expect("no more keys than that")));
            thread::yield_now();
        }
        assert_eq!(expect.next(), None);
        let live = (0..KEYS).filter(|key| (key + revision) % 2 == 0).count();
        assert_eq!(state.count(&range, Revision(revision)), live);
    }
    assert!(state.log.since(Revision(0)).map(|entry| entry.revision().0).eq(first..=newest));
    assert!(state.log.since(Revision(0)).all(|entry| entry.events().len() as i64 == KEYS));
}

#[test]
fn readers_see_whole_states_while_the_writer_writes_and_compacts() {
    let (mut writer, reader) = Writer::new();
    let is_over = AtomicBool::new(false);
    let look = |reader: Reader| {
        let (mut last, mut looks) = (Revision(0), 0);
        let mut held = Vec::new();
        while !is_over.load(Ordering::Acquire) || looks == 0 {
            let state = reader.snapshot();
            assert!(state.revision >= last);
            last = state.revision;
            check(&state);
            looks += 1;
            if held.len() < 3 {
                held.push(state);
            }
        }
        for state in &held {
            check(state);
        }
    };
    let mut gone: Vec<Weak<State>> = Vec::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            let reader = reader.clone();
            scope.spawn(|| look(reader));
        }
        for round in 0..REVISIONS {
            write(&mut writer);
            if round % 5 == 4 {
                writer.compact(Revision(writer.state().revision.0 - KEPT));
            }
            writer.sweep(KEYS as usize);
            gone.push(Arc::downgrade(&reader.snapshot()));
            writer.publish();
        }
        is_over.store(true, Ordering::Release);
    });
    while writer.is_sweeping() {
        writer.sweep(1);
    }
    writer.publish();
    check(&reader.snapshot());
    assert!(gone.iter().all(|state| state.upgrade().is_none()), "no reader is left, and an old state is");
}
