//! The routes beside gRPC on the client ports, and in part on the metrics ports: the JSON gateway, version,
//! health and metrics.
//!
//! Statuses, headers and bodies are etcd's, down to the content type that Go's server guesses for `/health`.

mod access;
mod encoding;
mod head;
mod paths;
mod probes;
mod response;

pub(crate) use access::Access;
pub(super) use head::refusal as refuse_head;
pub(super) use probes::starting;
pub(crate) use probes::{Probes, probe_routes};

use super::listener::Security;
use crate::auth::CertificateName;
use crate::engine::Engine;
use crate::gateway::{self, Gateway};
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use http::{HeaderValue, Method, StatusCode, header};
use response::{JSON, only_get, response, text};
use serde_json::json;
use std::sync::Arc;
use tower::ServiceExt;

/// The routes of plain HTTP on a client port.
#[derive(Clone, Debug)]
pub(crate) struct HttpRoutes {
    access: Arc<Access>,
    gateway: Option<Gateway>,
    engine: Engine,
    router: Router,
    has_profiles: bool,
}

impl HttpRoutes {
    /// The gateway may be switched off. `profiles` adds the page about Go's profiles.
    pub(crate) fn new(
        access: Access,
        gateway: Option<Gateway>,
        probes: Probes,
        profiles: bool,
    ) -> HttpRoutes {
        let engine = probes.engine.clone();
        let mut router =
            probe_routes(probes).route("/version", any(version)).route("/debug/vars", any(variables));
        if profiles {
            router = router
                .route("/debug/pprof/", any(profile_index))
                .route("/debug/pprof/{profile}", any(unknown_profile));
        }
        HttpRoutes { access: Arc::new(access), gateway, engine, router, has_profiles: profiles }
    }

    /// The response to a request.
    pub(super) async fn respond(self, mut request: Request) -> Response {
        if let Some(path) = paths::unescaped(request.uri().path()) {
            paths::set_path(&mut request, &path);
        }
        if let Some(rest) = request.uri().path().strip_prefix(gateway::OLD_PREFIX) {
            let path = format!("{}{rest}", gateway::PREFIX);
            paths::set_path(&mut request, &path);
        }
        let refusal = if request.extensions().get::<Security>() == Some(&Security::Tls) {
            self.refuse_certificate(&request)
        } else {
            self.access.refusal(&request)
        };
        if let Some(refusal) = refusal {
            return refusal;
        }
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut response = if request.method() == Method::OPTIONS {
            Response::new(Body::empty())
        } else if request.uri().path() == "*" {
            head::closing(StatusCode::BAD_REQUEST)
        } else if let Some(path) = self.moved(request.uri().path()) {
            paths::redirect(&request, &path)
        } else {
            match self.gateway.filter(|_| request.uri().path().starts_with(gateway::PREFIX)) {
                Some(gateway) => gateway.respond(request).await,
                None => self.router.oneshot(request).await.unwrap_or_else(|never| match never {}),
            }
        };
        self.access.allow_origin(origin.as_ref(), response.headers_mut());
        response
    }

    /// Calls through the gateway do not have the user that a client's certificate names. So a client with
    /// such a certificate is refused, and not taken for another user.
    fn refuse_certificate(&self, request: &Request) -> Option<Response> {
        let reason = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
        let has_name = request.extensions().get::<CertificateName>().is_some_and(|name| !name.0.is_empty());
        let is_refused = has_name
            && self.gateway.is_some()
            && request.uri().path().starts_with(gateway::PREFIX)
            && self.engine.auth().is_enabled();
        is_refused.then(|| text(StatusCode::BAD_REQUEST, reason))
    }

    /// The plain form of a path, to which Go's server redirects; none if the path has it.
    fn moved(&self, path: &str) -> Option<String> {
        match path {
            "/v3" if self.gateway.is_some() => Some("/v3/".to_owned()),
            "/debug/pprof" if self.has_profiles => Some("/debug/pprof/".to_owned()),
            _ => paths::plain_path(path),
        }
    }
}

/// The page of `--enable-pprof`. Go's profiles are of Go's runtime.
async fn profile_index() -> Response {
    let page = "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<br>\n<p>jetway is not \
                written in Go and has none of its profiles. Counters are at <a href='/metrics'>/metrics</a>; \
                for CPU profiles use tools of the system such as perf.</p>\n</body>\n</html>\n";
    let mut response = response(StatusCode::OK, "text/html; charset=utf-8", page);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The answer for each profile of Go's, in the form in which Go's tools expect it.
async fn unknown_profile() -> Response {
    let mut response = text(StatusCode::NOT_FOUND, "Unknown profile\n");
    response.headers_mut().insert("x-go-pprof", HeaderValue::from_static("1"));
    response
}

async fn version(request: Request) -> Response {
    if let Some(refusal) = only_get(&request) {
        return refusal;
    }
    // By hand, since the order of the fields is etcd's and not that of a map.
    let versions = format!(
        r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{CLUSTER_VERSION}","storage":"{CLUSTER_VERSION}"}}"#
    );
    response(StatusCode::OK, JSON, versions)
}

/// The one of Go's variables that means something here. The command line is left out, because it may hold a
/// token.
async fn variables(request: Request) -> Response {
    if let Some(refusal) = only_get(&request) {
        return refusal;
    }
    let variables = json!({ "file_descriptor_limit": crate::telemetry::descriptor_limit() });
    response(StatusCode::OK, "application/json; charset=utf-8", variables.to_string())
}
