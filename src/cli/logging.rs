//! The flags of the log.

use super::flag_values::FlagValues;
use super::notice::Notice;
use crate::telemetry::{LogFormat, LogOutput, LogRotation, LogSettings};
use serde_json::Value;
use thiserror::Error;
use tracing_subscriber::filter::{self, EnvFilter};

/// etcd's name for the output that it uses by default.
const DEFAULT_OUTPUT: &str = "default";
const JOURNAL_OUTPUT: &str = "systemd/journal";

/// Flags of the log that make no sense. The texts are etcd's where etcd refuses the same.
#[derive(Debug, Error)]
pub(super) enum LogFlagsError {
    #[error("--logger=capnslog is removed in v3.5")]
    Capnslog,
    #[error("unknown logger option {0:?}: --logger can only be zap")]
    Logger(String),
    #[error("multi logoutput for {DEFAULT_OUTPUT:?} is not supported yet: --log-outputs {0}")]
    DefaultAmongOthers(String),
    #[error(
        "running with systemd/journal but other '--log-outputs' values ({0:?}) are configured with 'default'; \
         override 'default' value with something else"
    )]
    JournalAmongOthers(Vec<String>),
    #[error("unknown log format: {0}, supported values json, console (--log-format)")]
    Format(String),
    #[error("unrecognized level: {0:?}: --log-level can be debug, info, warn, error, panic or fatal")]
    Level(String),
    #[error("--log-level {level}: {reason}; expected debug, info, warn or error")]
    Filter { level: String, reason: filter::ParseError },
    #[error("--log-outputs requires a single file path when --log-rotate-config-json is defined")]
    RotationWithoutFile,
    #[error("improperly formatted log rotation config: --log-rotation-config-json: {0}")]
    RotationJson(serde_json::Error),
    #[error("invalid log rotation config: --log-rotation-config-json: {key} in {config}")]
    RotationValue { key: &'static str, config: String },
}

/// Form, filter and outputs of the log. etcd checks these flags before all others.
pub(super) fn settings(flags: &FlagValues, notices: &mut Vec<Notice>) -> Result<LogSettings, LogFlagsError> {
    match flags.text_or_default("logger") {
        "zap" => {}
        "capnslog" => return Err(LogFlagsError::Capnslog),
        other => return Err(LogFlagsError::Logger(other.to_owned())),
    }
    let outputs = outputs(flags)?;
    let rotation =
        if flags.is_true("enable-log-rotation") { Some(rotation(flags, &outputs, notices)?) } else { None };
    let format = match flags.text_or_default("log-format") {
        "json" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => return Err(LogFlagsError::Format(other.to_owned())),
    };
    let level = flags.text_or_default("log-level");
    let filter = match level {
        "dpanic" | "panic" | "fatal" | "DPANIC" | "PANIC" | "FATAL" => "error".to_owned(),
        "debug" | "DEBUG" => "debug,async_nats=warn,h2=warn,hyper=warn,tower=warn".to_owned(),
        // jetway itself logs what happens to the connections of the client library.
        "info" | "warn" | "error" | "INFO" | "WARN" | "ERROR" => {
            format!("{},async_nats=off,h2=warn,hyper=warn,tower=warn", level.to_ascii_lowercase())
        }
        filter if filter.contains('=') => filter.to_owned(),
        _ => return Err(LogFlagsError::Level(level.to_owned())),
    };
    if let Err(reason) = EnvFilter::try_new(&filter) {
        return Err(LogFlagsError::Filter { level: level.to_owned(), reason });
    }
    Ok(LogSettings { filter, format, outputs, rotation })
}

fn outputs(flags: &FlagValues) -> Result<Vec<LogOutput>, LogFlagsError> {
    let mut names = flags.texts("log-outputs");
    names.sort();
    names.dedup();
    if names.len() > 1 && names.iter().any(|name| name == DEFAULT_OUTPUT) {
        return Err(LogFlagsError::DefaultAmongOthers(names.join(",")));
    }
    if names.len() > 1 && names.iter().any(|name| name == JOURNAL_OUTPUT) {
        return Err(LogFlagsError::JournalAmongOthers(names));
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
    flags: &FlagValues,
    outputs: &[LogOutput],
    notices: &mut Vec<Notice>,
) -> Result<LogRotation, LogFlagsError> {
    const FLAG: &str = "--log-rotation-config-json";
    let files = outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count();
    if files != 1 {
        return Err(LogFlagsError::RotationWithoutFile);
    }
    let text = flags.text_or_default("log-rotation-config-json");
    let config: Value = serde_json::from_str(text).map_err(LogFlagsError::RotationJson)?;
    let wrong = |key: &'static str| LogFlagsError::RotationValue { key, config: text.to_owned() };
    let number = |key: &'static str| match config.get(key) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value.as_u64().ok_or_else(|| wrong(key)),
    };
    let flag = |key: &'static str| match config.get(key) {
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
        // etcd's library takes 0 for this size.
        max_bytes: match number("maxsize")? {
            0 => 100 << 20,
            megabytes => megabytes.saturating_mul(1 << 20),
        },
        max_age_days: number("maxage")?,
        max_backups: usize::try_from(number("maxbackups")?).unwrap_or(usize::MAX),
    })
}
