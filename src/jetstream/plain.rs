//! A plain connection to one nats-server, read where its bytes lie in the buffer.
//!
//! The client library makes a map of each message's headers, a string of each of its subjects, and passes it through
//! tasks and channels; where every message counts ([`Replay`](super::replay), [`Line`](super::line)) that is most of the
//! cost. What is spoken here is no more than those two need.

use super::connect::Plain;
use serde::Deserialize;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// A larger message cannot be: nats-server allows no payload above 64 MiB.
const MOST_BYTES: usize = 65 << 20;
/// For a connection and its greeting.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection with one subscription.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer is read and not taken yet.
    start: usize,
    end: usize,
    /// The largest message that the server takes, headers included.
    pub(super) max_payload: usize,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    headers: bool,
    #[serde(default)]
    tls_required: bool,
    max_payload: usize,
}

/// One thing that the server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    Message { subject: &'a [u8], reply: &'a [u8], headers: &'a [u8], payload: &'a [u8] },
    Ping,
    Pong,
    Info(&'a [u8]),
    Error(&'a [u8]),
    Ok,
}

impl Wire {
    /// Connects, and subscribes to `inbox`. Reads about `buffer_bytes` at once; more only for a message that does not fit.
    pub(super) async fn open(plain: &Plain, inbox: &str, buffer_bytes: usize) -> Result<Wire, String> {
        let opened = async {
            let stream = TcpStream::connect((plain.host.as_str(), plain.port)).await.map_err(text)?;
            stream.set_nodelay(true).map_err(text)?;
            let mut wire = Wire { stream, buffer: vec![0; buffer_bytes], start: 0, end: 0, max_payload: 0 };
            wire.greet(plain, inbox).await?;
            Ok(wire)
        };
        tokio::time::timeout(PATIENCE, opened).await.map_err(|_| "no connection in time")?
    }

    async fn greet(&mut self, plain: &Plain, inbox: &str) -> Result<(), String> {
        let info = loop {
            match self.said()? {
                Some((Said::Info(info), length)) => {
                    let info = serde_json::from_slice::<Info>(info).map_err(text)?;
                    self.take(length);
                    break info;
                }
                Some(_) => return Err("the server does not introduce itself".into()),
                None => self.fill().await?,
            }
        };
        if info.tls_required || !info.headers {
            return Err("the server wants more than a plain connection".into());
        }
        self.max_payload = info.max_payload;
        self.send(format!("CONNECT {}\r\nSUB {inbox} 1\r\nPING\r\n", plain.login).as_bytes()).await?;
        // What was wrong with that comes before the pong.
        loop {
            match self.said()? {
                Some((Said::Pong, length)) => {
                    self.take(length);
                    return Ok(());
                }
                Some((Said::Error(said), _)) => return Err(String::from_utf8_lossy(said).into_owned()),
                Some((_, length)) => self.take(length),
                None => self.fill().await?,
            }
        }
    }

    /// What the server says next, and its length, if it is there as a whole.
    pub(super) fn said(&self) -> Result<Option<(Said<'_>, usize)>, String> {
        said(&self.buffer[self.start..self.end])
    }

    /// Goes on behind what was said.
    pub(super) fn take(&mut self, length: usize) {
        self.start += length;
    }

    /// Reads more.
    pub(super) async fn fill(&mut self) -> Result<(), String> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            if self.end >= MOST_BYTES {
                return Poll::Ready(Err("a message without end".into()));
            }
            self.buffer.resize(self.end * 2, 0);
        }
        let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room)).map_err(text)?;
        let read = room.filled().len();
        self.end += read;
        Poll::Ready(if read == 0 { Err("the connection was closed".into()) } else { Ok(()) })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(text)
    }

    /// Sends some of `bytes`; answers how many.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, String>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes).map_err(text)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What follows the version in the first line of headers, which messages that somebody published do not have.
pub(super) fn status(headers: &str) -> Option<&str> {
    let line = headers.lines().next()?;
    let status = line.strip_prefix("NATS/1.0").unwrap_or(line).trim();
    (!status.is_empty()).then_some(status)
}

/// The first thing in `input`, and the bytes that it takes; `None` while a part of it is missing.
fn said(input: &[u8]) -> Result<Option<(Said<'_>, usize)>, String> {
    // Words end at single spaces, as nats-server writes them; none has more than those of a delivery with headers.
    let mut words = [&input[..0]; 6];
    let (mut count, mut begin) = (0, 0);
    let mut end = None;
    for (at, byte) in input.iter().enumerate() {
        match byte {
            b' ' if count < words.len() - 1 => {
                words[count] = &input[begin..at];
                count += 1;
                begin = at + 1;
            }
            b'\n' => {
                words[count] = input[begin..at].trim_ascii_end();
                count += 1;
                end = Some(at + 1);
                break;
            }
            _ => {}
        }
    }
    let Some(end) = end else { return Ok(None) };
    let line = input[..end].trim_ascii_end();
    let (subject, reply, header_bytes, bytes) = match (words[0], count) {
        (b"HMSG", 6) => (words[1], words[3], words[4], words[5]),
        (b"HMSG", 5) => (words[1], &input[..0], words[3], words[4]),
        (b"MSG", 5) => (words[1], words[3], &b"0"[..], words[4]),
        (b"MSG", 4) => (words[1], &input[..0], &b"0"[..], words[3]),
        (b"PING", _) => return Ok(Some((Said::Ping, end))),
        (b"PONG", _) => return Ok(Some((Said::Pong, end))),
        (b"+OK", _) => return Ok(Some((Said::Ok, end))),
        (b"INFO", _) => return Ok(Some((Said::Info(&line[b"INFO".len()..]), end))),
        (b"-ERR", _) => return Ok(Some((Said::Error(line), end))),
        _ => return Err(format!("what is {:?}?", String::from_utf8_lossy(line))),
    };
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<usize>().ok();
    let (Some(header_bytes), Some(bytes)) = (number(header_bytes), number(bytes)) else {
        return Err(format!("no sizes in {:?}", String::from_utf8_lossy(line)));
    };
    if bytes > MOST_BYTES || header_bytes > bytes {
        return Err(format!("a message of {bytes} bytes with {header_bytes} of headers"));
    }
    let content = &input[end..];
    if content.len() < bytes + 2 {
        return Ok(None);
    }
    let (headers, payload) = content[..bytes].split_at(header_bytes);
    Ok(Some((Said::Message { subject, reply, headers, payload }, end + bytes + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_understood_once_it_is_whole() {
        let message = |subject, reply, headers, payload| Said::Message { subject, reply, headers, payload };
        let input: &[(&[u8], Said)] = &[
            (b"INFO {\"a\": [1, 2, 3, 4, 5, 6]} \r\n", Said::Info(b" {\"a\": [1, 2, 3, 4, 5, 6]}")),
            (b"PONG\r\n", Said::Pong),
            (b"+OK\r\n", Said::Ok),
            (b"MSG a.b 1 3\r\nx\ny\r\n", message(b"a.b", b"", b"", b"x\ny")),
            (b"MSG a.b 1 r 0\r\n\r\n", message(b"a.b", b"r", b"", b"")),
            (b"PING\r\n", Said::Ping),
            (b"HMSG a 1 r.s 8 10\r\nNATS/1.0ab\r\n", message(b"a", b"r.s", b"NATS/1.0", b"ab")),
            (b"HMSG a 1 8 8\r\nNATS/1.0\r\n", message(b"a", b"", b"NATS/1.0", b"")),
            (b"-ERR 'Authorization Violation'\r\n", Said::Error(b"-ERR 'Authorization Violation'")),
        ];
        let all: Vec<u8> = input.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        let mut rest = &all[..];
        for (bytes, expect) in input {
            for end in 0..bytes.len() {
                assert_eq!(said(&rest[..end]), Ok(None), "{end} bytes of {expect:?}");
            }
            let (found, length) = said(rest).expect("sense").expect("a whole");
            assert_eq!((&found, length), (expect, bytes.len()));
            rest = &rest[length..];
        }
    }

    #[test]
    fn what_no_server_says_is_refused() {
        for bytes in [
            &b"HELLO\r\n"[..],
            b"\r\n",
            b"MSG a 1\r\n",
            b"MSG a 1 -1\r\n",
            b"MSG a 1 99999999999\r\n",
            b"HMSG a 1 9 8\r\n",
            b"HMSG a 1 r 1 2 3\r\n",
        ] {
            assert!(said(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn only_the_server_has_statuses() {
        assert_eq!(status("NATS/1.0\r\nJetway: x\r\n\r\n"), None);
        assert_eq!(status(""), None);
        assert_eq!(status("NATS/1.0 100 Idle Heartbeat\r\n\r\n"), Some("100 Idle Heartbeat"));
    }
}
