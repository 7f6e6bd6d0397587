//! Collects the bytes that a connection writes while it is polled, and sends them with one system call. Also
//! bounds the bytes that it reads in one poll.
//!
//! h2 writes and flushes at each DATA frame of more than 256 bytes, and again for the trailers behind it: two
//! system calls for each response of a kilobyte. tokio's `BufWriter` does not help, because h2 flushes it.
//! Here a flush only records that there is something to send. [`uncorked`] polls the connection, and sends
//! when the connection has nothing more to do for now.
//!
//! Responses that become ready together come from a task each, and the first of these wakes the connection
//! ahead of the others. So the connection is polled once more behind all tasks that are ready. With 100
//! clients on 10 connections, puts took 1.5 system calls each for the response and its share of the messages
//! to NATS before that, and 0.3 since (commit 4275411).

use smallvec::SmallVec;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that are collected. More is sent at once.
const LIMIT: usize = 32 << 10;
/// A write of this size is sent at once, because to copy it costs more than a system call.
const LARGE: usize = 8 << 10;
/// A connection that has read so many bytes lets other tasks run before it reads on. Else one poll of it
/// could begin a hundred thousand calls, and a client that cancels each of them and goes on would pile their
/// tasks up. 8 KiB hold about as many calls as a worker's own queue.
const READ_LIMIT: usize = 8 << 10;
/// How long a connection that has ended may take for its last bytes.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(1);

/// The half of a stream that the connection reads and writes.
#[derive(Debug)]
pub(super) struct Corked<I>(Arc<Mutex<Inner<I>>>);

/// The half that sends. Both belong to one task, so that neither waits for the other's lock.
#[derive(Debug)]
pub(super) struct Cork<I>(Arc<Mutex<Inner<I>>>);

#[derive(Debug)]
struct Inner<I> {
    io: I,
    /// Not sent yet, from `sent` on.
    buffer: Vec<u8>,
    sent: usize,
    must_flush: bool,
    /// Bytes that this poll of the connection has read.
    read: usize,
    /// The error of an earlier write, which the next write returns.
    failed: Option<io::Error>,
}

/// Both halves of a stream.
pub(super) fn cork<I>(io: I) -> (Corked<I>, Cork<I>) {
    let inner = Inner { io, buffer: Vec::new(), sent: 0, must_flush: false, read: 0, failed: None };
    let inner = Arc::new(Mutex::new(inner));
    (Corked(Arc::clone(&inner)), Cork(inner))
}

/// Polls a connection to its end. After each poll it sends the bytes that the connection has written.
pub(super) async fn uncorked<F, I>(mut connection: Pin<&mut F>, cork: &Cork<I>) -> F::Output
where
    F: Future,
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut has_waited = false;
    let outcome = poll_fn(|context| {
        lock(&cork.0).read = 0;
        let polled = connection.as_mut().poll(context);
        let mut inner = lock(&cork.0);
        if polled.is_pending() && inner.waiting() > 0 && !has_waited {
            has_waited = true;
            context.waker().wake_by_ref();
            return polled;
        }
        has_waited = false;
        if let Poll::Ready(Err(error)) = inner.poll_send(context) {
            inner.failed = Some(error);
            if polled.is_pending() {
                // The connection gets the error when it writes or reads.
                context.waker().wake_by_ref();
            }
        }
        polled
    })
    .await;
    let last_bytes = poll_fn(|context| lock(&cork.0).poll_send(context));
    // A client that does not read them, or is gone, does not need them.
    drop(tokio::time::timeout(LAST_BYTES_TIMEOUT, last_bytes).await);
    outcome
}

fn lock<I>(inner: &Mutex<Inner<I>>) -> MutexGuard<'_, Inner<I>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<I: AsyncRead + AsyncWrite + Unpin> Inner<I> {
    fn waiting(&self) -> usize {
        self.buffer.len() - self.sent
    }

    fn forget(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.buffer.len() {
            // An idle connection keeps no memory for this.
            self.buffer = Vec::new();
            self.sent = 0;
        }
    }

    /// Sends the buffer.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &self.buffer[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.forget(written);
        }
        if self.must_flush {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.must_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the buffer, and as much of `slices` as goes along.
    fn poll_send_with(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.waiting();
            let written = {
                let buffered = (waiting > 0).then(|| IoSlice::new(&self.buffer[self.sent..]));
                let all: SmallVec<[IoSlice<'_>; 16]> =
                    buffered.into_iter().chain(slices.iter().copied()).collect();
                ready!(Pin::new(&mut self.io).poll_write_vectored(context, &all))?
            };
            self.forget(written.min(waiting));
            if written > waiting || waiting == 0 {
                return Poll::Ready(Ok(written.saturating_sub(waiting)));
            }
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        self.must_flush = true;
        let size = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if size >= LARGE || self.waiting() + size > LIMIT {
            return self.poll_send_with(context, slices);
        }
        for slice in slices {
            self.buffer.extend_from_slice(slice);
        }
        Poll::Ready(Ok(size))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        if inner.read >= READ_LIMIT {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut inner.io).poll_read(context, buffer);
        inner.read += buffer.filled().len() - before;
        polled
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Corked<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is sent at the end of this poll of the connection.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        ready!(inner.poll_send(context))?;
        Pin::new(&mut inner.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn writes_of_one_poll_arrive_in_order() {
        // Smaller than the writes, so that they are cut.
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut corked, cork) = cork(near);
        let sizes = [1, 300, LARGE - 1, LARGE, 5, LIMIT, LIMIT + 1, 7, LIMIT - 1, 40];
        let expected: Vec<u8> =
            sizes.iter().enumerate().flat_map(|(at, size)| std::iter::repeat_n(at as u8, *size)).collect();
        let writer = async {
            for (at, size) in sizes.iter().enumerate() {
                corked.write_all(&vec![at as u8; *size]).await.expect("the other side reads");
                corked.flush().await.expect("the other side reads");
            }
            corked.shutdown().await.expect("the other side reads");
        };
        let reader = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("the whole of it");
            all
        };
        let mut writer = std::pin::pin!(writer);
        let ((), all) = tokio::join!(uncorked(writer.as_mut(), &cork), reader);
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn nothing_waits_for_the_next_poll() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut corked, cork) = cork(near);
        let connection = async {
            corked.write_all(b"question").await.expect("there is room");
            let mut answer = [0; 6];
            corked.read_exact(&mut answer).await.expect("an answer");
            answer
        };
        let other = async {
            let mut question = [0; 8];
            far.read_exact(&mut question).await.expect("a question");
            far.write_all(b"answer").await.expect("there is room");
        };
        let mut connection = std::pin::pin!(connection);
        let (answer, ()) = tokio::join!(uncorked(connection.as_mut(), &cork), other);
        assert_eq!(&answer, b"answer");
    }

    #[tokio::test]
    async fn the_write_after_a_failed_one_returns_its_error() {
        let (near, far) = tokio::io::duplex(1000);
        drop(far);
        let (mut corked, cork) = cork(near);
        let connection = async {
            corked.write_all(b"to nobody").await.expect("it is only collected");
            // It is sent at the end of the second one.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            corked.write_all(b"to nobody").await.expect_err("it is known by now")
        };
        let mut connection = std::pin::pin!(connection);
        let error = uncorked(connection.as_mut(), &cork).await;
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
