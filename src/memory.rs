//! Giving memory back to the system.
//!
//! An allocator keeps what was freed for a while, and looks at it again when something else is freed. A server that has let
//! go of a long history, or of what a load needed, and then has little to do would keep all of it. Which allocator there is
//! is for the program to say.

use std::sync::OnceLock;

static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Names what gives the system back what the calling thread has freed. Counts once.
pub fn give_back_by(give_back: fn()) {
    GIVE_BACK.get_or_init(|| give_back);
}

/// Gives the system back what this thread has freed. Takes milliseconds for a large store.
pub(crate) fn give_back() {
    if let Some(give_back) = GIVE_BACK.get() {
        give_back();
    }
}
