//! What is served beside gRPC on the client port, and alone on the metrics ports: version, health and metrics.

use crate::engine::{AlarmKind, Engine, Phase};
use crate::telemetry::Metrics;
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Router, middleware};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;

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
}

/// The routes of the client port beside gRPC.
pub(super) fn client_routes(probes: Probes) -> Router {
    metrics_routes(probes).route("/version", any(version)).layer(middleware::from_fn(cross_origin))
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

fn only_get(request: &Request) -> Option<Response> {
    if request.method() == Method::GET {
        return None;
    }
    let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n");
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
    let versions =
        json!({ "etcdserver": ETCD_VERSION, "etcdcluster": CLUSTER_VERSION, "storage": CLUSTER_VERSION });
    answer(StatusCode::OK, JSON, versions.to_string())
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
    match check_health(&probes.engine, &excluded, serializable).await {
        Ok(()) => answer(StatusCode::OK, JSON, r#"{"health":"true","reason":""}"#),
        Err(reason) => {
            let body = json!({ "health": "false", "reason": reason });
            answer(StatusCode::SERVICE_UNAVAILABLE, JSON, body.to_string())
        }
    }
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
            return not_found().await.into_response();
        }
    }
    let excluded = query(&request, "exclude");
    chosen.retain(|check| !excluded.iter().any(|name| name == check.name()));
    let is_verbose = request.uri().query().is_some_and(|query| query.contains("verbose"));
    let mut lines = String::new();
    let mut failed = false;
    for check in chosen {
        let outcome = check.run(&probes.engine).await;
        failed |= outcome.is_err();
        let written = match outcome {
            Ok(()) => writeln!(lines, "[+]{} ok", check.name()),
            Err(error) => writeln!(lines, "[-]{} failed: {error}", check.name()),
        };
        written.expect("a string takes all that is written to it");
    }
    if failed {
        return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines);
    }
    answer(StatusCode::OK, TEXT, if is_verbose { format!("{lines}ok\n") } else { "ok\n".to_owned() })
}

/// For every other path.
pub(super) async fn not_found() -> impl IntoResponse {
    answer(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
}
