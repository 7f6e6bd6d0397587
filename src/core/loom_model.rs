//! Models of the published state and of the event log: one writer, and readers that run at the same time.
//!
//! Loom sees every publication and load, every log slot that is filled or read, and each [`pause`], at which
//! a reader sleeps in the middle of a read. It does not see the reference counts of std's `Arc`, which
//! copying on write depends on. arc-swap is replaced by its contract in `primitive`: a store is a release, a
//! load acquires it.

use super::{Change, ChangeKind, Reader, State, Writer};
use crate::types::{KeyRange, LeaseId, LogIndex, Revision, Sequence};
use bytes::Bytes;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// A point at which a thread may be stopped for any time.
fn pause() {
    AtomicUsize::new(0).load(Ordering::Relaxed);
}

/// Puts all of `keys` at the next revision.
fn put(writer: &mut Writer, keys: &[&'static str]) {
    let revision = writer.state().revision.next();
    let change = |(key, place): (&&'static str, u32)| {
        let old = writer.newest(key.as_bytes());
        let kind = ChangeKind::Put {
            value: Bytes::from(revision.to_string()),
            create_revision: old.map(|old| old.create_revision()),
            version: old.map_or(1, |old| old.version() + 1),
            lease: LeaseId::NONE,
        };
        Change { key: Bytes::from_static(key.as_bytes()), sequence: Sequence(revision.0 as u64), place, kind }
    };
    let changes: Vec<_> = keys.iter().zip(1..).map(change).collect();
    let versions = changes.iter().map(|change| change.version(revision));
    writer.apply(revision, LogIndex(revision.0 as u64), versions, |_, _| ());
}

/// Checks a state against the invariants. The writers of these models put `a` and `b` at every revision, the
/// first of which is 2.
fn check(state: &State) {
    let range = KeyRange::all();
    let newest = state.revision.0;
    let found: Vec<_> = state
        .index
        .live_range(&range, state.revision)
        .map(|version| {
            pause();
            (Bytes::copy_from_slice(version.key()), version.mod_revision().0, version.version())
        })
        .collect();
    let expect: Vec<_> = ["a", "b"]
        .into_iter()
        .filter(|_| newest > 1)
        .map(|key| (Bytes::from(key), newest, newest - 1))
        .collect();
    assert_eq!(found, expect);
    assert_eq!(state.count(&range, state.revision), found.len());
    let first = state.compacted.map_or(2, |floor| floor.0);
    let logged: Vec<_> = state
        .log
        .since(Revision(0))
        .map(|entry| {
            pause();
            assert!(entry.events().iter().all(|event| event.version.mod_revision() == entry.revision()));
            (entry.revision().0, entry.events().len())
        })
        .collect();
    assert_eq!(logged, (first..=newest).map(|revision| (revision, 2)).collect::<Vec<_>>());
    for revision in first..=newest {
        let versions = state.index.live_range(&range, Revision(revision));
        assert!(versions.map(|version| version.mod_revision().0).eq([revision, revision]));
    }
}

#[test]
fn revisions_appear_whole_and_never_go_back() {
    loom::model(|| {
        let (mut writer, reader) = Writer::new();
        let look = |reader: Reader| {
            move || {
                let first = reader.snapshot();
                check(&first);
                let revision = reader.revision();
                let second = reader.snapshot();
                check(&second);
                assert!(first.revision <= revision && revision <= second.revision);
            }
        };
        let readers = [thread::spawn(look(reader.clone())), thread::spawn(look(reader.clone()))];
        for _ in 0..3 {
            put(&mut writer, &["a", "b"]);
            writer.publish();
        }
        assert_eq!(reader.revision(), Revision(4));
        for reader in readers {
            reader.join().expect("a reader");
        }
    });
}

#[test]
fn a_held_snapshot_stays_as_it_is_through_a_compaction() {
    loom::model(|| {
        let (mut writer, reader) = Writer::new();
        for _ in 0..3 {
            put(&mut writer, &["a", "b"]);
        }
        writer.publish();
        let sleeper = thread::spawn({
            let reader = reader.clone();
            move || {
                let held = reader.snapshot();
                let before = (held.revision, held.compacted);
                check(&held);
                pause();
                check(&held);
                assert_eq!((held.revision, held.compacted), before);
                drop(held);
                check(&reader.snapshot());
            }
        });
        let forgotten =
            reader.snapshot().log.get(Revision(2)).expect("in the log").events()[0].version.clone();
        // Revision 5 goes into the slot next to one that the sleeper reads, in a chunk that the compaction
        // has copied.
        writer.compact(Revision(3));
        writer.publish();
        put(&mut writer, &["a", "b"]);
        assert_eq!(writer.sweep(1).len(), 2);
        writer.publish();
        writer.compact(Revision(5));
        assert_eq!(writer.sweep(1).len(), 4);
        writer.publish();
        check(&reader.snapshot());
        sleeper.join().expect("the sleeper");
        // The stand-in for arc-swap keeps every publication, so that this end can only be seen with the real
        // one.
        assert!(forgotten.owners() > 1);
    });
}

#[test]
fn a_log_reader_that_falls_behind_gets_every_event_or_finds_the_floor() {
    loom::model(|| {
        let (mut writer, reader) = Writer::new();
        let follower = thread::spawn({
            let reader = reader.clone();
            move || {
                let mut next = Revision(2);
                for _ in 0..3 {
                    next = follow(&reader, next);
                }
                next
            }
        });
        for revision in 2..=5 {
            put(&mut writer, &["a", "b"]);
            if revision == 4 {
                writer.compact(Revision(3));
            }
            writer.publish();
        }
        let next = follower.join().expect("the follower");
        assert_eq!(follow(&reader, next), Revision(6));
    });
}

/// Reads the log from `next` on, and returns the revision to continue with.
fn follow(reader: &Reader, mut next: Revision) -> Revision {
    let state = reader.snapshot();
    if let Some(floor) = state.compacted.filter(|_| state.is_compacted(next)) {
        next = floor;
    }
    assert_eq!(state.log.len_since(next) as i64, state.revision.0 + 1 - next.0);
    for entry in state.log.since(next) {
        pause();
        assert_eq!(entry.revision(), next);
        next = next.next();
    }
    next
}
