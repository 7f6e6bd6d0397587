//! The sharing of the bucket with other instances, which may change while this one runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Each value is stored with release and loaded with acquire: a thread that sees a change of the server sees
/// all that was done for it before.
///
/// Shared by the node, which alone changes [`Mode::is_alone`], and all that must know.
#[derive(Debug)]
pub(crate) struct Mode {
    is_alone: AtomicBool,
    has_fixed_members: AtomicBool,
    /// Whether this process can sync the files of the stream, as the durability that was asked for wants it.
    can_sync: bool,
    syncs_here: AtomicBool,
    /// Odd while the server of the store is exchanged.
    moves: AtomicU64,
    /// Held while the number of copies is raised.
    raising: tokio::sync::Mutex<()>,
}

impl Mode {
    pub(super) fn new(is_alone: bool, has_fixed_members: bool) -> Mode {
        Mode {
            is_alone: AtomicBool::new(is_alone),
            has_fixed_members: AtomicBool::new(has_fixed_members),
            can_sync: false,
            syncs_here: AtomicBool::new(false),
            moves: AtomicU64::new(0),
            raising: tokio::sync::Mutex::new(()),
        }
    }

    /// This process can sync the files of the stream.
    pub(super) fn with_sync(self, has_only_copy: bool) -> Mode {
        Mode { can_sync: true, syncs_here: AtomicBool::new(has_only_copy), ..self }
    }

    /// Whether no other instance can reach the log: the embedded server admits this one alone. Set before
    /// another one can, and only taken back when no other one can any more.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Acquire)
    }

    pub(super) fn set_alone(&self, is_alone: bool) {
        self.is_alone.store(is_alone, Ordering::Release);
    }

    /// Whether the members change by calls of the API alone. Otherwise each instance that serves the bucket
    /// is a member.
    pub(crate) fn has_fixed_members(&self) -> bool {
        self.has_fixed_members.load(Ordering::Acquire)
    }

    /// Whether this instance has a server in a cluster of embedded ones.
    pub(super) fn is_in_cluster(&self) -> bool {
        self.has_fixed_members() && !self.is_alone()
    }

    /// From now on the members change by calls of the API alone.
    pub(crate) fn set_fixed_members(&self) {
        self.has_fixed_members.store(true, Ordering::Release);
    }

    /// Whether this process syncs the files of the stream, since no other server has a copy.
    pub(super) fn syncs_here(&self) -> bool {
        self.syncs_here.load(Ordering::Acquire)
    }

    /// Whether there is one copy, which is here, or there are several, which their servers sync.
    pub(crate) fn set_only_copy(&self, is_only: bool) {
        self.syncs_here.store(self.can_sync && is_only, Ordering::Release);
    }

    /// A number that changes when an exchange of the server begins and when it ends. JetStream may give the
    /// stream another time of creation meanwhile.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Whether the server of the store is being exchanged, so that what it shows proves nothing.
    pub(crate) fn is_moving(&self) -> bool {
        self.moves() % 2 == 1
    }

    /// The exchange of the server begins, and the number of copies does not rise before its end.
    pub(crate) async fn begin_move(&self) {
        self.moves.fetch_add(1, Ordering::AcqRel);
        drop(self.raising.lock().await);
    }

    /// Keeps exchanges from beginning while the number of copies is raised; `None` while there is one.
    pub(super) async fn block_moves(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let raising = self.raising.lock().await;
        (!self.is_moving()).then_some(raising)
    }

    /// The exchange of the server is over.
    pub(crate) fn end_move(&self) {
        self.moves.fetch_add(1, Ordering::AcqRel);
    }
}
