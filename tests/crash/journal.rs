//! The requests of clients and their answers, and whether a history of events agrees with it.
//!
//! Every put carries a value that no other put has, so an event names its cause. Deletes are recognized by
//! their revision where they were answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use jetway::proto::mvccpb::KeyValue;
use jetway::proto::mvccpb::event::EventType;

use super::watcher::Seen;
use support::watch::pair;

/// One request that writes, and what came of it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The value of all puts in it.
    pub stamp: Bytes,
    pub puts: BTreeSet<Bytes>,
    /// Keys it deletes if they are there.
    pub deletes: BTreeSet<Bytes>,
    /// The revision in the answer and the number of keys deleted; `None` where there was no answer.
    pub answer: Option<(i64, i64)>,
}

#[derive(Debug, Default)]
pub struct Journal {
    attempts: Mutex<Vec<Attempt>>,
    stamps: AtomicU64,
    answered: AtomicI64,
}

impl Journal {
    /// A value that nobody has used.
    pub fn stamp(&self, padding: usize) -> Bytes {
        // A counter only: nothing is published through it.
        let number = self.stamps.fetch_add(1, Ordering::Relaxed);
        format!("{number}:{}", " ".repeat(padding)).into()
    }

    /// The highest revision of all answers. A later request must see no lower one.
    pub fn answered(&self) -> i64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Notes a revision from an answer to a call before which [`Journal::answered`] was `before`.
    pub fn heard(&self, revision: i64, before: i64) {
        assert!(revision >= before, "an answer has revision {revision}, and an earlier one had {before}");
        self.answered.fetch_max(revision, Ordering::SeqCst);
    }

    pub fn record(&self, attempt: Attempt) {
        self.attempts.lock().unwrap().push(attempt);
    }

    pub fn len(&self) -> (usize, usize) {
        let attempts = self.attempts.lock().unwrap();
        (attempts.iter().filter(|attempt| attempt.answer.is_some()).count(), attempts.len())
    }

    /// Fails unless `events`, the whole history, is one that these answers allow. Returns the state at its
    /// end.
    ///
    /// Keys for which `expires` holds may be deleted by the end of a lease.
    pub fn check(&self, events: &[Seen], expires: impl Fn(&[u8]) -> bool) -> BTreeMap<Bytes, KeyValue> {
        let attempts = self.attempts.lock().unwrap();
        let by_stamp: HashMap<&Bytes, &Attempt> =
            attempts.iter().map(|attempt| (&attempt.stamp, attempt)).collect();
        let mut revisions: BTreeMap<i64, Vec<&Seen>> = BTreeMap::new();
        let state = replay(events);
        for seen in events {
            revisions.entry(pair(&seen.event).mod_revision).or_default().push(seen);
        }
        // Each event belongs to one request, and is whole.
        let mut carried_out: HashMap<&Bytes, i64> = HashMap::new();
        let mut unexplained: HashMap<Bytes, i64> = HashMap::new();
        for (revision, events) in &revisions {
            let (puts, deletes): (Vec<_>, Vec<_>) =
                events.iter().map(|seen| &seen.event).partition(|event| event.r#type() == EventType::Put);
            let put: BTreeSet<Bytes> = puts.iter().map(|event| pair(event).key.clone()).collect();
            let deleted: BTreeSet<Bytes> = deletes.iter().map(|event| pair(event).key.clone()).collect();
            let Some(first) = puts.first() else {
                let answered = attempts
                    .iter()
                    .find(|attempt| attempt.answer.is_some_and(|it| it.0 == *revision && it.1 > 0));
                match answered {
                    Some(attempt) => assert_eq!(
                        (attempt.deletes.is_superset(&deleted), attempt.answer.unwrap().1),
                        (true, deleted.len() as i64),
                        "revision {revision} deletes {deleted:?} for {attempt:?}"
                    ),
                    None => deleted
                        .into_iter()
                        .filter(|key| !expires(key))
                        .for_each(|key| *unexplained.entry(key).or_default() += 1),
                }
                continue;
            };
            let stamp = &pair(first).value;
            let attempt = by_stamp
                .get(stamp)
                .unwrap_or_else(|| panic!("revision {revision} holds a value that nobody wrote: {stamp:?}"));
            assert!(
                puts.iter().all(|event| pair(event).value == stamp),
                "revision {revision} mixes writes: {events:?}"
            );
            assert_eq!(put, attempt.puts, "revision {revision} is not whole");
            assert!(
                attempt.deletes.is_superset(&deleted),
                "revision {revision} deletes {deleted:?} for {attempt:?}"
            );
            if let Some(earlier) = carried_out.insert(&attempt.stamp, *revision) {
                panic!("carried out twice, at {earlier} and {revision}: {attempt:?}");
            }
            if let Some((answered, count)) = attempt.answer {
                assert_eq!(answered, *revision, "answered with another revision: {attempt:?}");
                assert_eq!(
                    count,
                    deleted.len() as i64,
                    "answered with another count of deletes: {attempt:?}"
                );
            }
        }
        // The effect of each answered request is there.
        for attempt in attempts.iter() {
            let Some((revision, deleted)) = attempt.answer else { continue };
            if !attempt.puts.is_empty() {
                assert!(carried_out.contains_key(&attempt.stamp), "lost at revision {revision}: {attempt:?}");
            } else if deleted > 0 {
                assert!(revisions.contains_key(&revision), "lost at revision {revision}: {attempt:?}");
            }
        }
        // Deletes without an answer come from calls whose outcome is unknown.
        for (key, count) in unexplained {
            let unanswered = attempts
                .iter()
                .filter(|attempt| attempt.answer.is_none() && attempt.deletes.contains(&key))
                .count();
            assert!(count <= unanswered as i64, "{key:?} was deleted {count} times by {unanswered} calls");
        }
        state
    }
}

/// Fails unless each event follows from those before it; returns the state at the end.
pub fn replay(events: &[Seen]) -> BTreeMap<Bytes, KeyValue> {
    let mut state: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
    let mut last = 0;
    for Seen { event, .. } in events {
        let kv = pair(event);
        assert!(kv.mod_revision >= last, "revision {} comes after {last}", kv.mod_revision);
        last = kv.mod_revision;
        let before = state.get(&kv.key);
        assert_eq!(event.prev_kv.as_ref(), before, "prev_kv of {kv:?}");
        match event.r#type() {
            EventType::Put => {
                let (version, created) = before
                    .map_or((1, kv.mod_revision), |before| (before.version + 1, before.create_revision));
                assert_eq!((kv.version, kv.create_revision), (version, created), "{kv:?} after {before:?}");
                state.insert(kv.key.clone(), kv.clone());
            }
            EventType::Delete => {
                assert!(before.is_some(), "{kv:?} deletes a key that is not there");
                state.remove(&kv.key);
            }
        }
    }
    state
}
