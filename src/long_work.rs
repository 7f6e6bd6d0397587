//! Long work beside the short tasks of the runtime.
//!
//! A task gives its worker back only where it waits, and all other tasks of that worker wait meanwhile, also
//! the writer and its heartbeats. The runtime has few workers, on two cores only one.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::{Handle, RuntimeFlavor};

/// The most pieces of long work beside the workers. tokio has 512 threads for them and for work that blocks,
/// and each piece may hold a large response.
const MOST: usize = 64;

/// Pieces of long work under way.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Runs work, which is long if it may take a millisecond or more. Then another thread takes the worker's
/// other tasks first, unless [`MOST`] threads do long work already.
pub(crate) fn run_if<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    let flavor = || Handle::try_current().map(|runtime| runtime.runtime_flavor());
    // In other runtimes no thread could take them.
    if is_long && matches!(flavor(), Ok(RuntimeFlavor::MultiThread)) {
        let place = Place::take();
        if place.number < MOST {
            return tokio::task::block_in_place(work);
        }
    }
    work()
}

/// One piece in the count of [`UNDER_WAY`], which orders nothing.
struct Place {
    /// The pieces before this one.
    number: usize,
}

impl Place {
    fn take() -> Place {
        Place { number: UNDER_WAY.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;
    use tokio::runtime::Builder;

    /// The work ends when another task of the only worker has run.
    #[test]
    fn other_tasks_run_beside_long_work() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (sender, receiver) = channel();
        let long = runtime.spawn(async move {
            tokio::spawn(async move { sender.send(()).unwrap() });
            run_if(true, || receiver.recv_timeout(Duration::from_secs(30)))
        });
        assert_eq!(runtime.block_on(long).unwrap(), Ok(()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn other_runtimes_do_it_as_any_work() {
        assert_eq!(run_if(true, || 1), 1);
    }
}
