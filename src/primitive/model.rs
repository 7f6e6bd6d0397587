//! The stand-ins for the models.

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
pub(crate) use loom::sync::{Mutex, MutexGuard};

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

/// Replacements that one model may make.
const PUBLICATIONS: usize = 10;

/// Reports accesses to a value elsewhere to loom, as plain reads and writes of one memory cell: a write that
/// is not ordered against all other accesses fails the model.
#[derive(Default)]
struct Witness(loom::cell::UnsafeCell<()>);

#[expect(
    unsafe_code,
    reason = "loom's cells are not Sync, and finding out whether that is needed is their use here"
)]
// SAFETY: the cell holds nothing, and loom runs the threads of a model one at a time.
unsafe impl Sync for Witness {}

impl Witness {
    fn read(&self) {
        self.0.with(|_| ());
    }

    fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

/// Replaces `OnceLock`, and is weaker: it orders nothing by itself, so that something else must publish its
/// value. A write during a read fails the model.
#[derive(Default)]
pub(crate) struct Slot<T> {
    witness: Witness,
    value: OnceLock<T>,
}

impl<T> Slot<T> {
    pub(crate) fn new() -> Slot<T> {
        Slot { witness: Witness::default(), value: OnceLock::new() }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.witness.read();
        self.value.get()
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.witness.write();
        self.value.set(value)
    }
}

impl<T: Clone> Clone for Slot<T> {
    fn clone(&self) -> Slot<T> {
        self.witness.read();
        Slot { witness: Witness::default(), value: self.value.clone() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// Replaces `ArcSwap`: one release for each replacement, one acquire for each load, and nothing beyond. A
/// load that nothing orders behind the newest replacement may still find an older one. For one writer.
pub(crate) struct Published<T> {
    values: [Slot<Arc<T>>; PUBLICATIONS],
    newest: AtomicUsize,
}

impl<T> Published<T> {
    pub(crate) fn from_pointee(value: T) -> Published<T> {
        let published =
            Published { values: std::array::from_fn(|_| Slot::new()), newest: AtomicUsize::new(0) };
        assert!(published.values[0].set(Arc::new(value)).is_ok());
        published
    }

    pub(crate) fn load(&self) -> Arc<T> {
        self.load_full()
    }

    pub(crate) fn load_full(&self) -> Arc<T> {
        let newest = self.newest.load(Ordering::Acquire);
        Arc::clone(self.values[newest].get().expect("filled before it was named"))
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        let next = self.newest.load(Ordering::Relaxed) + 1;
        assert!(self.values[next].set(value).is_ok(), "one writer");
        self.newest.store(next, Ordering::Release);
    }
}

impl<T> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Published")
    }
}

/// Values that one model may push into one queue.
const PUSHES: usize = 16;

/// Replaces crossbeam-queue's `SegQueue`, for one thread that pops, and is weaker: a pop finds the values in
/// the order in which their places were taken, and finds nothing while the push of the first one is
/// incomplete or not visible. One release for each push, one acquire for each pop, and nothing beyond.
///
/// The two numbers are hidden from loom: what could go wrong between two threads shows in the places.
pub(crate) struct Queue<T> {
    places: [Place<T>; PUSHES],
    taken: std::sync::atomic::AtomicUsize,
    popped: std::sync::atomic::AtomicUsize,
}

struct Place<T> {
    is_filled: AtomicBool,
    /// Never contended: loom runs one thread at a time, and none stops while it holds it.
    value: std::sync::Mutex<Option<T>>,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Queue<T> {
        let place = |_| Place { is_filled: AtomicBool::new(false), value: std::sync::Mutex::new(None) };
        Queue { places: std::array::from_fn(place), taken: 0.into(), popped: 0.into() }
    }

    pub(crate) fn push(&self, value: T) {
        let place = &self.places[self.taken.fetch_add(1, Ordering::Relaxed)];
        *place.value.lock().expect("free") = Some(value);
        place.is_filled.store(true, Ordering::Release);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        let next = self.popped.load(Ordering::Relaxed);
        let place = self.places.get(next).filter(|place| place.is_filled.load(Ordering::Acquire))?;
        self.popped.store(next + 1, Ordering::Relaxed);
        place.value.lock().expect("free").take()
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}

/// Replaces that of futures-util: the next `wake` wakes the task that was registered last, once.
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub(crate) fn new() -> AtomicWaker {
        AtomicWaker::default()
    }

    pub(crate) fn register(&self, waker: &Waker) {
        let replaced = self.lock().replace(waker.clone());
        drop(replaced);
    }

    pub(crate) fn wake(&self) {
        let waker = self.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.lock().expect("loom does not poison")
    }
}

/// Replaces tokio's.
pub(crate) mod oneshot {
    use super::{Arc, AtomicWaker, Context, Mutex, Pin, Poll};

    #[derive(Debug)]
    struct Shared<T> {
        state: Mutex<State<T>>,
        waker: AtomicWaker,
    }

    #[derive(Debug)]
    struct State<T> {
        value: Option<T>,
        is_sent: bool,
        has_receiver: bool,
    }

    /// The sender is gone and has sent nothing.
    #[derive(Debug)]
    pub(crate) struct RecvError;

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Arc<Shared<T>>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(Arc<Shared<T>>);

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let state = State { value: None, is_sent: false, has_receiver: true };
        let shared = Arc::new(Shared { state: Mutex::new(state), waker: AtomicWaker::new() });
        (Sender(Arc::clone(&shared)), Receiver(shared))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(self, value: T) -> Result<(), T> {
            let mut state = self.0.state.lock().expect("loom does not poison");
            if !state.has_receiver {
                return Err(value);
            }
            state.value = Some(value);
            Ok(())
        }

        pub(crate) fn is_closed(&self) -> bool {
            !self.0.state.lock().expect("loom does not poison").has_receiver
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.state.lock().expect("loom does not poison").is_sent = true;
            self.0.waker.wake();
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, RecvError>;

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            self.0.waker.register(cx.waker());
            let mut state = self.0.state.lock().expect("loom does not poison");
            match state.value.take() {
                Some(value) => Poll::Ready(Ok(value)),
                None if state.is_sent => Poll::Ready(Err(RecvError)),
                None => Poll::Pending,
            }
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let mut state = self.0.state.lock().expect("loom does not poison");
            state.has_receiver = false;
            let unread = state.value.take();
            drop(state);
            drop(unread);
        }
    }
}
