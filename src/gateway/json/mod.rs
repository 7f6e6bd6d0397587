//! JSON to protobuf and back, for messages of any type, by what their descriptors say at run time.

mod read;
mod scan;
mod write;

pub(super) use crate::proto::pool;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use scan::{Scanner, Step};
use tonic::Status;

/// Why there is no next value.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The client has gone in the middle of its request; nobody is left to be told.
    Gone(axum::Error),
    /// What came is no JSON, or too much of it.
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

/// JSON values one after the other in a request's body.
#[derive(Debug)]
pub(super) struct Values {
    body: Body,
    /// What has come of the body and is not part of a value yet.
    buffer: BytesMut,
    /// Longest value that is kept, in bytes.
    max_bytes: usize,
}

impl Values {
    pub(super) fn new(body: Body, max_bytes: usize) -> Values {
        Values { body, buffer: BytesMut::new(), max_bytes }
    }

    /// The next value, as soon as its last byte has come; none at the end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let refused = |text: String| ReadError::Refused(Status::invalid_argument(text));
        let mut scanner = Scanner::new();
        let mut scanned = 0;
        loop {
            while let Some(&byte) = self.buffer.get(scanned) {
                match scanner.push(byte).map_err(refused)? {
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
                    (true, false) => Err(refused("unexpected EOF".to_owned())),
                };
            }
        }
    }

    /// Reads the body to its end without keeping it.
    pub(super) async fn drain(&mut self) -> Result<(), ReadError> {
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

/// The protobuf encoding of a JSON object. Errors are for the client.
pub(super) fn to_protobuf(descriptor: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Status> {
    let message = read::message(descriptor, json).map_err(Status::invalid_argument)?;
    Ok(message.encode_to_vec())
}

/// The JSON of an answer.
pub(super) fn from_protobuf(descriptor: &MessageDescriptor, message: Bytes) -> Result<String, Status> {
    let mut json = String::with_capacity(2 * message.len());
    write::message(&decode(descriptor, message)?, false, &mut json);
    Ok(json)
}

/// The line of a stream for one of its answers.
pub(super) fn result_line(descriptor: &MessageDescriptor, message: Bytes) -> Result<String, Status> {
    let mut json = String::with_capacity(2 * message.len());
    json.push_str("{\"result\":");
    write::message(&decode(descriptor, message)?, true, &mut json);
    json.push_str("}\n");
    Ok(json)
}

/// The line of a stream that ends with an error.
pub(super) fn error_line(status: &Status) -> String {
    format!("{{\"error\":{}}}\n", status_json(status, true))
}

/// The body of an error.
pub(super) fn error(status: &Status) -> String {
    status_json(status, false)
}

fn status_json(status: &Status, html: bool) -> String {
    let mut json = format!("{{\"code\":{}", status.code() as i32);
    if !status.message().is_empty() {
        json.push_str(",\"message\":");
        write::string(status.message(), html, &mut json);
    }
    json.push('}');
    json
}

fn decode(descriptor: &MessageDescriptor, message: Bytes) -> Result<DynamicMessage, Status> {
    // This server wrote it just now.
    DynamicMessage::decode(descriptor.clone(), message).map_err(|error| Status::internal(error.to_string()))
}

/// For fuzzing: JSON of any request as a message and back.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    let Some((which, json)) = data.split_first() else { return };
    // Health is not served here, and has the only map.
    let is_served = |message: &MessageDescriptor| message.package_name() != "grpc.health.v1";
    let messages: Vec<_> = pool().all_messages().filter(is_served).collect();
    let descriptor = &messages[usize::from(*which) % messages.len()];
    // Only whole values get past the scanner.
    let mut scanner = Scanner::new();
    let mut value = None;
    for (at, byte) in json.iter().enumerate() {
        match scanner.push(*byte) {
            Ok(Step::More) => {}
            Ok(Step::End) => value = Some(&json[..=at]),
            Ok(Step::EndedBefore) => value = Some(&json[..at]),
            Err(_) => return,
        }
        if value.is_some() {
            break;
        }
    }
    let value = value.or_else(|| scanner.can_end().then_some(json));
    if let Some(Ok(message)) = value.map(|value| to_protobuf(descriptor, value)) {
        let message = Bytes::from(message);
        let text = from_protobuf(descriptor, message.clone()).expect("it was one of these just now");
        let again = to_protobuf(descriptor, text.as_bytes()).expect("what is written can be read");
        let again = from_protobuf(descriptor, again.into()).expect("as before");
        assert_eq!(text, again);
        result_line(descriptor, message).expect("as before");
    }
    // Whatever an answer is, it is told or refused.
    drop(from_protobuf(descriptor, Bytes::copy_from_slice(json)));
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
