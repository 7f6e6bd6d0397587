//! Giving memory back to the system.
//!
//! An allocator keeps freed memory for a while, and returns it when something else is freed. A server that
//! has freed a long history, or the buffers of a load, and then has little to do would keep all of it. Each
//! thread has a heap of its own, and takes back its blocks that other threads have freed only when it
//! allocates: the values of a history were received by many threads and are freed by one. So every thread
//! gives back on its own, before it waits the next time. The program chooses the allocator, so it sets the
//! function.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// How often all threads were asked. It orders nothing: a thread that sees an old number gives back before
/// one of its next waits.
static ASKED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The number of [`ASKED`] that this thread has acted on.
    static GIVEN: Cell<u64> = const { Cell::new(0) };
}

/// Sets the function that gives the free memory of the calling thread's heap back to the system. The first
/// call counts.
pub fn give_back_by(give_back: fn()) {
    GIVE_BACK.get_or_init(|| give_back);
}

/// Asks all threads to give their free memory back to the system.
pub(crate) fn give_back() {
    ASKED.fetch_add(1, Ordering::Relaxed);
}

/// Gives the free memory of this thread back to the system, if all were asked to since its last time. Takes
/// milliseconds for a large store. A runtime calls it before one of its threads waits.
pub fn give_back_if_asked() {
    let asked = ASKED.load(Ordering::Relaxed);
    if GIVEN.replace(asked) != asked
        && let Some(give_back) = GIVE_BACK.get()
    {
        give_back();
    }
}

/// Asks all threads to give back when it is dropped. The last field of a struct is dropped last.
#[derive(Debug)]
pub(crate) struct GiveBackOnDrop;

impl Drop for GiveBackOnDrop {
    fn drop(&mut self) {
        give_back();
    }
}
