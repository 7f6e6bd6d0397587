//! Reads what a stream holds as fast as it comes, for a start: over a connection of its own, of which the messages are
//! decoded where they lie in the read buffer.
//!
//! The client library makes a map of each message's headers and a string of each of its subjects, which for a million
//! messages is most of the time that a start takes. Only what a load needs is spoken here: a plain connection, one
//! consumer, its flow control. Whatever else turns up ends the replay with an error, and the follower goes on with the
//! library from where it got to.

use super::connect::Plain;
use super::follower::Delivery;
use super::record::{self, Record};
use crate::types::Sequence;
use serde::Deserialize;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for what is read at once, which is as much as a batch may be: where each batch waits for a sync of a busy disk, few of
/// them must do. More only for a message that does not fit.
const BUFFER_BYTES: usize = 4 << 20;
/// A larger message cannot be: nats-server allows no payload above 64 MiB.
const MOST_BYTES: usize = 65 << 20;
/// For a line of the greeting.
const PATIENCE: Duration = Duration::from_secs(5);

/// A subscription on a connection of its own.
#[derive(Debug)]
pub(super) struct Replay {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer is read and not taken yet.
    start: usize,
    end: usize,
    /// Number of the next delivery.
    expected: u64,
    /// To take off the subjects.
    prefix: String,
    /// Longest silence.
    silence: Duration,
    /// Answers to flow control.
    answers: Vec<u8>,
}

/// Messages that came together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Ascending.
    pub(super) records: Vec<Record>,
    /// Where the consumer said to be while it had nothing to send.
    pub(super) position: Option<Sequence>,
    /// Nothing more was there when the last of them was sent.
    pub(super) is_last: bool,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    headers: bool,
    #[serde(default)]
    tls_required: bool,
}

/// One thing that the server says.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Message { subject: &'a [u8], reply: &'a [u8], headers: &'a [u8], payload: &'a [u8] },
    Ping,
    Pong,
    Info(&'a [u8]),
    Error(&'a [u8]),
    Ok,
}

impl Replay {
    /// Connects, and subscribes to `inbox`.
    pub(super) async fn open(
        plain: &Plain,
        inbox: &str,
        prefix: &str,
        silence: Duration,
    ) -> Result<Replay, String> {
        let connected = TcpStream::connect((plain.host.as_str(), plain.port));
        let stream = tokio::time::timeout(PATIENCE, connected).await.map_err(|_| "no connection in time")?;
        let mut replay = Replay {
            stream: stream.map_err(|error| error.to_string())?,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            expected: 1,
            prefix: prefix.to_owned(),
            silence: PATIENCE,
            answers: Vec::new(),
        };
        replay.greet(plain, inbox).await?;
        replay.silence = silence;
        Ok(replay)
    }

    async fn greet(&mut self, plain: &Plain, inbox: &str) -> Result<(), String> {
        while self.say_hello(plain, inbox)?.is_none() {
            self.fill().await?;
        }
        self.answer().await?;
        // What was wrong with that comes before the pong.
        loop {
            match self.next_said()? {
                Some((Said::Pong, length)) => {
                    self.start += length;
                    return Ok(());
                }
                Some((Said::Error(text), _)) => return Err(String::from_utf8_lossy(text).into_owned()),
                Some((_, length)) => self.start += length,
                None => self.fill().await?,
            }
        }
    }

    /// Prepares the answer to the server's first line, once that is there.
    fn say_hello(&mut self, plain: &Plain, inbox: &str) -> Result<Option<()>, String> {
        let (length, info) = match self.next_said()? {
            Some((Said::Info(info), length)) => (length, serde_json::from_slice::<Info>(info)),
            Some(_) => return Err("the server does not introduce itself".into()),
            None => return Ok(None),
        };
        let info = info.map_err(|error| error.to_string())?;
        if info.tls_required || !info.headers {
            return Err("the server wants more than a plain connection".into());
        }
        self.start += length;
        self.answers = format!("CONNECT {}\r\nSUB {inbox} 1\r\nPING\r\n", plain.login).into_bytes();
        Ok(Some(()))
    }

    /// The next messages, no more than about so many and so many bytes. Must be awaited to its end.
    pub(super) async fn next(&mut self, most: usize, most_bytes: usize) -> Result<Batch, String> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        loop {
            while batch.records.len() < most && bytes < most_bytes && !batch.is_last {
                let Some(length) = self.take(&mut batch)? else { break };
                self.start += length;
                bytes += length;
            }
            self.answer().await?;
            if !batch.records.is_empty() || batch.position.is_some() {
                return Ok(batch);
            }
            self.fill().await?;
        }
    }

    /// Takes one thing that was said, if it is there as a whole; answers its length.
    fn take(&mut self, batch: &mut Batch) -> Result<Option<usize>, String> {
        let Some((said, length)) = said(&self.buffer[self.start..self.end])? else { return Ok(None) };
        let (subject, reply, headers, payload) = match said {
            Said::Message { subject, reply, headers, payload } => (subject, reply, headers, payload),
            Said::Ping => {
                self.answers.extend_from_slice(b"PONG\r\n");
                return Ok(Some(length));
            }
            Said::Error(text) => return Err(String::from_utf8_lossy(text).into_owned()),
            Said::Pong | Said::Info(_) | Said::Ok => return Ok(Some(length)),
        };
        let text = |bytes| std::str::from_utf8(bytes).map_err(|error| error.to_string());
        let (subject, reply, headers) = (text(subject)?, text(reply)?, text(headers)?);
        if let Some(status) = status(headers) {
            if !status.starts_with("100") {
                return Err(format!("consumer status {status}"));
            }
            let stalled = record::header_value(headers, "Nats-Consumer-Stalled");
            let asked = if reply.is_empty() { stalled.as_deref().unwrap_or_default() } else { reply };
            if !asked.is_empty() {
                self.answers.extend_from_slice(format!("PUB {asked} 0\r\n\r\n").as_bytes());
            }
            let number = |name| record::header_value(headers, name)?.parse::<u64>().ok();
            if number("Nats-Last-Consumer").is_some_and(|delivered| delivered + 1 != self.expected) {
                return Err("deliveries are missing".into());
            }
            batch.position = number("Nats-Last-Stream").map(Sequence).or(batch.position);
            return Ok(Some(length));
        }
        let delivery = Delivery::parse(reply).ok_or("a message without delivery data")?;
        if delivery.number != self.expected {
            return Err("deliveries are missing".into());
        }
        self.expected += 1;
        let subject = subject.strip_prefix(self.prefix.as_str()).unwrap_or_default();
        let body = record::decode_stored(subject, headers, payload);
        batch.records.push(Record { sequence: delivery.sequence, time: delivery.time, body });
        batch.is_last = delivery.pending == 0;
        Ok(Some(length))
    }

    fn next_said(&self) -> Result<Option<(Said<'_>, usize)>, String> {
        said(&self.buffer[self.start..self.end])
    }

    async fn answer(&mut self) -> Result<(), String> {
        if !self.answers.is_empty() {
            self.stream.write_all(&self.answers).await.map_err(|error| error.to_string())?;
            self.answers.clear();
        }
        Ok(())
    }

    /// Reads more.
    async fn fill(&mut self) -> Result<(), String> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            if self.end >= MOST_BYTES {
                return Err("a message without end".into());
            }
            self.buffer.resize(self.end * 2, 0);
        }
        let read = tokio::time::timeout(self.silence, self.stream.read(&mut self.buffer[self.end..])).await;
        match read.map_err(|_| "no heartbeat from the consumer")?.map_err(|error| error.to_string())? {
            0 => Err("the connection was closed".into()),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }
}

/// What follows the version in the first line of headers, which messages that somebody published do not have.
fn status(headers: &str) -> Option<&str> {
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
