//! What the lock-free parts and the waking of tasks stand on. In ordinary builds these are the types of std, arc-swap,
//! futures-util and tokio themselves, under other names; under `cfg(jetway_loom)` they are stand-ins that loom can look
//! into, so that the models (`loom_model.rs` beside what they model, `make loom`) run the code that is shipped.
//!
//! A stand-in promises no more than the type in whose place it stands, and that is where the models end: that arc-swap,
//! futures-util's `AtomicWaker` and tokio's `Notify` and `oneshot` keep these promises is taken from them. Miri and real
//! threads look at arc-swap (`core/threads.rs`). What has no stand-in keeps its own type, which loom runs as one step:
//! std's `Arc` and the `OnceLock`s around encoded events, tokio's `watch` and `mpsc`.

#[cfg(jetway_loom)]
mod model;
mod uptime;

pub(crate) use uptime::Uptime;

#[cfg(not(jetway_loom))]
mod real {
    pub(crate) use futures_util::task::AtomicWaker;
    pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
    pub(crate) use std::sync::{Mutex, MutexGuard};
    pub(crate) use tokio::sync::Notify;

    /// A shared value that is replaced as a whole: a replacement is a release, a load acquires it. Neither waits.
    pub(crate) type Published<T> = arc_swap::ArcSwap<T>;

    /// A place that is filled once.
    pub(crate) type Slot<T> = std::sync::OnceLock<T>;
}

#[cfg(jetway_loom)]
pub(crate) use model::*;
#[cfg(not(jetway_loom))]
pub(crate) use real::*;
