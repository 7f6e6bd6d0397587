//! The flags of the log.

use super::given::Given;
use super::settings::SettingsError;
use super::{Notice, Personality};
use crate::telemetry::{LogFormat, LogOutput, LogRotation, LogSettings};
use serde_json::Value;

/// What etcd writes to when it is not told.
const DEFAULT_OUTPUT: &str = "default";
const JOURNAL_OUTPUT: &str = "systemd/journal";

/// Checks in the order in which etcd does, which is before everything else.
pub(super) fn settings(
    given: &Given,
    personality: Personality,
    notices: &mut Vec<Notice>,
) -> Result<LogSettings, SettingsError> {
    let refuse = |reason: String| Err(SettingsError(reason));
    match given.text_or_default("logger") {
        "zap" => {}
        "capnslog" => return refuse("--logger=capnslog is removed in v3.5".into()),
        other => return refuse(format!("unknown logger option {other:?}: --logger can only be zap")),
    }
    let outputs = outputs(given)?;
    let rotation =
        if given.is_true("enable-log-rotation") { Some(rotation(given, &outputs, notices)?) } else { None };
    let format = match (given.text("log-format").filter(|format| !format.is_empty()), personality) {
        (Some("json"), _) | (None, Personality::Etcd) => LogFormat::Json,
        (Some("console"), _) | (None, Personality::Jetway) => LogFormat::Console,
        (Some(other), _) => {
            return refuse(format!(
                "unknown log format: {other}, supported values json, console (--log-format)"
            ));
        }
    };
    let level = given.text_or_default("log-level");
    let filter = match level {
        "dpanic" | "panic" | "fatal" | "DPANIC" | "PANIC" | "FATAL" => "error".to_owned(),
        // The client library tells of each connection at info; what matters of it we log ourselves.
        "debug" | "info" | "warn" | "error" | "DEBUG" | "INFO" | "WARN" | "ERROR" => {
            format!("{},async_nats=warn,h2=warn,hyper=warn,tower=warn", level.to_ascii_lowercase())
        }
        filter if filter.contains('=') => filter.to_owned(),
        _ => {
            return refuse(format!(
                "unrecognized level: {level:?}: --log-level can be debug, info, warn, error, panic or fatal"
            ));
        }
    };
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&filter) {
        return refuse(format!("--log-level {level}: {error}; expected debug, info, warn or error"));
    }
    Ok(LogSettings { filter, format, outputs, rotation })
}

fn outputs(given: &Given) -> Result<Vec<LogOutput>, SettingsError> {
    let mut names = given.texts("log-outputs");
    names.sort();
    names.dedup();
    if names.len() > 1 && names.iter().any(|name| name == DEFAULT_OUTPUT) {
        return Err(SettingsError(format!(
            "multi logoutput for {DEFAULT_OUTPUT:?} is not supported yet: --log-outputs {}",
            names.join(",")
        )));
    }
    if names.len() > 1 && names.iter().any(|name| name == JOURNAL_OUTPUT) {
        return Err(SettingsError(format!(
            "running with systemd/journal but other '--log-outputs' values ({names:?}) are configured with 'default'; \
             override 'default' value with something else"
        )));
    }
    Ok(names
        .into_iter()
        .map(|name| match name.as_str() {
            DEFAULT_OUTPUT | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            JOURNAL_OUTPUT => LogOutput::Journal,
            path => LogOutput::File(path.into()),
        })
        .collect())
}

fn rotation(
    given: &Given,
    outputs: &[LogOutput],
    notices: &mut Vec<Notice>,
) -> Result<LogRotation, SettingsError> {
    const FLAG: &str = "--log-rotation-config-json";
    let files = outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count();
    if files != 1 {
        return Err(SettingsError(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined".to_owned(),
        ));
    }
    let text = given.text_or_default("log-rotation-config-json");
    let config: Value = serde_json::from_str(text).map_err(|error| {
        SettingsError(format!("improperly formatted log rotation config: {FLAG}: {error}"))
    })?;
    let wrong = |key: &str| SettingsError(format!("invalid log rotation config: {FLAG}: {key} in {text}"));
    let number = |key: &str| match config.get(key) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value.as_u64().ok_or_else(|| wrong(key)),
    };
    let flag = |key: &str| match config.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| wrong(key)),
    };
    if !config.is_object() {
        return Err(wrong("the whole"));
    }
    if flag("compress")? {
        notices.push(Notice::warning(format!("{FLAG}: old log files are not compressed")));
    }
    if flag("localtime")? {
        notices.push(Notice::warning(format!("{FLAG}: old log files are named in UTC")));
    }
    Ok(LogRotation {
        // As lumberjack, for which nothing means this.
        max_bytes: match number("maxsize")? {
            0 => 100 << 20,
            megabytes => megabytes.saturating_mul(1 << 20),
        },
        max_age_days: number("maxage")?,
        max_backups: usize::try_from(number("maxbackups")?).unwrap_or(usize::MAX),
    })
}
