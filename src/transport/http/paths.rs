//! Paths of requests: their plain form, and the redirect to it.

use super::response::response;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};

/// A path without empty parts and dots; none if it is so already.
pub(super) fn plain_path(path: &str) -> Option<String> {
    if !path.starts_with('/') || !(path.contains("//") || path.contains("/.")) {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut plain = format!("/{}", parts.join("/"));
    if path.ends_with('/') && plain != "/" {
        plain.push('/');
    }
    (plain != path).then_some(plain)
}

/// A path without escaped characters; none if it has none, or is not text without them.
pub(super) fn unescaped(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok().filter(|plain| plain != path)
}

/// Replaces the path and keeps the query.
pub(super) fn set_path(request: &mut Request, path: &str) {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    if let Ok(uri) = format!("{path}{query}").parse() {
        *request.uri_mut() = uri;
    }
}

/// The redirect to a path, as Go's server writes it.
pub(super) fn redirect(request: &Request, path: &str) -> Response {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let to = format!("{path}{query}");
    let mut response = if request.method() == Method::GET {
        let link = to.replace('&', "&amp;").replace('"', "&#34;").replace('<', "&lt;").replace('>', "&gt;");
        let page = format!("<a href=\"{link}\">Temporary Redirect</a>.\n\n");
        response(StatusCode::TEMPORARY_REDIRECT, "text/html; charset=utf-8", page)
    } else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response
    };
    if let Ok(location) = HeaderValue::try_from(to) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
