//! Metrics and probes: `/metrics`, `/health`, `/livez`, `/readyz`.

use super::encoding::{gzip, prefers_gzip};
use super::response::{TEXT, not_found, only_get, query, response, text};
use crate::engine::{Engine, Phase};
use crate::error::EtcdError;
use crate::log::ReadOnly;
use crate::record::AlarmKind;
use crate::telemetry::Metrics;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;
use thiserror::Error;

/// The parts that the probes read.
#[derive(Clone, Debug)]
pub(crate) struct Probes {
    pub(crate) engine: Engine,
    pub(crate) metrics: Arc<Metrics>,
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

    async fn run(self, engine: &Engine) -> Result<(), CheckError> {
        let read = match self {
            Check::DataCorruption => {
                let is_corrupt = engine.alarms().iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
                return if is_corrupt { Err(CheckError::Corrupt) } else { Ok(()) };
            }
            // Every instance is a full member.
            Check::NonLearner => return Ok(()),
            Check::SerializableRead => engine.serializable().await,
            Check::LinearizableRead => engine.linearizable().await,
        };
        Ok(read.map(drop)?)
    }
}

/// Why a check has failed, in etcd's words.
#[derive(Debug, Error)]
enum CheckError {
    #[error("alarm activated: CORRUPT")]
    Corrupt,
    #[error(transparent)]
    Read(#[from] EtcdError),
}

/// Why the server is not healthy, in etcd's words.
#[derive(Debug, Error)]
enum Unhealthy {
    #[error("ALARM {}", .0.name())]
    Alarm(AlarmKind),
    #[error("RAFT NO LEADER")]
    NoLeader,
    #[error("RANGE ERROR:{0}")]
    Read(EtcdError),
    #[error(transparent)]
    ReadOnly(ReadOnly),
}

/// The routes of a metrics port.
pub(crate) fn probe_routes(probes: Probes) -> Router {
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

/// The response while the server starts. A server that loads a large bucket is alive, and must not be
/// restarted for it.
pub(crate) fn starting<B>(request: &http::Request<B>, step: &str) -> Response {
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/health" => unhealthy(&format!("starting: {step}")),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, format!("[-]start failed: {step}\n\n")),
    }
}

async fn metrics(State(probes): State<Probes>, request: Request) -> Response {
    let text = probes.metrics.text().await;
    let packed = prefers_gzip(request.headers()).then(|| gzip(&text).ok()).flatten();
    let is_packed = packed.is_some();
    let mut response =
        response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", packed.unwrap_or(text));
    if is_packed {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

async fn health(State(probes): State<Probes>, request: Request) -> Response {
    if let Some(refusal) = only_get(&request) {
        return refusal;
    }
    let excluded = query(&request, "exclude");
    let serializable = query(&request, "serializable").iter().any(|value| value == "true");
    let health = check_health(&probes.engine, &excluded, serializable).await;
    probes.metrics.probes().observe(health.is_ok());
    match health {
        Ok(()) => response(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#),
        Err(error) => {
            let reason = error.to_string();
            tracing::warn!(reason, "/health: not healthy");
            unhealthy(&reason)
        }
    }
}

fn unhealthy(reason: &str) -> Response {
    let body = json!({ "health": "false", "reason": reason });
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{body}\n"))
}

async fn check_health(engine: &Engine, excluded: &[String], serializable: bool) -> Result<(), Unhealthy> {
    for alarm in engine.alarms() {
        if !excluded.iter().any(|excluded| excluded == alarm.kind.name()) {
            return Err(Unhealthy::Alarm(alarm.kind));
        }
    }
    let read = if serializable {
        engine.serializable().await
    } else {
        if let Some(reason) = engine.read_only() {
            return Err(Unhealthy::ReadOnly(reason));
        }
        if engine.leader().is_err() && *engine.phase().borrow() == Phase::Serving {
            return Err(Unhealthy::NoLeader);
        }
        engine.linearizable().await
    };
    read.map(drop).map_err(Unhealthy::Read)
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
        probes.metrics.probes().observe_check(endpoint, check.name(), outcome.is_ok());
        failed |= outcome.is_err();
        let written = match outcome {
            Ok(()) => writeln!(lines, "[+]{} ok", check.name()),
            Err(error) => writeln!(lines, "[-]{} failed: {error}", check.name()),
        };
        written.expect("a string takes all that is written to it");
    }
    if failed {
        tracing::warn!(checks = lines.trim_end(), "/{endpoint}: not healthy");
        return text(StatusCode::SERVICE_UNAVAILABLE, format!("{lines}\n"));
    }
    text(StatusCode::OK, if is_verbose { format!("{lines}ok\n") } else { "ok\n".to_owned() })
}
