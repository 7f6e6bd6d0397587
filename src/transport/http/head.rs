//! Heads of HTTP/1 requests that Go's server refuses before it looks at the path.

use super::response::{TEXT, response};
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

/// The refusal of a request without a Host, with two of them or an impossible one, or with an expectation
/// that no server meets. The connection ends with it.
pub(in crate::transport) fn refusal<B>(request: &Request<B>) -> Option<Response> {
    if request.version() > Version::HTTP_11 {
        return None;
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let needs_host = request.version() == Version::HTTP_11 && request.method() != Method::CONNECT;
    match (hosts.next(), hosts.next()) {
        (None, _) if needs_host => return Some(bad(b"Bad Request: missing required Host header")),
        (Some(_), Some(_)) => return Some(bad(b"Bad Request")),
        (Some(host), None) if !host.as_bytes().iter().all(|byte| may_be_in_host(*byte)) => {
            return Some(bad(b"Bad Request: malformed Host header"));
        }
        _ => {}
    }
    let expected = request.headers().get(header::EXPECT)?.as_bytes();
    let is_met = expected.is_empty() || names(expected, b"100-continue");
    (!is_met).then(|| closing(StatusCode::EXPECTATION_FAILED))
}

/// An empty response that ends the connection.
pub(super) fn closing(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn bad(reason: &'static [u8]) -> Response {
    let body = [b"400 ", reason].concat();
    let mut response = response(StatusCode::BAD_REQUEST, TEXT, body);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.extensions_mut().insert(ReasonPhrase::from_static(reason));
    response
}

fn may_be_in_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&byte)
}

/// Whether a list has this word, in upper or lower case.
fn names(list: &[u8], word: &[u8]) -> bool {
    list.split(|byte| b", \t".contains(byte)).any(|each| each.eq_ignore_ascii_case(word))
}
