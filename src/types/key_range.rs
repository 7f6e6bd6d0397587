//! Key intervals, by etcd's rules for `key` and `range_end`.

use bytes::Bytes;

/// A set of keys: one key, or a half-open interval in byte order. Hides the `\0` conventions of the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly this key.
    Single(Bytes),
    /// Every key from `start` on that is below `end`; no upper bound where `end` is `None`.
    Span {
        /// First key of the interval.
        start: Bytes,
        /// First key behind the interval.
        end: Option<Bytes>,
    },
}

impl KeyRange {
    /// Reads the pair of the wire: an empty `range_end` names the one key, a single zero byte means "to the
    /// end of the key space", anything else is the exclusive upper bound. An inverted pair is a range that
    /// holds nothing.
    pub fn from_wire(key: Bytes, range_end: &Bytes) -> KeyRange {
        match range_end.as_ref() {
            [] => KeyRange::Single(key),
            [0] => KeyRange::Span { start: key, end: None },
            _ => KeyRange::Span { start: key, end: Some(range_end.clone()) },
        }
    }

    /// Every key there can be.
    pub fn all() -> KeyRange {
        KeyRange::Span { start: Bytes::new(), end: None }
    }

    /// The lowest key the range could hold.
    pub fn start(&self) -> &Bytes {
        match self {
            KeyRange::Single(key) => key,
            KeyRange::Span { start, .. } => start,
        }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Single(single) => single == key,
            KeyRange::Span { start, .. } => key >= start.as_ref() && !self.ends_before(key),
        }
    }

    /// Whether `key`, and with it every greater key, lies behind the range.
    pub fn ends_before(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Single(single) => key > single.as_ref(),
            KeyRange::Span { end: Some(end), .. } => key >= end.as_ref(),
            KeyRange::Span { end: None, .. } => false,
        }
    }

    /// Whether no key at all can lie in the range (an inverted or empty interval).
    pub fn is_empty(&self) -> bool {
        matches!(self, KeyRange::Span { start, end: Some(end) } if start >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::from_wire(Bytes::from_static(key), &Bytes::from_static(end))
    }

    #[test]
    fn an_empty_end_is_one_key() {
        let one = range(b"a", b"");
        assert!(one.contains(b"a") && !one.contains(b"a\0") && !one.contains(b""));
        assert!(!one.is_empty());
    }

    #[test]
    fn a_zero_byte_end_is_open() {
        let open = range(b"b", b"\0");
        assert!(open.contains(b"b") && open.contains(b"\xff\xff") && !open.contains(b"a"));
    }

    #[test]
    fn an_inverted_end_holds_nothing() {
        let none = range(b"b", b"a");
        assert!(none.is_empty() && !none.contains(b"a") && !none.contains(b"b"));
        assert!(range(b"b", b"b").is_empty());
    }

    #[test]
    fn an_interval_excludes_its_end() {
        let some = range(b"a", b"c");
        assert!(some.contains(b"a") && some.contains(b"b\xff") && !some.contains(b"c"));
        assert!(some.ends_before(b"c") && !some.ends_before(b"b"));
    }
}
