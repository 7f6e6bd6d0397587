//! The operations of NATS' protocol that come from the server, read in place.

use super::error::ProtocolError;

/// The largest message: nats-server allows no payload above 64 MiB.
pub(super) const MAX_BYTES: usize = 65 << 20;

/// One operation of the protocol, from the server.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::log) enum ServerOp<'a> {
    Message { subject: &'a [u8], reply: &'a [u8], headers: &'a [u8], payload: &'a [u8] },
    Ping,
    Pong,
    Info(&'a [u8]),
    Error(&'a [u8]),
    Ok,
}

/// The status in the first line of headers. Only the server's own messages have one.
pub(in crate::log) fn status(headers: &str) -> Option<&str> {
    let line = headers.lines().next()?;
    let status = line.strip_prefix("NATS/1.0").unwrap_or(line).trim();
    (!status.is_empty()).then_some(status)
}

/// The first operation in `input`, and the bytes that it takes; `None` while a part of it is missing.
pub(super) fn parse(input: &[u8]) -> Result<Option<(ServerOp<'_>, usize)>, ProtocolError> {
    // nats-server puts a single space between words. A delivery with headers has the most words.
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
        (b"PING", _) => return Ok(Some((ServerOp::Ping, end))),
        (b"PONG", _) => return Ok(Some((ServerOp::Pong, end))),
        (b"+OK", _) => return Ok(Some((ServerOp::Ok, end))),
        (b"INFO", _) => return Ok(Some((ServerOp::Info(&line[b"INFO".len()..]), end))),
        (b"-ERR", _) => return Ok(Some((ServerOp::Error(line), end))),
        _ => return Err(ProtocolError::Operation(String::from_utf8_lossy(line).into_owned())),
    };
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<usize>().ok();
    let (Some(header_bytes), Some(bytes)) = (number(header_bytes), number(bytes)) else {
        return Err(ProtocolError::NoSizes(String::from_utf8_lossy(line).into_owned()));
    };
    if bytes > MAX_BYTES || header_bytes > bytes {
        return Err(ProtocolError::Sizes { bytes, header_bytes });
    }
    let content = &input[end..];
    if content.len() < bytes + 2 {
        return Ok(None);
    }
    let (headers, payload) = content[..bytes].split_at(header_bytes);
    Ok(Some((ServerOp::Message { subject, reply, headers, payload }, end + bytes + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_parsed_once_it_is_whole() {
        let message =
            |subject, reply, headers, payload| ServerOp::Message { subject, reply, headers, payload };
        let input: &[(&[u8], ServerOp)] = &[
            (b"INFO {\"a\": [1, 2, 3, 4, 5, 6]} \r\n", ServerOp::Info(b" {\"a\": [1, 2, 3, 4, 5, 6]}")),
            (b"PONG\r\n", ServerOp::Pong),
            (b"+OK\r\n", ServerOp::Ok),
            (b"MSG a.b 1 3\r\nx\ny\r\n", message(b"a.b", b"", b"", b"x\ny")),
            (b"MSG a.b 1 r 0\r\n\r\n", message(b"a.b", b"r", b"", b"")),
            (b"PING\r\n", ServerOp::Ping),
            (b"HMSG a 1 r.s 8 10\r\nNATS/1.0ab\r\n", message(b"a", b"r.s", b"NATS/1.0", b"ab")),
            (b"HMSG a 1 8 8\r\nNATS/1.0\r\n", message(b"a", b"", b"NATS/1.0", b"")),
            (b"-ERR 'Authorization Violation'\r\n", ServerOp::Error(b"-ERR 'Authorization Violation'")),
        ];
        let all: Vec<u8> = input.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        let mut rest = &all[..];
        for (bytes, expect) in input {
            for end in 0..bytes.len() {
                assert_eq!(parse(&rest[..end]), Ok(None), "{end} bytes of {expect:?}");
            }
            let (found, length) = parse(rest).expect("sense").expect("a whole");
            assert_eq!((&found, length), (expect, bytes.len()));
            rest = &rest[length..];
        }
    }

    #[test]
    fn other_input_is_refused() {
        for bytes in [
            &b"HELLO\r\n"[..],
            b"\r\n",
            b"MSG a 1\r\n",
            b"MSG a 1 -1\r\n",
            b"MSG a 1 99999999999\r\n",
            b"HMSG a 1 9 8\r\n",
            b"HMSG a 1 r 1 2 3\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn only_the_server_sends_statuses() {
        assert_eq!(status("NATS/1.0\r\nJetway: x\r\n\r\n"), None);
        assert_eq!(status(""), None);
        assert_eq!(status("NATS/1.0 100 Idle Heartbeat\r\n\r\n"), Some("100 Idle Heartbeat"));
    }
}
