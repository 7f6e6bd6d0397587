//! Giving memory back to the system.
//!
//! An allocator keeps freed memory for a while, and returns it when something else is freed. A server that
//! has freed a long history, or the buffers of a load, and then has little to do would keep all of it. The
//! program chooses the allocator, so it sets the function.

use std::sync::OnceLock;

static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Sets the function that gives the memory freed by the calling thread back to the system. The first call
/// counts.
pub fn give_back_by(give_back: fn()) {
    GIVE_BACK.get_or_init(|| give_back);
}

/// Gives the memory that this thread has freed back to the system. Takes milliseconds for a large store.
pub(crate) fn give_back() {
    if let Some(give_back) = GIVE_BACK.get() {
        give_back();
    }
}
