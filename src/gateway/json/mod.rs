//! JSON to protobuf and back, for messages of any type, by their descriptors at run time.

mod read;
mod scalar;
mod scan;
mod token;
mod values;
mod write;

pub(super) use values::{ReadError, Values};

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde::Serialize;
use tonic::Status;

/// The protobuf encoding of a JSON object.
///
/// # Errors
///
/// `InvalidArgument`, in the words that etcd's gateway has for it, if the JSON does not fit the message.
pub(super) fn to_protobuf(descriptor: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Status> {
    let message = read::message(descriptor, json);
    let message = message.map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(message.encode_to_vec())
}

/// The JSON of a response.
///
/// # Errors
///
/// `Internal` if the message is not of this type.
pub(super) fn from_protobuf(descriptor: &MessageDescriptor, message: Bytes) -> Result<String, Status> {
    Ok(write::plain(&write::Message(&decode(descriptor, message)?)))
}

/// The line of a stream for one of its responses.
///
/// # Errors
///
/// `Internal` if the message is not of this type.
pub(super) fn result_line(descriptor: &MessageDescriptor, message: Bytes) -> Result<String, Status> {
    #[derive(Serialize)]
    struct Line<'a> {
        result: write::Message<'a>,
    }
    Ok(write::line(&Line { result: write::Message(&decode(descriptor, message)?) }))
}

/// The line of a stream that ends with an error.
pub(super) fn error_line(status: &Status) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        error: Error<'a>,
    }
    write::line(&Line { error: Error::of(status) })
}

/// The body of an error.
pub(super) fn error(status: &Status) -> String {
    write::plain(&Error::of(status))
}

#[derive(Serialize)]
struct Error<'a> {
    code: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

impl Error<'_> {
    fn of(status: &Status) -> Error<'_> {
        Error { code: status.code() as i32, message: status.message() }
    }
}

fn decode(descriptor: &MessageDescriptor, message: Bytes) -> Result<DynamicMessage, Status> {
    DynamicMessage::decode(descriptor.clone(), message).map_err(|error| Status::internal(error.to_string()))
}

/// For fuzzing: JSON of any request as a message and back.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    let Some((which, json)) = data.split_first() else { return };
    // The gateway does not serve the health service, which has the only map.
    let is_served = |message: &MessageDescriptor| message.package_name() != "grpc.health.v1";
    let messages: Vec<_> = crate::proto::pool().all_messages().filter(is_served).collect();
    let descriptor = &messages[usize::from(*which) % messages.len()];
    // Only whole values get past the scanner.
    if let Ok(value) = scan::first_value(json)
        && let Ok(message) = to_protobuf(descriptor, value)
    {
        let message = Bytes::from(message);
        let text = from_protobuf(descriptor, message.clone()).expect("this type has encoded it");
        let again = to_protobuf(descriptor, text.as_bytes()).expect("written JSON can be read");
        let again = from_protobuf(descriptor, again.into()).expect("this type has encoded it");
        assert_eq!(text, again);
        result_line(descriptor, message).expect("this type has encoded it");
    }
    // Any bytes are either a message or an error, never a panic.
    drop(from_protobuf(descriptor, Bytes::copy_from_slice(json)));
}
