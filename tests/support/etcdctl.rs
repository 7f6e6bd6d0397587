//! etcdctl, as a client that knows all endpoints and writes without a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::eventually;
use crate::program::etcdctl;

/// Writes keys below `/count/` one after the other, and reads each of them at once. No call may fail.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    flags: Vec<String>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Begins with these flags, which name the endpoints.
    pub fn begin(flags: Vec<String>) -> Self {
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let write = {
            let (stop, count, flags) = (stop.clone(), count.clone(), flags.clone());
            move || {
                while !stop.load(Ordering::SeqCst) {
                    let number = count.load(Ordering::SeqCst);
                    let (key, value) = (format!("/count/{number:05}"), number.to_string());
                    etcdctl(&flags, &["put", &key, &value]);
                    let read = etcdctl(&flags, &["get", &key, "--print-value-only"]);
                    assert_eq!(read.trim(), value);
                    count.store(number + 1, Ordering::SeqCst);
                }
            }
        };
        Self { stop, count, flags, thread: Some(std::thread::spawn(write)) }
    }

    /// Waits until some more keys are written.
    pub async fn more(&self) {
        let written = self.count.load(Ordering::SeqCst);
        eventually("more keys of etcdctl", async || {
            let thread = self.thread.as_ref().expect("it has not ended");
            assert!(!thread.is_finished(), "a call of etcdctl has failed");
            (self.count.load(Ordering::SeqCst) > written + 2).then_some(())
        })
        .await;
    }

    /// Ends, and counts the keys. Returns their number.
    pub fn end(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("it ends once").join().expect("no call of etcdctl has failed");
        let count = self.count.load(Ordering::SeqCst);
        let keys =
            etcdctl(&self.flags, &["get", "/count/", "--prefix", "--count-only", "--write-out=fields"]);
        assert!(keys.contains(&format!("\"Count\" : {count}\n")), "{count}: {keys}");
        count
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
