//! Responses with the headers of Go's server, and the parts of requests that handlers read.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};

/// A response with a body.
pub(super) fn response(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// A text with a header that forbids browsers to guess another type.
pub(super) fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = response(status, TEXT, body);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The refusal of a request whose method is not GET.
pub(super) fn only_get(request: &Request) -> Option<Response> {
    if request.method() == Method::GET {
        return None;
    }
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    Some(response)
}

/// Values of a query parameter that may be repeated.
pub(super) fn query(request: &Request, name: &str) -> Vec<String> {
    let query = request.uri().query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

/// For every other path.
pub(super) async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}
