//! A notification for one task, without a lock on either side.
//!
//! tokio's own `Notify` keeps a list of waiting tasks behind a mutex. A notification takes the mutex if a
//! task waits, which would be on each write. One waiting task needs no list.

use super::{AtomicBool, AtomicWaker, Ordering};
use std::future::poll_fn;
use std::task::{Context, Poll};

/// Wakes the one task that waits for it. Without a waiting task the notification is kept for the next one
/// that waits. Several kept ones count as one.
///
/// Orderings: the swap in [`Notify::notify_one`] is a release of all that came before it. The swap in
/// [`Notify::notified`] acquires it, also where the flag stood already, because a swap continues the release
/// sequence of the one before. The flag and the waker are two words: the task registers its waker first and
/// looks at the flag once more, the notifier sets the flag first and takes the waker then. Both steps on the
/// waker are read-modify-writes of one word, so that the later of the two sees what came before the earlier:
/// either the task finds the flag, or the notifier finds the waker.
#[derive(Debug)]
pub struct Notify {
    is_notified: AtomicBool,
    waker: AtomicWaker,
}

impl Default for Notify {
    fn default() -> Notify {
        Notify::new()
    }
}

impl Notify {
    /// Without a notification.
    pub fn new() -> Notify {
        Notify { is_notified: AtomicBool::new(false), waker: AtomicWaker::new() }
    }

    /// Notifies the task. Never waits.
    pub fn notify_one(&self) {
        // Another notifier that set the flag wakes the task, if it has not done so.
        if !self.is_notified.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Waits for a notification and uses it up. Only one task may wait at a time: another one would replace
    /// its waker.
    pub async fn notified(&self) {
        poll_fn(|cx| self.poll_notified(cx)).await;
    }

    fn poll_notified(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_notified.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.is_notified.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(all(test, not(jetway_loom)))]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn notifications_are_kept_and_count_as_one() {
        let notify = Notify::new();
        assert!(notify.notified().now_or_never().is_none());
        notify.notify_one();
        notify.notify_one();
        assert!(notify.notified().now_or_never().is_some());
        assert!(notify.notified().now_or_never().is_none());
    }

    #[test]
    fn no_notification_is_lost_between_threads() {
        let rounds = if cfg!(miri) { 20 } else { 20_000 };
        let (ping, pong) = (Notify::new(), Notify::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..rounds {
                    block_on(ping.notified());
                    pong.notify_one();
                }
            });
            for _ in 0..rounds {
                ping.notify_one();
                block_on(pong.notified());
            }
        });
    }

    /// Waits on this thread.
    fn block_on(future: impl Future<Output = ()>) {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
        let mut future = std::pin::pin!(future);
        while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            std::thread::park();
        }
    }
}

#[cfg(all(test, jetway_loom))]
mod loom_model {
    use super::*;
    use loom::sync::atomic::AtomicUsize;
    use std::sync::Arc;

    #[test]
    fn a_task_that_waits_sees_all_that_came_before_each_notification() {
        loom::model(|| {
            let shared = Arc::new((Notify::new(), AtomicUsize::new(0)));
            let notifiers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    loom::thread::spawn(move || {
                        shared.1.fetch_add(1, Ordering::Relaxed);
                        shared.0.notify_one();
                    })
                })
                .collect();
            // A wait that is not ended leaves the model asleep for ever.
            while shared.1.load(Ordering::Relaxed) < 2 {
                loom::future::block_on(shared.0.notified());
            }
            for notifier in notifiers {
                notifier.join().expect("a notifier");
            }
        });
    }
}
