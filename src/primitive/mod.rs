//! Atomics, queues and wakers of the lock-free parts. In ordinary builds they are types of std, arc-swap,
//! crossbeam-queue, futures-util and tokio under other names. Under `cfg(jetway_loom)` they are stand-ins
//! that loom can explore, so that the models (the files `loom_model.rs`, `make loom`) run the code that is
//! shipped.
//!
//! A stand-in promises no more than the type that it replaces. The models do not check that arc-swap,
//! crossbeam-queue's `SegQueue`, futures-util's `AtomicWaker` and tokio's `oneshot` keep these promises. Miri
//! and real threads test arc-swap (`core/threads.rs`) and `SegQueue` (`core/routing/threads.rs`). A type
//! without a stand-in stays as it is, and loom runs each of its operations as one step: std's `Arc` and the
//! `OnceLock`s around encoded events, tokio's `watch` and `mpsc`. [`Notify`] is jetway's own, and loom
//! explores its real code.

mod counter;

#[cfg(jetway_loom)]
mod model;
mod notify;
mod uptime;

pub(crate) use uptime::Uptime;

#[cfg(not(jetway_loom))]
mod real {
    pub(crate) use futures_util::task::AtomicWaker;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
    pub(crate) use tokio::sync::oneshot;

    /// A shared value that is replaced as a whole: a replacement is a release, a load acquires it. Neither
    /// waits.
    pub(crate) type Published<T> = arc_swap::ArcSwap<T>;

    /// An unbounded queue without a lock. Any thread pushes and pops; a push is a release, the pop that gets
    /// its value acquires it. Values of one thread come in the order in which it pushed them. Memory is taken
    /// in blocks of 31 values as they are needed and given back as they are read.
    ///
    /// No push waits. A pop that finds a push begun and not complete spins for the few instructions that are
    /// left of it.
    pub(crate) type Queue<T> = crossbeam_queue::SegQueue<T>;

    /// A place that is filled once.
    pub(crate) type Slot<T> = std::sync::OnceLock<T>;
}

#[cfg(jetway_loom)]
pub(crate) use model::*;
#[cfg(not(jetway_loom))]
pub(crate) use real::*;

pub use counter::Counter;
pub use notify::Notify;
