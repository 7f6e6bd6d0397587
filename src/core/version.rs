//! One version of a key, as an immutable shared value.

use crate::types::{LeaseId, Revision, Sequence};
use bytes::Bytes;
use std::cell::RefCell;
use std::fmt;
use triomphe::ThinArc;

/// One version of one key, made by a put or by a delete. Clones share it.
///
/// A store holds millions of them. So each is one allocation: the numbers that every version has, the key,
/// the value, and behind these the numbers that few versions have.
#[derive(Clone)]
pub struct KeyVersion(ThinArc<Fixed, u8>);

/// The parts of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionParts<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value; empty in a tombstone.
    pub value: &'a [u8],
    /// Revision of the put that created the key; 0 in a tombstone.
    pub create_revision: Revision,
    /// Revision that made this version.
    pub mod_revision: Revision,
    /// Number of puts since creation, 1 for the creating one; 0 in a tombstone.
    pub version: i64,
    /// The lease that the key is attached to.
    pub lease: LeaseId,
    /// The message that carries this version.
    pub sequence: Sequence,
    /// Place among the changes of its revision, counted from 1.
    pub place: u32,
}

struct Fixed {
    mod_revision: Revision,
    sequence: Sequence,
    place: u32,
    layout: Layout,
}

/// The length of the key, and flags for the numbers behind the value.
#[derive(Clone, Copy)]
struct Layout(u32);

const NUMBER: usize = size_of::<i64>();

impl Layout {
    /// `version` is 0. A flag of its own, because a walk over many keys checks it for each.
    const TOMBSTONE: u32 = 1 << 31;
    /// The last two numbers are `create_revision` and `version`. Without this flag both are 0 for a
    /// tombstone, and any other version created its key.
    const REWRITTEN: u32 = 1 << 30;
    /// The number before those is `lease`.
    const LEASED: u32 = 1 << 29;
    const KEY: u32 = Layout::LEASED - 1;

    fn of(parts: &VersionParts<'_>) -> Layout {
        let key = u32::try_from(parts.key.len()).ok().filter(|length| *length <= Layout::KEY);
        let key = key.expect("no message that NATS takes holds a key of half a gigabyte");
        let kind = match (parts.create_revision, parts.version) {
            (Revision(0), 0) => Layout::TOMBSTONE,
            (created, 1) if created == parts.mod_revision => 0,
            (_, 0) => Layout::TOMBSTONE | Layout::REWRITTEN,
            _ => Layout::REWRITTEN,
        };
        Layout(key | kind | if parts.lease.is_some() { Layout::LEASED } else { 0 })
    }

    fn has(self, mark: u32) -> bool {
        self.0 & mark != 0
    }

    fn key(self) -> usize {
        (self.0 & Layout::KEY) as usize
    }

    /// Length of the numbers in bytes.
    fn numbers(self) -> usize {
        (usize::from(self.has(Layout::REWRITTEN)) * 2 + usize::from(self.has(Layout::LEASED))) * NUMBER
    }
}

/// Most bytes of the buffer that a thread keeps for building the next version.
const SCRATCH: usize = 64 * 1024;

impl KeyVersion {
    /// Makes a version.
    pub fn new(parts: &VersionParts<'_>) -> KeyVersion {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let VersionParts { mod_revision, sequence, place, .. } = *parts;
        let layout = Layout::of(parts);
        let header = Fixed { mod_revision, sequence, place, layout };
        BUFFER.with_borrow_mut(|bytes| {
            bytes.clear();
            bytes.extend_from_slice(parts.key);
            bytes.extend_from_slice(parts.value);
            if layout.has(Layout::LEASED) {
                bytes.extend_from_slice(&parts.lease.0.to_ne_bytes());
            }
            if layout.has(Layout::REWRITTEN) {
                bytes.extend_from_slice(&parts.create_revision.0.to_ne_bytes());
                bytes.extend_from_slice(&parts.version.to_ne_bytes());
            }
            let version = KeyVersion(ThinArc::from_header_and_slice(header, bytes));
            bytes.shrink_to(SCRATCH);
            version
        })
    }

    fn fixed(&self) -> &Fixed {
        &self.0.header.header
    }

    fn layout(&self) -> Layout {
        self.fixed().layout
    }

    /// Key and value together.
    fn pair(&self) -> &[u8] {
        let bytes = &self.0.slice;
        &bytes[..bytes.len() - self.layout().numbers()]
    }

    /// The number that begins this many bytes before the end.
    fn number(&self, from_end: usize) -> i64 {
        let bytes = &self.0.slice;
        let number = bytes[bytes.len() - from_end..].first_chunk().expect("the layout has it");
        i64::from_ne_bytes(*number)
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.0.slice[..self.layout().key()]
    }

    /// The value; empty in a tombstone.
    pub fn value(&self) -> &[u8] {
        &self.pair()[self.layout().key()..]
    }

    /// Key and value for sending, without a copy. They keep this version alive.
    pub fn to_bytes(&self) -> (Bytes, Bytes) {
        let mut key = Bytes::from_owner(Pair(self.clone()));
        let value = key.split_off(self.layout().key());
        (key, value)
    }

    /// Revision of the put that created the key; 0 in a tombstone.
    pub fn create_revision(&self) -> Revision {
        let layout = self.layout();
        if layout.has(Layout::REWRITTEN) {
            Revision(self.number(2 * NUMBER))
        } else if layout.has(Layout::TOMBSTONE) {
            Revision(0)
        } else {
            self.mod_revision()
        }
    }

    /// Revision that made this version.
    pub fn mod_revision(&self) -> Revision {
        self.fixed().mod_revision
    }

    /// Number of puts since creation, 1 for the creating one; 0 in a tombstone.
    pub fn version(&self) -> i64 {
        let layout = self.layout();
        if layout.has(Layout::REWRITTEN) {
            self.number(NUMBER)
        } else {
            i64::from(!layout.has(Layout::TOMBSTONE))
        }
    }

    /// The lease the key hangs on.
    pub fn lease(&self) -> LeaseId {
        let layout = self.layout();
        if layout.has(Layout::LEASED) { LeaseId(self.number(layout.numbers())) } else { LeaseId::NONE }
    }

    /// The message that carries this version.
    pub fn sequence(&self) -> Sequence {
        self.fixed().sequence
    }

    /// Place among the changes of its revision, counted from 1.
    pub fn place(&self) -> u32 {
        self.fixed().place
    }

    /// All its parts.
    pub fn parts(&self) -> VersionParts<'_> {
        VersionParts {
            key: self.key(),
            value: self.value(),
            create_revision: self.create_revision(),
            mod_revision: self.mod_revision(),
            version: self.version(),
            lease: self.lease(),
            sequence: self.sequence(),
            place: self.place(),
        }
    }

    /// Whether a delete made this version.
    pub fn is_tombstone(&self) -> bool {
        self.layout().has(Layout::TOMBSTONE)
    }

    /// Whether the two are the same allocation.
    pub(super) fn is_same(&self, other: &KeyVersion) -> bool {
        std::ptr::eq(self.fixed(), other.fixed())
    }

    /// The number of clones.
    #[cfg(test)]
    pub(super) fn owners(&self) -> usize {
        ThinArc::strong_count(&self.0)
    }
}

impl PartialEq for KeyVersion {
    fn eq(&self, other: &KeyVersion) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for KeyVersion {}

impl fmt::Debug for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().fmt(f)
    }
}

/// The owner behind the bytes of [`KeyVersion::to_bytes`].
struct Pair(KeyVersion);

impl AsRef<[u8]> for Pair {
    fn as_ref(&self) -> &[u8] {
        self.0.pair()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        /// Numbers that are stored, and numbers that follow from others.
        fn numbers()(
            mod_revision in 1_i64..4,
            created in prop_oneof![Just(None), (0_i64..4).prop_map(Some), any::<i64>().prop_map(Some)],
            version in prop_oneof![0_i64..3, any::<i64>()],
            lease in prop_oneof![Just(0), any::<i64>()],
            sequence in any::<u64>(),
            place in any::<u32>(),
        ) -> VersionParts<'static> {
            VersionParts {
                key: b"",
                value: b"",
                create_revision: Revision(created.unwrap_or(mod_revision)),
                mod_revision: Revision(mod_revision),
                version,
                lease: LeaseId(lease),
                sequence: Sequence(sequence),
                place,
            }
        }
    }

    proptest! {
        #![proptest_config(super::super::tests::config(256))]

        #[test]
        fn a_version_returns_what_it_was_made_of(
            key in prop::collection::vec(any::<u8>(), 0..20),
            value in prop::collection::vec(any::<u8>(), 0..20),
            numbers in numbers(),
        ) {
            let parts = VersionParts { key: &key, value: &value, ..numbers };
            let version = KeyVersion::new(&parts);
            prop_assert_eq!(version.parts(), parts);
            prop_assert_eq!(version.is_tombstone(), parts.version == 0);
            let (shown_key, shown_value) = version.to_bytes();
            drop(version);
            prop_assert_eq!((shown_key.as_ref(), shown_value.as_ref()), (key.as_slice(), value.as_slice()));
        }
    }

    /// There are so many of them that a few more bytes for each show in the memory of a server.
    #[test]
    fn versions_and_events_take_no_more_room_than_they_need() {
        assert_eq!(size_of::<KeyVersion>(), 8);
        assert_eq!(size_of::<Fixed>(), 24);
        assert_eq!(size_of::<crate::core::RevisionEvents>(), 16);
    }
}
