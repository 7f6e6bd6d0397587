//! One key's versions, newest first, as immutable shared values.

use super::version::KeyVersion;
use crate::types::Revision;
use std::sync::Arc;

/// The versions of one key. Cloning shares them.
#[derive(Clone, Debug)]
pub struct History {
    newest: KeyVersion,
    older: Option<Arc<Older>>,
}

#[derive(Debug)]
struct Older {
    version: KeyVersion,
    next: Option<Arc<Older>>,
    /// Distance from the end of the list, which places the jump pointers.
    depth: u32,
    /// A node further back, chosen as in a skew-binary list, so that finding a revision in a long history
    /// takes a logarithmic number of steps.
    jump: Option<Arc<Older>>,
}

impl Drop for Older {
    /// Drops a list of any length node by node, without recursion.
    fn drop(&mut self) {
        self.jump = None;
        let mut next = self.next.take();
        while let Some(mut node) = next.and_then(Arc::into_inner) {
            node.jump = None;
            next = node.next.take();
        }
    }
}

impl Older {
    fn push(version: KeyVersion, next: Option<Arc<Older>>) -> Arc<Older> {
        let Some(below) = &next else {
            return Arc::new(Older { version, next: None, depth: 0, jump: None });
        };
        let depth = below.depth + 1;
        let jump = match &below.jump {
            Some(first) => {
                let second = first.jump.as_ref().map_or(0, |node| node.depth);
                if below.depth - first.depth == first.depth - second && first.jump.is_some() {
                    first.jump.clone()
                } else {
                    next.clone()
                }
            }
            None => next.clone(),
        };
        Arc::new(Older { version, next, depth, jump })
    }
}

impl History {
    /// Begins with a key's first version.
    pub fn new(newest: KeyVersion) -> History {
        History { newest, older: None }
    }

    /// The key of these versions.
    pub fn key(&self) -> &[u8] {
        self.newest.key()
    }

    /// The newest version, tombstone or not.
    pub fn newest(&self) -> &KeyVersion {
        &self.newest
    }

    /// Whether the key exists now.
    pub fn is_live(&self) -> bool {
        !self.newest.is_tombstone()
    }

    /// Whether a compaction may remove anything: there is an older version, or the key is deleted.
    pub(super) fn has_past(&self) -> bool {
        self.older.is_some() || self.newest.is_tombstone()
    }

    /// The number of versions.
    pub(super) fn len(&self) -> usize {
        self.older.as_ref().map_or(1, |older| older.depth as usize + 2)
    }

    /// The history with one more version.
    #[must_use]
    pub fn with(&self, newest: KeyVersion) -> History {
        History { newest, older: Some(Older::push(self.newest.clone(), self.older.clone())) }
    }

    /// The version that was newest at `revision`, tombstone or not; `None` if the key had none yet.
    pub fn at(&self, revision: Revision) -> Option<&KeyVersion> {
        if self.newest.mod_revision() <= revision {
            return Some(&self.newest);
        }
        let mut node = self.older.as_ref()?;
        while node.version.mod_revision() > revision {
            node = match &node.jump {
                Some(jump) if jump.version.mod_revision() > revision => jump,
                _ => node.next.as_ref()?,
            };
        }
        Some(&node.version)
    }

    /// The value a client could read at `revision`: like [`History::at`], but nothing for a deleted key.
    pub fn live_at(&self, revision: Revision) -> Option<&KeyVersion> {
        self.at(revision).filter(|version| !version.is_tombstone())
    }

    /// The rest of the history after a compaction at `floor`, and the versions that it loses. The rest is
    /// `None` if the key was deleted before the floor and not written again. All versions made exactly at the
    /// floor stay, since a watch that starts there must see them, after a restart too.
    pub fn compact(&self, floor: Revision) -> (Option<History>, Vec<KeyVersion>) {
        let mut kept = Vec::new();
        let mut lost = Vec::new();
        let mut base_found = false;
        for version in self.versions() {
            let is_base = !base_found && !version.is_tombstone();
            if version.mod_revision() >= floor || is_base {
                kept.push(version.clone());
            } else {
                lost.push(version.clone());
            }
            base_found |= version.mod_revision() <= floor;
        }
        if lost.is_empty() {
            return (Some(self.clone()), lost);
        }
        let mut left: Option<History> = None;
        for version in kept.into_iter().rev() {
            left = Some(match left {
                None => History::new(version),
                Some(history) => history.with(version),
            });
        }
        (left, lost)
    }

    /// All versions, newest first.
    pub fn versions(&self) -> impl Iterator<Item = &KeyVersion> {
        let mut older = self.older.as_ref();
        std::iter::once(&self.newest).chain(std::iter::from_fn(move || {
            let node = older?;
            older = node.next.as_ref();
            Some(&node.version)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::VersionParts;
    use crate::types::{LeaseId, Sequence};

    fn version(revision: i64, tombstone: bool) -> KeyVersion {
        KeyVersion::new(&VersionParts {
            key: b"k",
            value: b"",
            create_revision: Revision(if tombstone { 0 } else { 2 }),
            mod_revision: Revision(revision),
            version: i64::from(!tombstone),
            lease: LeaseId::NONE,
            sequence: Sequence(revision as u64),
            place: 1,
        })
    }

    fn history(count: i64) -> History {
        let mut history = History::new(version(2, false));
        for n in 1..count {
            history = history.with(version(2 + 2 * n, false));
        }
        history
    }

    #[test]
    fn every_revision_finds_its_version() {
        let count = if cfg!(miri) { 50 } else { 1000 };
        let history = history(count);
        assert!(history.at(Revision(1)).is_none());
        for revision in 2..2 * count + 5 {
            let expect = (revision / 2 * 2).min(2 * count);
            assert_eq!(
                history.at(Revision(revision)).map(|v| v.mod_revision().0),
                Some(expect),
                "at {revision}"
            );
        }
    }

    #[test]
    fn old_revisions_are_found_in_few_steps() {
        let history = history(if cfg!(miri) { 1_000 } else { 100_000 });
        let mut steps = 0;
        let mut node = history.older.as_ref();
        while let Some(at) = node.filter(|at| at.version.mod_revision() > Revision(3)) {
            steps += 1;
            node = match &at.jump {
                Some(jump) if jump.version.mod_revision() > Revision(3) => Some(jump),
                _ => at.next.as_ref(),
            };
        }
        assert!(steps < 64, "{steps} steps");
    }

    #[test]
    fn a_long_history_drops_without_recursion() {
        drop(history(if cfg!(miri) { 2_000 } else { 300_000 }));
    }

    #[test]
    fn compaction_keeps_the_base_and_all_above() {
        let (left, lost) = history(10).compact(Revision(7));
        let left = left.expect("live key");
        assert_eq!(
            left.versions().map(|v| v.mod_revision().0).collect::<Vec<_>>(),
            [20, 18, 16, 14, 12, 10, 8, 6]
        );
        assert_eq!(lost.iter().map(|v| v.mod_revision().0).collect::<Vec<_>>(), [4, 2]);
    }

    #[test]
    fn a_delete_survives_compaction_only_at_its_own_revision() {
        let deleted = history(2).with(version(6, true));
        let (left, lost) = deleted.compact(Revision(6));
        assert!(left.is_some_and(|left| left.newest().is_tombstone()));
        assert_eq!(lost.len(), 2);
        let (left, lost) = deleted.compact(Revision(7));
        assert!(left.is_none());
        assert_eq!(lost.len(), 3);
        let (left, lost) = deleted.with(version(9, false)).compact(Revision(8));
        assert_eq!(left.map(|left| left.versions().count()), Some(1));
        assert_eq!(lost.len(), 3);
    }
}
