//! A limit to how long a connection may take to say what it is.
//!
//! HTTP/1.1 has a limit of its own once it is known to be spoken, and so has TLS; but until then, and at the start of
//! HTTP/2, a client could hold its place, and a file descriptor of the server's, for ever and for nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What an HTTP/2 connection opens with; other protocols differ somewhere in it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The head of the frame that has to follow.
const FRAME_HEAD: usize = 9;

/// A connection that fails unless it opens within a time.
#[derive(Debug)]
pub(super) struct Opening<I> {
    io: I,
    /// Bytes read so far; they are those of the preface, as far as that goes.
    read: usize,
    /// Gone when the connection has opened.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<I> Opening<I> {
    pub(super) fn new(io: I, limit: Duration) -> Opening<I> {
        Opening { io, read: 0, deadline: Some(Box::pin(tokio::time::sleep(limit))) }
    }

    fn take(&mut self, bytes: &[u8]) {
        let expected = PREFACE.iter().skip(self.read);
        let is_other = bytes.iter().zip(expected).any(|(byte, expected)| byte != expected);
        self.read += bytes.len();
        if is_other || self.read >= PREFACE.len() + FRAME_HEAD {
            self.deadline = None;
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Opening<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let Some(deadline) = &mut self.deadline else { return polled };
        if polled.is_pending() {
            return deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        self.take(&buf.filled()[filled..]);
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Opening<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMIT: Duration = Duration::from_millis(20);

    /// What a read says after the client has sent `bytes`, and then no more.
    async fn read_after(bytes: &[u8]) -> io::Result<()> {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = Opening::new(server, LIMIT);
        client.write_all(bytes).await.expect("there is room");
        if !bytes.is_empty() {
            let mut read = vec![0; bytes.len()];
            server.read_exact(&mut read).await?;
        }
        let mut more = [0; 1];
        match tokio::time::timeout(LIMIT * 5, server.read_exact(&mut more)).await {
            Ok(read) => read.map(drop),
            Err(_) => Ok(()),
        }
    }

    #[tokio::test]
    async fn who_does_not_open_in_time_is_cut_off() {
        let settings = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        for unfinished in [b"".as_slice(), b"PRI", PREFACE, &settings[..settings.len() - 1]] {
            let error = read_after(unfinished).await.expect_err("too slow");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        for open in [b"G".as_slice(), b"PRI * HTTP/1.1\r\n", &settings] {
            read_after(open).await.expect("nothing is due any more");
        }
    }
}
