//! Access to plain HTTP on a client port: the origins of pages (`--cors`) and the names of the host
//! (`--host-whitelist`).
//!
//! A page could resolve its own name to this server's address, and make a browser send any request. The
//! browser then sends that name as the host. Over TLS the certificate prevents this.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};

/// The values of both flags.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    cors: Vec<String>,
    hosts: Vec<String>,
}

impl Access {
    /// `cors` and `host_whitelist`: origins and hosts, `*` or none at all for any.
    pub(crate) fn new(cors: Vec<String>, host_whitelist: Vec<String>) -> Access {
        Access { cors, hosts: host_whitelist }
    }

    /// The refusal of a request with a host name that is not allowed.
    pub(super) fn refusal(&self, request: &Request<Body>) -> Option<Response> {
        let host = host(request);
        if allows(&self.hosts, host) {
            return None;
        }
        tracing::warn!(host, "an HTTP request by a host name that is not in --host-whitelist is refused");
        Some(super::response::text(StatusCode::MISDIRECTED_REQUEST, misdirected(host)))
    }

    /// Lets the scripts of a page read the response, if the origin of the page is allowed.
    pub(super) fn allow_origin(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let origin = if self.cors.iter().any(|allowed| allowed == "*") {
            HeaderValue::from_static("*")
        } else {
            let origin = origin.cloned().unwrap_or(HeaderValue::from_static(""));
            if !origin.to_str().is_ok_and(|origin| allows(&self.cors, origin)) {
                return;
            }
            origin
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

fn allows(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|allowed| allowed == "*" || allowed == name)
}

/// The name of the host in a request, without a port and without the brackets of an IPv6 address.
fn host(request: &Request<Body>) -> &str {
    let header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(http::uri::Authority::as_str).or(header).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => return host,
    };
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address,
        // An address without brackets has no port.
        None if name.contains(':') => host,
        None => name,
    }
}

fn misdirected(host: &str) -> String {
    format!(
        "
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist {host:?}

This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).

"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_no_port() {
        for (host, name) in [
            ("127.0.0.1:2379", "127.0.0.1"),
            ("localhost", "localhost"),
            ("[::1]:2379", "::1"),
            ("::1", "::1"),
            ("a:b", "a:b"),
        ] {
            let request = Request::builder().header(header::HOST, host).body(Body::empty()).expect("legal");
            assert_eq!(super::host(&request), name);
        }
    }

    #[test]
    fn an_empty_list_allows_all_and_so_does_a_star() {
        assert!(allows(&[], "x") && allows(&["a".into(), "*".into()], "x"));
        assert!(allows(&["x".into()], "x") && !allows(&["a".into()], "x"));
    }
}
