//! What is served beside gRPC on the client port, and alone on the metrics ports: version, health and metrics.
//!
//! Statuses, headers and bodies are etcd's, down to the content type that Go's server guesses for `/health`.

use crate::engine::{AlarmKind, Engine, Phase};
use crate::gateway::{self, Gateway};
use crate::telemetry::Metrics;
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::any;
use axum::{Router, middleware};
use http::{HeaderValue, Method, StatusCode, Version, header};
use serde_json::json;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::Service;

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

/// The routes of a client port: `grpc` for calls, and what etcd serves there to everybody else.
pub(super) fn client_routes(grpc: Router, gateway: Option<Gateway>, probes: Probes) -> Router {
    let web = metrics_routes(probes)
        .route("/version", any(version))
        .route("/debug/vars", any(variables))
        .layer(middleware::from_fn_with_state(gateway, through_gateway))
        .layer(middleware::from_fn(cross_origin));
    Router::new().fallback_service(Split { grpc, web })
}

/// Answers what is for the gateway.
async fn through_gateway(State(gateway): State<Option<Gateway>>, request: Request, next: Next) -> Response {
    match gateway {
        Some(gateway) if request.uri().path().starts_with(gateway::PREFIX) => gateway.answer(request).await,
        _ => next.run(request).await,
    }
}

/// Whether a request is a gRPC call. Other requests for the path of a method are answered as those for any unknown path.
pub(super) fn is_grpc<B>(request: &http::Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Tells gRPC from the rest of a port's traffic.
#[derive(Clone, Debug)]
struct Split {
    grpc: Router,
    web: Router,
}

impl Service<Request> for Split {
    type Response = Response;
    type Error = Infallible;
    type Future = <Router as Service<Request>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if is_grpc(&request) { self.grpc.call(request) } else { self.web.call(request) }
    }
}

/// The answer while the server starts. A server that loads a large bucket is alive, and must not be restarted for it.
pub(super) fn starting<B>(request: &http::Request<B>, doing: &str) -> Response {
    match request.uri().path() {
        "/livez" => checked(StatusCode::OK, "ok\n"),
        "/health" => unhealthy(&format!("starting: {doing}")),
        _ => checked(StatusCode::SERVICE_UNAVAILABLE, format!("[-]start failed: {doing}\n\n")),
    }
}

/// Lets any page's scripts read the answers, as etcd does unless told otherwise.
async fn cross_origin(request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS {
        Response::new(Body::empty())
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
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
fn checked(status: StatusCode, body: impl Into<Body>) -> Response {
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
        if engine.health().is_err() && *engine.phase().borrow() == Phase::Serving {
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
