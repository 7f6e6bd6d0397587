//! The texts of refusals that come from the transport and not from a service, in grpc-go's words.
//!
//! tonic refuses the same things as grpc-go, but with texts of its own and now and then another code. Clients
//! and their logs know the other ones, and alerts read the codes.

use super::deadline::TimeoutError;
use super::methods::Kind;
use crate::error::EtcdError;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use tonic::{Code, Status};

/// The status for a method or service that does not exist. Clients find out about missing features by it.
pub(super) fn unknown(path: &str, is_service: impl Fn(&str) -> bool) -> Status {
    Status::unimplemented(match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        Some((service, method)) if is_service(service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    })
}

/// The answer to a call whose headers are not those of a call.
pub(super) fn malformed<B: Default>(status: StatusCode, grpc: &Status) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    put_status(response.headers_mut(), grpc);
    response
}

/// The answer to HTTP/2 without gRPC on a port where HTTP/2 means gRPC.
pub(crate) fn not_grpc<B: Default>(content_type: Option<&HeaderValue>) -> Response<B> {
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let content_type = String::from_utf8_lossy(content_type);
    let text = format!("invalid gRPC request content-type {content_type:?}");
    malformed(StatusCode::UNSUPPORTED_MEDIA_TYPE, &Status::invalid_argument(text))
}

pub(super) fn wrong_http_method<B: Default>(method: &Method) -> Response<B> {
    let text = format!("Received a HEADERS frame with :method {:?} which should be POST", method.as_str());
    malformed(StatusCode::METHOD_NOT_ALLOWED, &Status::internal(text))
}

pub(super) fn wrong_timeout<B: Default>(reason: &TimeoutError) -> Response<B> {
    let text = format!("malformed grpc-timeout: {reason}");
    malformed(StatusCode::BAD_REQUEST, &Status::internal(text))
}

/// Writes a status into headers or trailers, in place of one that may be there.
pub(super) fn put_status(headers: &mut HeaderMap, status: &Status) {
    headers.remove(Status::GRPC_STATUS);
    headers.remove(Status::GRPC_MESSAGE);
    if status.add_header(headers).is_err() {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
}

/// Puts a refusal of tonic's into grpc-go's words and code; leaves every other status.
pub(super) fn translate(headers: &mut HeaderMap, kind: Kind) {
    // Most calls succeed, and a success has no message.
    if headers.contains_key(Status::GRPC_MESSAGE)
        && let Some(status) = Status::from_header_map(headers).and_then(|status| translated(&status, kind))
    {
        put_status(headers, &status);
        headers.remove("grpc-accept-encoding");
    }
}

fn translated(status: &Status, kind: Kind) -> Option<Status> {
    let text = status.message();
    if let Some(rest) = text.strip_prefix("Error, decoded message length too large: found ") {
        let (size, limit) = rest.strip_suffix(" bytes")?.split_once(" bytes, the limit is: ")?;
        let (size, limit) = (size.parse().ok()?, limit.parse().ok()?);
        return Some(EtcdError::MessageTooLarge { size, limit }.into());
    }
    if let Some(rest) = text.strip_prefix("failed to decode Protobuf message: ") {
        let reason = if rest.ends_with("data is not UTF-8 encoded") {
            "string field contains invalid UTF-8"
        } else if rest.ends_with("recursion limit reached") {
            "proto: exceeded maximum recursion depth"
        } else {
            "proto: cannot parse invalid wire-format data"
        };
        let failure = match kind {
            Kind::Unary => "error unmarshalling request",
            _ => "failed to unmarshal the received message",
        };
        return Some(Status::internal(format!("grpc: {failure}: {reason}")));
    }
    if let Some(rest) = text.strip_prefix("protocol error: received message with invalid compression flag: ")
    {
        let (flag, _) = rest.split_once(' ')?;
        return Some(Status::internal(format!("grpc: received unexpected payload format {flag}")));
    }
    if let Some(rest) = text.strip_prefix("Content is compressed with `") {
        let (encoding, _) = rest.split_once('`')?;
        let text = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
        return Some(Status::unimplemented(text));
    }
    if let Some(rest) = text.strip_prefix("Error decompressing: size limit, of ") {
        let (limit, _) = rest.split_once(' ')?;
        let text = format!("grpc: received message after decompression larger than max {limit}");
        return Some(Status::resource_exhausted(text));
    }
    if let Some(rest) = text.strip_prefix("Error decompressing: ") {
        let (reason, _) = rest.rsplit_once(", while ")?;
        let reason = match reason {
            "unexpected end of file" => "unexpected EOF",
            "invalid gzip header" => "gzip: invalid header",
            reason => reason,
        };
        return Some(Status::internal(format!("grpc: failed to decompress the message: {reason}")));
    }
    Some(match (text, kind) {
        ("protocol error: received message with compressed-flag but no grpc-encoding was specified", _) => {
            Status::internal("grpc: compressed flag set with identity or empty encoding")
        }
        ("Missing request message.", Kind::Unary) => Status::unknown("EOF"),
        ("Missing request message.", _) => Status::internal(
            "cardinality violation: received no request message from non-client-streaming RPC",
        ),
        ("Unexpected EOF decoding stream.", Kind::Unary) => Status::unknown("unexpected EOF"),
        ("Unexpected EOF decoding stream.", _) => Status::internal("unexpected EOF"),
        // The health service's answer to a name it does not know.
        ("service not registered", _) if status.code() == Code::NotFound => {
            Status::not_found("unknown service")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_method_or_service_is_named_as_by_grpc_go() {
        for (path, text) in [
            ("/etcdserverpb.KV/Rnage", "unknown method Rnage for service etcdserverpb.KV"),
            ("/etcdserverpb.VK/Range", "unknown service etcdserverpb.VK"),
            ("/nothing", "malformed method name: \"/nothing\""),
        ] {
            let status = unknown(path, |service| service == "etcdserverpb.KV");
            assert_eq!((status.code(), status.message()), (Code::Unimplemented, text));
        }
    }

    #[test]
    fn only_tonics_own_refusals_are_reworded() {
        let too_large = "Error, decoded message length too large: found 20 bytes, the limit is: 10 bytes";
        for (status, expected) in [
            (
                Status::out_of_range(too_large),
                Some((Code::ResourceExhausted, "grpc: received message larger than max (20 vs. 10)")),
            ),
            (Status::not_found("service not registered"), Some((Code::NotFound, "unknown service"))),
            (Status::not_found("etcdserver: requested lease not found"), None),
            (Status::internal("Missing request message."), Some((Code::Unknown, "EOF"))),
        ] {
            let mut headers = HeaderMap::new();
            status.add_header(&mut headers).expect("a legal message");
            translate(&mut headers, Kind::Unary);
            let answer = Status::from_header_map(&headers).expect("still a status");
            let expected = expected.unwrap_or((status.code(), status.message()));
            assert_eq!((answer.code(), answer.message()), expected);
        }
    }
}
