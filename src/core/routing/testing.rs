//! Helpers of the tests and models of this folder.

use super::{Batch, Interest, Item, Receiver, WatcherId};
use crate::core::{Change, ChangeKind, Writer};
use crate::types::{KeyRange, LeaseId, LogIndex, Revision, Sequence};
use bytes::Bytes;
use std::sync::Arc;

pub(super) const WATCHER: WatcherId = WatcherId { watch_id: 7, place: 0, serial: 0 };

/// Puts each of the keys at the next revision and publishes it.
pub(super) fn put(writer: &mut Writer, keys: &[&str], value: &Bytes) -> Revision {
    let revision = writer.state().revision.next();
    let sequence = Sequence(revision.0 as u64);
    let change = |(key, place): (&&str, u32)| {
        let (value, lease) = (value.clone(), LeaseId::NONE);
        let kind = ChangeKind::Put { value, create_revision: None, version: 1, lease };
        Change { key: Bytes::copy_from_slice(key.as_bytes()), sequence, place, kind }.version(revision)
    };
    let versions: Vec<_> = keys.iter().zip(1..).map(change).collect();
    writer.apply(revision, LogIndex(sequence.0), versions, |_, _| ());
    writer.publish();
    revision
}

/// `count` revisions of one event each, from 2 on.
pub(super) fn batches(count: usize, value: &Bytes) -> Vec<Arc<Batch>> {
    let (mut writer, reader) = Writer::new();
    for _ in 0..count {
        put(&mut writer, &["a"], value);
    }
    let state = reader.snapshot();
    state.log.since(Revision(0)).map(|entry| Arc::new(Batch::new(entry, &state))).collect()
}

pub(super) fn interest(range: KeyRange) -> Arc<Interest> {
    Arc::new(Interest { range, no_put: false, no_delete: false })
}

/// The revision of an item that must be a delivery.
pub(super) fn revision<A: std::fmt::Debug>(item: &Item<A>) -> i64 {
    match item {
        Item::Events { batch, .. } => batch.revision().0,
        other => panic!("no events: {other:?}"),
    }
}

/// One line an item.
pub(super) fn show<A: std::fmt::Debug>(item: &Item<A>) -> String {
    match item {
        Item::Events { watcher, .. } => format!("{} events {}", watcher.watch_id, revision(item)),
        Item::Lagging { watcher, from } => format!("{} lagging {from}", watcher.watch_id),
        Item::Started { answer, revision, is_live: true } => format!("{answer:?} live {revision}"),
        Item::Started { answer, revision, .. } => format!("{answer:?} past {revision}"),
        Item::Joined(watcher) => format!("{} joined", watcher.watch_id),
        Item::Behind(watcher) => format!("{} behind", watcher.watch_id),
        Item::Echo { answer, revision } => format!("{answer:?} echo {revision}"),
        Item::Progress { revision, .. } => format!("progress {revision}"),
        Item::Reset => "reset".to_owned(),
    }
}

/// Takes all items of a queue, and marks them as done.
pub(super) fn drain<A: std::fmt::Debug>(receiver: &mut Receiver<A>) -> Vec<String> {
    let mut shown = Vec::new();
    while let Some(item) = receiver.pop() {
        if let Item::Events { batch, .. } = &item {
            receiver.done(1, batch.weight());
        }
        shown.push(show(&item));
    }
    shown
}
