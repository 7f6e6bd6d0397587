//! A core with keys in it.

use bytes::Bytes;
use jetway::core::{Change, ChangeKind, Reader, Writer};
use jetway::types::{LeaseId, LogIndex, Revision, Sequence};

const VALUE: [u8; 300] = [b'v'; 300];

/// Versions of a turn of a compaction, as the engine has it.
pub(crate) const SWEEP: usize = 512;

pub(crate) fn key(number: u64) -> Bytes {
    format!("/registry/configmaps/bench/{number:08}").into()
}

/// A writer and what it has written.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) writer: Writer,
    pub(crate) reader: Reader,
}

impl Store {
    /// Keys 0 to `size`, each put once, without history.
    pub(crate) fn of(size: u64) -> Store {
        let (writer, reader) = Writer::new();
        let mut store = Store { writer, reader };
        for number in 0..size {
            store.put_unpublished(number);
        }
        store.compact();
        store
    }

    pub(crate) fn put(&mut self, number: u64) {
        self.put_unpublished(number);
        self.writer.publish();
    }

    /// Adds a version to a key, seen by nobody yet.
    pub(crate) fn put_unpublished(&mut self, number: u64) {
        let revision = self.writer.state().revision.next();
        let sequence = Sequence(revision.0 as u64);
        let key = key(number);
        let (create_revision, version) = match self.writer.state().get(&key) {
            Some(there) => (Some(there.create_revision()), there.version() + 1),
            None => (None, 1),
        };
        let value = Bytes::from_static(&VALUE);
        let kind = ChangeKind::Put { value, create_revision, version, lease: LeaseId::NONE };
        let change = Change { key, sequence, place: 1, kind };
        self.writer.apply(revision, LogIndex(sequence.0), [change.version(revision)], |_, _| ());
    }

    /// Forgets all history and shows everything.
    pub(crate) fn compact(&mut self) -> Revision {
        let revision = self.writer.state().revision;
        self.writer.compact(revision);
        while self.writer.is_sweeping() {
            self.writer.sweep(SWEEP);
        }
        self.writer.publish();
        revision
    }
}
