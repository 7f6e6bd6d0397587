//! A call to the gRPC services of this process. It passes the same layers as a call from a connection, so
//! that every check, limit and count of a call applies.

use super::Services;
use axum::body::Body;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Version};
use http_body_util::BodyExt;
use tonic::Status;
use tower::ServiceExt;

/// A flag byte and the length.
const PREFIX_BYTES: usize = 5;

/// A message as the body of a call carries it.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// Starts a call.
///
/// # Errors
///
/// The status of a call that ends without a message.
pub(super) async fn start(
    services: Services,
    method: &str,
    metadata: HeaderMap,
    body: Body,
) -> Result<Responses, Status> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = method.parse().expect("a method's path is a legal URI");
    *request.headers_mut() = metadata;
    let Ok(response) = services.oneshot(request).await;
    let (head, body) = response.into_parts();
    match Status::from_header_map(&head.headers) {
        Some(status) if status.code() != tonic::Code::Ok => Err(status),
        _ => Ok(Responses { body, buffer: BytesMut::new() }),
    }
}

/// The messages of a call's response. Dropping them cancels the call.
#[derive(Debug)]
pub(super) struct Responses {
    body: Body,
    buffer: BytesMut,
}

impl Responses {
    /// The next message; none at the end of a call that succeeded.
    ///
    /// # Errors
    ///
    /// The status that the call ended with.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.buffered() {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| Status::internal(error.to_string()))?;
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    return match status {
                        Some(status) if status.code() != tonic::Code::Ok => Err(status),
                        _ => Ok(None),
                    };
                }
            }
        }
    }

    fn buffered(&mut self) -> Option<Bytes> {
        let [_, length @ ..] = *self.buffer.first_chunk::<PREFIX_BYTES>()?;
        let length = u32::from_be_bytes(length) as usize;
        if self.buffer.len() < PREFIX_BYTES + length {
            return None;
        }
        self.buffer.advance(PREFIX_BYTES);
        Some(self.buffer.split_to(length).freeze())
    }
}
