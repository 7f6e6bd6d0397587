//! Permissions of roles, and their union for one user.

use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Values of [`Permission::kind`].
pub(crate) const READ: i32 = 0;
/// See [`READ`].
pub(crate) const WRITE: i32 = 1;
/// See [`READ`].
pub(crate) const READ_WRITE: i32 = 2;

/// The right to read or write a key or a range of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// [`READ`], [`WRITE`] or [`READ_WRITE`]. Any other number is kept, as etcd keeps it, and permits
    /// nothing.
    pub kind: i32,
    /// First key.
    #[serde(with = "base64_bytes")]
    pub key: Bytes,
    /// Empty for the one key, a zero byte for no end, else the first key behind the range.
    #[serde(with = "base64_bytes")]
    pub range_end: Bytes,
}

impl Permission {
    /// Whether the range is one that can be granted.
    pub fn is_valid(&self) -> bool {
        let end = self.range_end.as_ref();
        !self.key.is_empty() && (end.is_empty() || end == [0] || self.key < end)
    }
}

mod base64_bytes {
    use super::{Bytes, Deserialize, Deserializer, STANDARD, Serializer};
    use base64::Engine as _;

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}

/// The union of the permissions of a user's roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permissions {
    read: Intervals,
    write: Intervals,
}

impl Permissions {
    /// The union of permissions.
    pub(crate) fn merge<'a>(permissions: impl IntoIterator<Item = &'a Permission>) -> Permissions {
        let permissions: Vec<_> = permissions.into_iter().collect();
        let of = |kind: i32| {
            let granted = permissions.iter().filter(|given| given.kind == kind || given.kind == READ_WRITE);
            Intervals::merge(granted.map(|given| Interval::from_wire(&given.key, &given.range_end)))
        };
        Permissions { read: of(READ), write: of(WRITE) }
    }

    /// Whether all of a range, as on the wire, may be read.
    pub(crate) fn may_read(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.read.cover(&Interval::from_wire(key, range_end))
    }

    /// Whether all of a range, as on the wire, may be written.
    pub(crate) fn may_write(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.write.cover(&Interval::from_wire(key, range_end))
    }
}

/// Keys from `start` on and below `end`, `None` for no end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl Interval {
    fn from_wire(key: &[u8], range_end: &[u8]) -> Interval {
        let end = match range_end {
            [] => Some([key, &[0]].concat()),
            [0] => None,
            end => Some(end.to_vec()),
        };
        Interval { start: key.to_vec(), end }
    }

    fn ends_before(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_some_and(|end| end.as_slice() < key)
    }
}

/// Disjoint intervals in ascending order, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Intervals(Vec<Interval>);

impl Intervals {
    fn merge(intervals: impl Iterator<Item = Interval>) -> Intervals {
        let mut sorted: Vec<Interval> = intervals.collect();
        sorted.sort_by(|a, b| a.start.cmp(&b.start));
        let mut merged: Vec<Interval> = Vec::with_capacity(sorted.len());
        for interval in sorted {
            match merged.last_mut() {
                Some(last) if !last.ends_before(&interval.start) => {
                    // `None` is the greatest end.
                    last.end = match (last.end.take(), interval.end) {
                        (Some(a), Some(b)) => Some(a.max(b)),
                        _ => None,
                    };
                }
                _ => merged.push(interval),
            }
        }
        Intervals(merged)
    }

    /// Whether one interval holds all of `wanted`. An inverted range holds no key, but as in etcd its start
    /// must be in a granted interval.
    fn cover(&self, wanted: &Interval) -> bool {
        let behind = self.0.partition_point(|interval| interval.start <= wanted.start);
        let Some(interval) = behind.checked_sub(1).and_then(|at| self.0.get(at)) else { return false };
        if interval.end.as_ref().is_some_and(|end| *end <= wanted.start) {
            return false;
        }
        match (&interval.end, &wanted.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(granted), Some(end)) => end <= granted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn permission(kind: i32, key: &[u8], range_end: &[u8]) -> Permission {
        Permission { kind, key: Bytes::copy_from_slice(key), range_end: Bytes::copy_from_slice(range_end) }
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let granted = [
            permission(READ, b"a", b"c"),
            permission(READ, b"c", b""),
            permission(READ, b"c\0", b"f"),
            permission(WRITE, b"x", b"\0"),
        ];
        let merged = Permissions::merge(&granted);
        assert!(merged.may_read(b"a", b"f") && merged.may_read(b"c", b"") && merged.may_read(b"b", b"e"));
        assert!(
            !merged.may_read(b"a", b"f\0") && !merged.may_read(b"a", b"\0") && !merged.may_read(b"f", b"")
        );
        assert!(
            merged.may_write(b"x", b"\0") && merged.may_write(b"y", b"z") && !merged.may_write(b"w", b"\0")
        );
        assert!(!merged.may_write(b"a", b"") && !merged.may_read(b"x", b""));
    }

    #[test]
    fn an_unknown_kind_permits_nothing() {
        let merged = Permissions::merge(&[permission(7, b"a", b"")]);
        assert_eq!(merged, Permissions::default());
    }

    #[test]
    fn json_keeps_any_bytes() {
        let original = permission(READ_WRITE, b"\xff\0\n", b"\0");
        let json = serde_json::to_string(&original).unwrap();
        assert_eq!(serde_json::from_str::<Permission>(&json).unwrap(), original);
    }

    proptest! {
        /// A range is covered exactly if each of its keys is. Keys of one byte are few enough to try all.
        #[test]
        fn a_range_is_covered_if_all_of_it_is(
            granted in prop::collection::vec((1_u8..20, 1_u8..22), 0..6),
            start in 1_u8..20,
            end in 1_u8..22,
        ) {
            prop_assume!(start < end);
            let granted: Vec<_> = granted
                .iter()
                .filter(|(key, end)| key < end)
                .map(|(key, end)| permission(READ, &[*key], &[*end]))
                .collect();
            let merged = Permissions::merge(&granted);
            let each = (start..end).all(|key| {
                granted.iter().any(|given| given.key.as_ref() <= &[key][..] && &[key][..] < given.range_end.as_ref())
            });
            prop_assert_eq!(merged.may_read(&[start], &[end]), each);
        }
    }
}
