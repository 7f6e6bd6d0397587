//! JSON values one after the other in a request's body.

use super::scan::{Scanner, Step, SyntaxError};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tonic::Status;

/// The reason why there is no next value.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The client has gone in the middle of its request, so that no response can reach it.
    Gone(axum::Error),
    /// The body is no JSON, or has too much of it.
    Refused(Status),
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Status {
        match error {
            ReadError::Gone(error) => Status::cancelled(error.to_string()),
            ReadError::Refused(status) => status,
        }
    }
}

impl From<SyntaxError> for ReadError {
    fn from(error: SyntaxError) -> ReadError {
        ReadError::Refused(Status::invalid_argument(error.to_string()))
    }
}

/// JSON values one after the other in a request's body.
#[derive(Debug)]
pub(crate) struct Values {
    body: Body,
    /// Bytes of the body that are not part of a returned value.
    buffer: BytesMut,
    /// Longest value that is kept, in bytes.
    max_bytes: usize,
}

impl Values {
    pub(crate) fn new(body: Body, max_bytes: usize) -> Values {
        Values { body, buffer: BytesMut::new(), max_bytes }
    }

    /// The next value, as soon as its last byte has come; none at the end of the body.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let mut scanner = Scanner::new();
        let mut scanned = 0;
        loop {
            while let Some(&byte) = self.buffer.get(scanned) {
                match scanner.push(byte)? {
                    Step::More => scanned += 1,
                    Step::End => return Ok(Some(self.buffer.split_to(scanned + 1).freeze())),
                    Step::EndedBefore => return Ok(Some(self.buffer.split_to(scanned).freeze())),
                }
            }
            if !scanner.has_begun() {
                // A client that sends nothing but space takes no memory.
                self.buffer.clear();
                scanned = 0;
            }
            if self.buffer.len() > self.max_bytes {
                let (size, limit) = (self.buffer.len(), self.max_bytes);
                let text = format!("grpc: received message larger than max ({size} vs. {limit})");
                return Err(ReadError::Refused(Status::resource_exhausted(text)));
            }
            if !self.fill().await? {
                return match (scanner.has_begun(), scanner.can_end()) {
                    (false, _) => Ok(None),
                    (true, true) => Ok(Some(self.buffer.split().freeze())),
                    (true, false) => Err(SyntaxError::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Reads the body to its end without keeping it.
    pub(crate) async fn drain(&mut self) -> Result<(), ReadError> {
        while self.fill().await? {
            self.buffer.clear();
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<bool, ReadError> {
        let Some(frame) = self.body.frame().await else { return Ok(false) };
        let frame = frame.map_err(ReadError::Gone)?;
        if let Some(data) = frame.data_ref() {
            self.buffer.extend_from_slice(data);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn values(chunks: Vec<&'static str>, max_bytes: usize) -> Values {
        let chunks = chunks.into_iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk)));
        Values::new(Body::from_stream(stream::iter(chunks)), max_bytes)
    }

    #[tokio::test]
    async fn values_are_found_however_the_body_is_cut() {
        for text in [vec!["{\"a\":1} {} ", "7"], vec!["", "{\"", "a\":1", "}{", "}", " 7"]] {
            let mut values = values(text, 100);
            for expected in ["{\"a\":1}", "{}", "7"] {
                let value = values.next().await.expect("no error").expect("a value");
                assert_eq!(value.trim_ascii(), expected.as_bytes());
            }
            assert!(values.next().await.expect("no error").is_none());
        }
    }

    #[tokio::test]
    async fn a_value_is_bounded_and_space_is_not_kept() {
        let mut long = values(vec!["{\"a\":\"", "0123456789", "0123456789"], 20);
        let status = Status::from(long.next().await.expect_err("too long"));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let mut spaced = values(vec!["          "; 10], 20);
        assert!(spaced.next().await.expect("only space").is_none());
        assert_eq!(spaced.buffer.len(), 0);
        let mut cut = values(vec!["{\"a\":"], 20);
        assert_eq!(Status::from(cut.next().await.expect_err("cut")).message(), "unexpected EOF");
    }
}
