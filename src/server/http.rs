//! What is served beside gRPC on the client port, and in part on the metrics ports: the JSON gateway, version, health
//! and metrics.
//!
//! Statuses, headers and bodies are etcd's, down to the content type that Go's server guesses for `/health`.

use super::access::Access;
use super::listener::Transport;
use crate::auth::CertificateName;
use crate::engine::{Engine, Phase};
use crate::gateway::{self, Gateway};
use crate::record::AlarmKind;
use crate::telemetry::Metrics;
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;
use tower::ServiceExt;

/// What the handlers ask.
#[derive(Clone, Debug)]
pub(super) struct Probes {
    pub(super) engine: Engine,
    pub(super) metrics: Arc<Metrics>,
}

/// A check of `/livez` or `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVE: [Check; 1] = [Check::SerializableRead];
const READY: [Check; 4] =
    [Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, engine: &Engine) -> Result<(), String> {
        let read = match self {
            Check::DataCorruption => {
                let corrupt = engine.alarms().iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
                return if corrupt { Err("alarm activated: CORRUPT".into()) } else { Ok(()) };
            }
            // Every instance is a full member.
            Check::NonLearner => return Ok(()),
            Check::SerializableRead => engine.serializable().await,
            Check::LinearizableRead => engine.linearizable().await,
        };
        read.map(drop).map_err(|error| error.to_string())
    }
}

/// The routes of a metrics port.
pub(super) fn metrics_routes(probes: Probes) -> Router {
    Router::new()
        .route("/metrics", any(metrics))
        .route("/health", any(health))
        .route("/livez", any(livez))
        .route("/livez/{check}", any(livez))
        .route("/readyz", any(readyz))
        .route("/readyz/{check}", any(readyz))
        .with_state(probes)
        .fallback(not_found)
}

/// What etcd serves on a client port to those who do not speak gRPC.
#[derive(Clone, Debug)]
pub(super) struct Web {
    access: Arc<Access>,
    gateway: Option<Gateway>,
    engine: Engine,
    router: Router,
    has_profiles: bool,
}

impl Web {
    /// The gateway may be switched off. `profiles` adds the page about Go's profiles.
    pub(super) fn new(access: Access, gateway: Option<Gateway>, probes: Probes, profiles: bool) -> Web {
        let engine = probes.engine.clone();
        let mut router =
            metrics_routes(probes).route("/version", any(version)).route("/debug/vars", any(variables));
        if profiles {
            router = router
                .route("/debug/pprof/", any(profile_index))
                .route("/debug/pprof/{profile}", any(unknown_profile));
        }
        Web { access: Arc::new(access), gateway, engine, router, has_profiles: profiles }
    }

    /// The answer to a request.
    pub(super) async fn answer(self, mut request: Request) -> Response {
        if let Some(path) = unescaped(request.uri().path()) {
            set_path(&mut request, &path);
        }
        if let Some(rest) = request.uri().path().strip_prefix(gateway::OLD_PREFIX) {
            let path = format!("{}{rest}", gateway::PREFIX);
            set_path(&mut request, &path);
        }
        let refusal = if request.extensions().get::<Transport>() == Some(&Transport::Tls) {
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
        } else if let Some(path) = self.moved(request.uri().path()) {
            redirect(&request, &path)
        } else {
            match self.gateway.filter(|_| request.uri().path().starts_with(gateway::PREFIX)) {
                Some(gateway) => gateway.respond(request).await,
                None => self.router.oneshot(request).await.unwrap_or_else(|never| match never {}),
            }
        };
        self.access.allow_origin(origin.as_ref(), response.headers_mut());
        response
    }

    /// Calls through the gateway are not made in the name that a client's certificate has, so a client that shows one is
    /// told, rather than taken for somebody else.
    fn refuse_certificate(&self, request: &Request) -> Option<Response> {
        let text = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
        let has_name = request.extensions().get::<CertificateName>().is_some_and(|name| !name.0.is_empty());
        let is_refused = has_name
            && self.gateway.is_some()
            && request.uri().path().starts_with(gateway::PREFIX)
            && self.engine.auth().is_enabled();
        is_refused.then(|| checked(StatusCode::BAD_REQUEST, text))
    }

    /// Where a path leads that is not in its plain form, as Go's server has it.
    fn moved(&self, path: &str) -> Option<String> {
        match path {
            "/v3" if self.gateway.is_some() => Some("/v3/".to_owned()),
            "/debug/pprof" if self.has_profiles => Some("/debug/pprof/".to_owned()),
            _ => plain_path(path),
        }
    }
}

/// A path without empty parts and dots; none if it is so already.
fn plain_path(path: &str) -> Option<String> {
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
fn unescaped(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok().filter(|plain| plain != path)
}

fn set_path(request: &mut Request, path: &str) {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    if let Ok(uri) = format!("{path}{query}").parse() {
        *request.uri_mut() = uri;
    }
}

fn redirect(request: &Request, path: &str) -> Response {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let to = format!("{path}{query}");
    let mut response = if request.method() == Method::GET {
        let link = to.replace('&', "&amp;").replace('"', "&#34;").replace('<', "&lt;").replace('>', "&gt;");
        let page = format!("<a href=\"{link}\">Temporary Redirect</a>.\n\n");
        answer(StatusCode::TEMPORARY_REDIRECT, "text/html; charset=utf-8", page)
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

/// What `--enable-pprof` has to show: Go's profiles are of Go's runtime.
async fn profile_index() -> Response {
    let page = "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<br>\n<p>jetway is not \
                written in Go and has none of its profiles. Counters are at <a href='/metrics'>/metrics</a>; \
                where the time goes, tools of the system such as perf tell.</p>\n</body>\n</html>\n";
    let mut response = answer(StatusCode::OK, "text/html; charset=utf-8", page);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// For the name of every profile, in the form in which Go's tools expect it.
async fn unknown_profile() -> Response {
    let mut response = checked(StatusCode::NOT_FOUND, "Unknown profile\n");
    response.headers_mut().insert("x-go-pprof", HeaderValue::from_static("1"));
    response
}

/// The answer while the server starts. A server that loads a large bucket is alive, and must not be restarted for it.
pub(super) fn starting<B>(request: &http::Request<B>, doing: &str) -> Response {
    match request.uri().path() {
        "/livez" => checked(StatusCode::OK, "ok\n"),
        "/health" => unhealthy(&format!("starting: {doing}")),
        _ => checked(StatusCode::SERVICE_UNAVAILABLE, format!("[-]start failed: {doing}\n\n")),
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// A text that browsers are told not to take for anything else.
pub(super) fn checked(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = answer(status, TEXT, body);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn only_get(request: &Request) -> Option<Response> {
    if request.method() == Method::GET {
        return None;
    }
    let mut response = checked(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    Some(response)
}

/// Values of a query parameter that may be repeated.
fn query(request: &Request, name: &str) -> Vec<String> {
    let query = request.uri().query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

async fn version(request: Request) -> Response {
    if let Some(refusal) = only_get(&request) {
        return refusal;
    }
    // By hand, since the order of the fields is etcd's and not that of a map.
    let versions = format!(
        r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{CLUSTER_VERSION}","storage":"{CLUSTER_VERSION}"}}"#
    );
    answer(StatusCode::OK, JSON, versions)
}

/// Of Go's variables the one that tells something here; the command line is left out, as it may hold a token.
async fn variables() -> Response {
    let variables = json!({ "file_descriptor_limit": crate::telemetry::descriptor_limit() });
    answer(StatusCode::OK, "application/json; charset=utf-8", variables.to_string())
}

async fn metrics(State(probes): State<Probes>) -> Response {
    answer(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        probes.metrics.text(&probes.engine).await,
    )
}

async fn health(State(probes): State<Probes>, request: Request) -> Response {
    if let Some(refusal) = only_get(&request) {
        return refusal;
    }
    let excluded = query(&request, "exclude");
    let serializable = query(&request, "serializable").iter().any(|value| value == "true");
    let health = check_health(&probes.engine, &excluded, serializable).await;
    probes.metrics.health().observe(health.is_ok());
    match health {
        Ok(()) => answer(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#),
        Err(reason) => {
            tracing::warn!(reason, "/health: not healthy");
            unhealthy(&reason)
        }
    }
}

fn unhealthy(reason: &str) -> Response {
    let body = json!({ "health": "false", "reason": reason });
    checked(StatusCode::SERVICE_UNAVAILABLE, format!("{body}\n"))
}

async fn check_health(engine: &Engine, excluded: &[String], serializable: bool) -> Result<(), String> {
    for alarm in engine.alarms() {
        let name = match alarm.kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        if !excluded.iter().any(|excluded| excluded == name) {
            return Err(format!("ALARM {name}"));
        }
    }
    let read = if serializable {
        engine.serializable().await
    } else {
        if engine.leader().is_err() && *engine.phase().borrow() == Phase::Serving {
            return Err("RAFT NO LEADER".to_owned());
        }
        engine.linearizable().await
    };
    read.map(drop).map_err(|error| format!("RANGE ERROR:{error}"))
}

async fn livez(probes: State<Probes>, request: Request) -> Response {
    run_checks("livez", &LIVE, &probes, request).await
}

async fn readyz(probes: State<Probes>, request: Request) -> Response {
    run_checks("readyz", &READY, &probes, request).await
}

/// All checks of an endpoint, or the one that the path names below it.
async fn run_checks(endpoint: &str, checks: &[Check], probes: &Probes, request: Request) -> Response {
    if let Some(refusal) = only_get(&request) {
        return refusal;
    }
    let mut chosen: Vec<Check> = checks.to_vec();
    if let Some(name) = request.uri().path().strip_prefix(&format!("/{endpoint}/")) {
        chosen.retain(|check| check.name() == name);
        if chosen.is_empty() {
            return not_found().await;
        }
    }
    let excluded = query(&request, "exclude");
    chosen.retain(|check| !excluded.iter().any(|name| name == check.name()));
    let is_verbose = request.uri().query().is_some_and(|query| query.contains("verbose"));
    let mut lines = String::new();
    let mut failed = false;
    for check in chosen {
        let outcome = check.run(&probes.engine).await;
        probes.metrics.health().observe_check(endpoint, check.name(), outcome.is_ok());
        failed |= outcome.is_err();
        let written = match outcome {
            Ok(()) => writeln!(lines, "[+]{} ok", check.name()),
            Err(error) => writeln!(lines, "[-]{} failed: {error}", check.name()),
        };
        written.expect("a string takes all that is written to it");
    }
    if failed {
        tracing::warn!(checks = lines.trim_end(), "/{endpoint}: not healthy");
        return checked(StatusCode::SERVICE_UNAVAILABLE, format!("{lines}\n"));
    }
    checked(StatusCode::OK, if is_verbose { format!("{lines}ok\n") } else { "ok\n".to_owned() })
}

/// For every other path.
async fn not_found() -> Response {
    checked(StatusCode::NOT_FOUND, "404 page not found\n")
}
