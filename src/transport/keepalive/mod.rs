//! Disconnects clients that ping too often, by the rule and in the words of grpc-go.
//!
//! h2 and hyper answer pings and have no hook for them, and neither tonic nor tower has such a rule. So the
//! frames are watched as they pass. Only their heads are read, nine bytes each, in the caller's buffer;
//! nothing is copied or held back. No measurement decided this: grpc-go's clients rely on the GOAWAY to lower
//! their rate of pings.
//!
//! A ping is a strike if it comes sooner than the least interval after the one before, or, with no stream
//! open, sooner than two hours after it. Headers and data that the server sends reset the strikes. At the
//! third strike the client gets GOAWAY with ENHANCE_YOUR_CALM between two frames, then the end of the stream,
//! and has a second to close.
//!
//! The server's own pings are hyper's (`keep_alive_interval`).

mod frames;
mod policy;

use super::protocol::PREFACE;
use super::socket::Peer;
use frames::{FrameScanner, GOAWAY};
use policy::PingPolicy;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long the connection stays after the GOAWAY. To close it with unread bytes would reset it, and the
/// client might never read the GOAWAY.
const LINGER: Duration = Duration::from_secs(1);

const ENHANCE_YOUR_CALM: u32 = 11;
const DEBUG_DATA: &[u8; 14] = b"too_many_pings";
const GOAWAY_BYTES: usize = 9 + 8 + DEBUG_DATA.len();

fn goaway(newest_stream: u32) -> [u8; GOAWAY_BYTES] {
    let mut frame = [0; GOAWAY_BYTES];
    frame[2] = (8 + DEBUG_DATA.len()) as u8;
    frame[3] = GOAWAY;
    frame[9..13].copy_from_slice(&newest_stream.to_be_bytes());
    frame[13..17].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frame[17..].copy_from_slice(DEBUG_DATA);
    frame
}

/// The last frame of a connection, and the wait for the client to close.
#[derive(Debug)]
struct Ending {
    goaway: [u8; GOAWAY_BYTES],
    /// Bytes of the GOAWAY that are sent.
    sent: usize,
    /// Whether the GOAWAY and the end of the stream are sent.
    is_sent: bool,
    until: Pin<Box<Sleep>>,
}

/// An HTTP/2 connection, from its preface on, whose client has to keep to the rule.
#[derive(Debug)]
pub(super) struct PingGuard<I> {
    io: I,
    incoming: FrameScanner,
    outgoing: FrameScanner,
    policy: PingPolicy,
    peer: Peer,
    ending: Option<Ending>,
}

impl<I> PingGuard<I> {
    pub(super) fn new(io: I, min_interval: Duration, peer: Peer) -> PingGuard<I> {
        PingGuard {
            io,
            incoming: FrameScanner::new(PREFACE.len() as u32),
            outgoing: FrameScanner::default(),
            policy: PingPolicy::new(min_interval),
            peer,
            ending: None,
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        self.incoming.feed(bytes, |head| self.policy.received(head, Instant::now));
        if self.policy.is_broken() && self.ending.is_none() {
            tracing::warn!(
                peer = %self.peer,
                "a client is disconnected, because it pings too often; raise its keepalive time, or lower \
                 --grpc-keepalive-min-time"
            );
            self.ending = Some(Ending {
                goaway: goaway(self.policy.newest_stream()),
                sent: 0,
                is_sent: false,
                until: Box::pin(tokio::time::sleep(LINGER)),
            });
        }
    }

    /// Whether the caller may not write any more.
    fn is_ending(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.sent > 0)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> PingGuard<I> {
    /// Scans the bytes that the caller has written. The answer to the third strike is among them, so the
    /// GOAWAY follows now, or after a later write if a frame is not whole yet.
    fn wrote(&mut self, slices: &[io::IoSlice<'_>], mut written: usize, context: &mut Context<'_>) {
        for slice in slices {
            let count = slice.len().min(written);
            self.outgoing.feed(&slice[..count], |head| self.policy.sent(head));
            written -= count;
        }
        if let Some(ending) = &mut self.ending
            && self.outgoing.is_between_frames()
        {
            // An error shows in the next read.
            drop(ending.poll_send(&mut self.io, context));
        }
    }
}

impl Ending {
    /// Sends the GOAWAY and the end of the stream.
    fn poll_send(
        &mut self,
        mut io: impl AsyncWrite + Unpin,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.goaway.get(self.sent..) {
            self.sent += ready!(Pin::new(&mut io).poll_write(context, rest))?;
        }
        ready!(Pin::new(&mut io).poll_shutdown(context))?;
        self.is_sent = true;
        Poll::Ready(Ok(()))
    }

    /// Finishes sending if it has begun, and discards incoming bytes until the client closes or the time is
    /// over.
    fn poll(
        &mut self,
        mut io: impl AsyncRead + AsyncWrite + Unpin,
        context: &mut Context<'_>,
    ) -> Poll<io::Error> {
        let gone = || io::Error::new(io::ErrorKind::ConnectionAborted, "too many pings");
        if self.until.as_mut().poll(context).is_ready() {
            return Poll::Ready(gone());
        }
        if !self.is_sent {
            if self.sent > 0
                && let Err(error) = ready!(self.poll_send(&mut io, context))
            {
                return Poll::Ready(error);
            }
            if !self.is_sent {
                return Poll::Pending;
            }
        }
        let mut waste = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut io).poll_read(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready(gone()),
                Ok(()) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for PingGuard<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        if let Some(ending) = &mut guard.ending {
            return ending.poll(&mut guard.io, context).map(Err);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut guard.io).poll_read(context, buffer))?;
        guard.received(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PingGuard<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        if guard.is_ending() {
            // The client gets no more; the caller learns of the end from its next read.
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = ready!(Pin::new(&mut guard.io).poll_write_vectored(context, slices))?;
        guard.wrote(slices, written, context);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::frames::tests::frame;
    use super::frames::{ACK, DATA, PING};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const MINUTE: Duration = Duration::from_mins(1);

    /// A guard over one end of a pipe, whose client has sent four pings at once.
    async fn guarded(size: usize) -> (PingGuard<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (near, mut far) = tokio::io::duplex(size);
        let mut guard = PingGuard::new(near, MINUTE, Peer::Unix);
        let pings = frame(PING, 0, 0, &[0; 8]).repeat(4);
        let hello = [PREFACE.as_slice(), &pings].concat();
        let write = async { far.write_all(&hello).await.expect("written") };
        let read = async {
            let mut read = vec![0; hello.len()];
            guard.read_exact(&mut read).await.expect("read");
            assert_eq!(read, hello);
        };
        tokio::join!(write, read);
        (guard, far)
    }

    #[tokio::test]
    async fn the_goaway_stands_between_two_frames() {
        let (mut guard, mut far) = guarded(40).await;
        let sent = [frame(DATA, 0, 1, &[7; 100]), frame(PING, ACK, 0, &[0; 8])].concat();
        let write = async {
            // More room than the pipe has: the frame goes out in pieces.
            guard.write_all(&sent).await.expect("taken");
            guard.write_all(b"never to be seen").await.expect("swallowed");
            guard.read_u8().await.expect_err("the end")
        };
        let read = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("an end");
            all
        };
        let (error, all) = tokio::join!(write, read);
        let mut goaway = vec![0, 0, 0, 0, 0, 0, 0, 11];
        goaway.extend(b"too_many_pings");
        assert_eq!(all, [sent, frame(GOAWAY, 0, 0, &goaway)].concat());
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_client_that_does_not_close_is_dropped_after_a_second() {
        let (mut guard, _far) = guarded(40).await;
        let start = Instant::now();
        let stuck = tokio::time::timeout(MINUTE, async {
            let mut bytes = [0; 1];
            guard.read(&mut bytes).await
        });
        stuck.await.expect("in time").expect_err("the end");
        assert!(start.elapsed() >= LINGER);
    }
}
