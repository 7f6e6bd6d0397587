//! Clients that ping too often are told so and sent away, by the rule and in the words of grpc-go.
//!
//! hyper answers pings without telling anybody, so the frames are watched as they pass. Only their heads are looked at,
//! nine bytes each, where they lie in the caller's buffer; nothing is copied or held back.
//!
//! A ping is a strike if it comes sooner than the least interval after the one before, or, with no stream open, sooner
//! than two hours after it. Headers and data that the server sends wipe the strikes out. The third strike is the end: the
//! client gets GOAWAY with ENHANCE_YOUR_CALM between two frames, then the end of the stream, and has a second to go.

use super::greeting::PREFACE;
use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Least interval between pings while no stream is open.
const IDLE_INTERVAL: Duration = Duration::from_hours(2);
const MAX_STRIKES: u8 = 2;
/// How long the connection stays after the GOAWAY. Closing it with something unread would reset it, and the client might
/// never see why.
const LINGER: Duration = Duration::from_secs(1);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// Of a ping.
const ACK: u8 = 1;
/// Of data and headers.
const END_STREAM: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
const DEBUG_DATA: &[u8; 14] = b"too_many_pings";
const GOAWAY_BYTES: usize = 9 + 8 + DEBUG_DATA.len();

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the heads of frames in bytes that come in pieces of any size.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 9],
    /// Bytes of the head that have come.
    have: u8,
    /// Bytes until the next head.
    rest: u32,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Head)) {
        while !bytes.is_empty() {
            let skip = bytes.len().min(self.rest as usize);
            self.rest -= skip as u32;
            bytes = &bytes[skip..];
            let have = usize::from(self.have);
            let count = bytes.len().min(self.head.len() - have);
            self.head[have..have + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.have += count as u8;
            if usize::from(self.have) == self.head.len() {
                let [length @ .., kind, flags, a, b, c, d] = self.head;
                self.have = 0;
                self.rest = u32::from_be_bytes([0, length[0], length[1], length[2]]);
                found(Head { kind, flags, stream: u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1) });
            }
        }
    }

    fn between_frames(&self) -> bool {
        self.have == 0 && self.rest == 0
    }
}

/// The rule, and how a client stands with it.
#[derive(Debug)]
struct Conduct {
    min_interval: Duration,
    open: HashSet<u32>,
    newest: u32,
    last_ping: Option<Instant>,
    strikes: u8,
    forgiven: bool,
}

impl Conduct {
    fn received(&mut self, head: Head, now: impl FnOnce() -> Instant) {
        match head.kind {
            // Trailers come with a number that is not new.
            HEADERS if head.stream > self.newest => {
                self.newest = head.stream;
                self.open.insert(head.stream);
            }
            RST_STREAM => drop(self.open.remove(&head.stream)),
            PING if head.flags & ACK == 0 => self.pinged(now()),
            _ => {}
        }
    }

    fn sent(&mut self, head: Head) {
        let ends = match head.kind {
            DATA | HEADERS => {
                self.forgiven = true;
                head.flags & END_STREAM != 0
            }
            kind => kind == RST_STREAM,
        };
        if ends {
            self.open.remove(&head.stream);
        }
    }

    fn pinged(&mut self, now: Instant) {
        let last = self.last_ping.replace(now);
        if std::mem::take(&mut self.forgiven) {
            self.strikes = 0;
            return;
        }
        let least = if self.open.is_empty() { IDLE_INTERVAL } else { self.min_interval };
        if last.is_some_and(|last| now < last + least) {
            // One read may hold thousands.
            self.strikes = self.strikes.saturating_add(1);
        }
    }

    fn is_too_much(&self) -> bool {
        self.strikes > MAX_STRIKES
    }

    fn goaway(&self) -> [u8; GOAWAY_BYTES] {
        let mut frame = [0; GOAWAY_BYTES];
        frame[2] = (8 + DEBUG_DATA.len()) as u8;
        frame[3] = GOAWAY;
        frame[9..13].copy_from_slice(&self.newest.to_be_bytes());
        frame[13..17].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        frame[17..].copy_from_slice(DEBUG_DATA);
        frame
    }
}

/// The end of a connection.
#[derive(Debug)]
struct Ending {
    goaway: [u8; GOAWAY_BYTES],
    /// Bytes of it that are out.
    told: usize,
    /// Whether the client knows, and nothing follows.
    is_told: bool,
    until: Pin<Box<Sleep>>,
}

/// An HTTP/2 connection, from its preface on, whose client is held to the rule.
#[derive(Debug)]
pub(super) struct PingGuard<I> {
    io: I,
    incoming: Frames,
    outgoing: Frames,
    conduct: Conduct,
    ending: Option<Ending>,
}

impl<I> PingGuard<I> {
    pub(super) fn new(io: I, min_interval: Duration) -> PingGuard<I> {
        PingGuard {
            io,
            incoming: Frames { rest: PREFACE.len() as u32, ..Frames::default() },
            outgoing: Frames::default(),
            conduct: Conduct {
                min_interval,
                open: HashSet::new(),
                newest: 0,
                last_ping: None,
                strikes: 0,
                forgiven: false,
            },
            ending: None,
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        self.incoming.feed(bytes, |head| self.conduct.received(head, Instant::now));
        if self.conduct.is_too_much() && self.ending.is_none() {
            self.ending = Some(Ending {
                goaway: self.conduct.goaway(),
                told: 0,
                is_told: false,
                until: Box::pin(tokio::time::sleep(LINGER)),
            });
        }
    }

    /// Whether the caller may not write any more.
    fn is_ending(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.told > 0)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> PingGuard<I> {
    /// Keeps account of what the caller has written. The answer to the ping that was one too many goes out with this, so
    /// this is when to end, or after the next write if a frame is not whole yet.
    fn wrote(&mut self, slices: &[io::IoSlice<'_>], mut written: usize, context: &mut Context<'_>) {
        for slice in slices {
            let count = slice.len().min(written);
            self.outgoing.feed(&slice[..count], |head| self.conduct.sent(head));
            written -= count;
        }
        if let Some(ending) = &mut self.ending
            && self.outgoing.between_frames()
        {
            // What comes of it shows in the next read.
            drop(ending.poll_tell(&mut self.io, context));
        }
    }
}

impl Ending {
    /// Sends the GOAWAY and the end of the stream.
    fn poll_tell(
        &mut self,
        mut io: impl AsyncWrite + Unpin,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.goaway.get(self.told..) {
            self.told += ready!(Pin::new(&mut io).poll_write(context, rest))?;
        }
        ready!(Pin::new(&mut io).poll_shutdown(context))?;
        self.is_told = true;
        Poll::Ready(Ok(()))
    }

    /// Finishes the telling if it has begun, and throws away what comes in until the client or the time is gone.
    fn poll(
        &mut self,
        mut io: impl AsyncRead + AsyncWrite + Unpin,
        context: &mut Context<'_>,
    ) -> Poll<io::Error> {
        let gone = || io::Error::new(io::ErrorKind::ConnectionAborted, "too many pings");
        if self.until.as_mut().poll(context).is_ready() {
            return Poll::Ready(gone());
        }
        if !self.is_told {
            if self.told > 0
                && let Err(error) = ready!(self.poll_tell(&mut io, context))
            {
                return Poll::Ready(error);
            }
            if !self.is_told {
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
            // Nobody will read it; the caller learns of the end from its next read.
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
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const MINUTE: Duration = Duration::from_mins(1);

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn head(kind: u8, flags: u8, stream: u32) -> Head {
        Head { kind, flags, stream }
    }

    fn conduct() -> Conduct {
        PingGuard::new((), MINUTE).conduct
    }

    #[test]
    fn heads_are_found_wherever_the_pieces_end() {
        let bytes = [
            frame(HEADERS, 5, 1, b"headers"),
            frame(DATA, 0, 1, &[PING; 300]),
            frame(PING, 0, 0, b"12345678"),
            frame(RST_STREAM, 0, 1 | 1 << 31, &[0; 4]),
        ]
        .concat();
        for size in [1, 2, 3, 7, 9, 10, 64, bytes.len()] {
            let mut frames = Frames::default();
            let mut heads = Vec::new();
            for piece in bytes.chunks(size) {
                frames.feed(piece, |head| heads.push(head));
            }
            let expected = [head(HEADERS, 5, 1), head(DATA, 0, 1), head(PING, 0, 0), head(RST_STREAM, 0, 1)];
            assert_eq!(heads, expected, "in pieces of {size}");
            assert!(frames.between_frames());
        }
    }

    #[test]
    fn pings_may_come_once_in_the_interval_while_a_stream_is_open() {
        let mut conduct = conduct();
        let mut now = Instant::now();
        conduct.received(head(HEADERS, 0, 1), || now);
        for _ in 0..10 {
            conduct.received(head(PING, 0, 0), || now);
            now += MINUTE;
        }
        assert_eq!(conduct.strikes, 0);
        conduct.received(head(RST_STREAM, 0, 1), || now);
        for _ in 0..3 {
            assert!(!conduct.is_too_much());
            conduct.received(head(PING, 0, 0), || now);
            now += MINUTE;
        }
        assert!(conduct.is_too_much(), "no stream is open");
    }

    #[test]
    fn any_number_of_pings_in_one_read_is_too_much() {
        let mut conduct = conduct();
        let now = Instant::now();
        for ping in 0..1000 {
            conduct.received(head(PING, 0, 0), || now);
            assert_eq!(conduct.is_too_much(), ping > 2, "after {ping} more");
        }
    }

    #[test]
    fn what_the_server_sends_wipes_strikes_out() {
        let mut conduct = conduct();
        let mut now = Instant::now();
        conduct.received(head(HEADERS, 0, 1), || now);
        for _ in 0..10 {
            for _ in 0..3 {
                conduct.received(head(PING, 0, 0), || now);
            }
            assert_eq!(conduct.strikes, 2);
            conduct.received(head(PING, ACK, 0), || now);
            conduct.sent(head(DATA, 0, 1));
            conduct.received(head(PING, 0, 0), || now);
            assert_eq!(conduct.strikes, 0);
            now += MINUTE;
        }
        conduct.sent(head(HEADERS, END_STREAM, 1));
        assert!(conduct.open.is_empty());
        conduct.received(head(HEADERS, END_STREAM, 1), || now);
        assert!(conduct.open.is_empty(), "trailers open nothing");
    }

    /// A guard over one end of a pipe, with what the peer has to say already in it.
    async fn guarded(size: usize) -> (PingGuard<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (near, mut far) = tokio::io::duplex(size);
        let mut guard = PingGuard::new(near, MINUTE);
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
    async fn the_client_is_told_between_two_frames() {
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
    async fn a_client_that_does_not_listen_is_left_after_a_second() {
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
