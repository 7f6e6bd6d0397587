//! Finds the protocol of a connection, HTTP/1 or HTTP/2, by its first bytes.
//!
//! `hyper_util::server::conn::auto` does the same, without a limit to the time that the first bytes take. A
//! client that connects and sends nothing, or one byte at a time, would hold its connection for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The first bytes of an HTTP/2 client.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The preface and the head of the frame that must follow it.
const LONGEST: usize = PREFACE.len() + 9;
const SETTINGS: u8 = 4;

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Reads until the protocol is clear. The returned stream begins with the bytes that were read.
///
/// # Errors
/// The connection ends or fails before, or its bytes are neither protocol.
pub(super) async fn detect<I: AsyncRead + Unpin>(mut io: I) -> io::Result<(Protocol, Rewound<I>)> {
    let mut bytes = [0; LONGEST];
    let mut length = 0;
    loop {
        let protocol = protocol_of(&bytes[..length])?;
        if let Some(protocol) = protocol {
            return Ok((protocol, Rewound { io, bytes, read_again: 0, length: length as u8 }));
        }
        match io.read(&mut bytes[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
    }
}

/// The protocol of these first bytes; none if more are needed.
fn protocol_of(bytes: &[u8]) -> io::Result<Option<Protocol>> {
    let Some(rest) = bytes.strip_prefix(PREFACE.as_slice()) else {
        return match bytes.first() {
            _ if PREFACE.starts_with(bytes) => Ok(None),
            // Each method of HTTP/1 is a word. TLS and other noise get no answer, as in etcd.
            Some(byte) if byte.is_ascii_alphabetic() => Ok(Some(Protocol::Http1)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "neither HTTP/1 nor HTTP/2")),
        };
    };
    match rest {
        [_, _, _, SETTINGS, _, _, _, _, _] => Ok(Some(Protocol::Http2)),
        [_, _, _, kind, ..] if *kind != SETTINGS => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "HTTP/2 without settings"))
        }
        _ => Ok(None),
    }
}

/// A stream whose first bytes are read a second time.
#[derive(Debug)]
pub(super) struct Rewound<I> {
    io: I,
    bytes: [u8; LONGEST],
    read_again: u8,
    length: u8,
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewound<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_again == self.length {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let rest = &self.bytes[usize::from(self.read_again)..usize::from(self.length)];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.read_again += count as u8;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewound<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_show_the_protocol() {
        let mut http2 = PREFACE.to_vec();
        http2.extend([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]);
        for length in 0..http2.len() {
            assert_eq!(protocol_of(&http2[..length]).expect("a preface"), None, "{length} bytes");
        }
        assert_eq!(protocol_of(&http2).expect("whole"), Some(Protocol::Http2));
        assert_eq!(protocol_of(b"P").expect("PUT or PRI"), None);
        assert_eq!(protocol_of(b"PU").expect("PUT"), Some(Protocol::Http1));
        assert_eq!(
            protocol_of(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("GET"),
            Some(Protocol::Http1)
        );
        protocol_of(b"\x16\x03\x01").expect_err("a TLS handshake");
        protocol_of(&[0x16; LONGEST]).expect_err("more of it");
        http2[27] = 0;
        protocol_of(&http2).expect_err("data before settings");
    }

    #[tokio::test]
    async fn the_first_bytes_are_read_again() {
        let (_, mut stream) =
            detect(&b"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n"[..]).await.expect("HTTP/1");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("text");
        assert_eq!(text, "GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n");
    }
}
