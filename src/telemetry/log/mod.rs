//! The log: its form, and its outputs.

mod file;
mod output;
mod zap;

pub use file::LogRotation;

use output::{Output, Outputs};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use thiserror::Error;
use zap::ZapJson;

/// Form and outputs of the log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// The events that are logged, in the form of [`tracing_subscriber::EnvFilter`].
    pub filter: String,
    /// The form of a line.
    pub format: LogFormat,
    /// The outputs, each of which gets every line.
    pub outputs: Vec<LogOutput>,
    /// When a new file is begun; concerns the only file among `outputs`.
    pub rotation: Option<LogRotation>,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object, in etcd's form.
    Json,
    /// Text for people.
    Console,
}

/// An output of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// The journal of systemd.
    Journal,
    /// A file, to whose end lines are appended.
    File(PathBuf),
}

/// A log that cannot be written.
#[derive(Debug, Error)]
#[error("--log-outputs {output}: {source}")]
pub struct LogError {
    output: String,
    source: io::Error,
}

/// Sets the log of the process up. To be called once.
///
/// # Errors
/// [`LogError`].
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    let mut outputs = Vec::new();
    for output in &settings.outputs {
        outputs.push(Output::open(output, settings.rotation)?);
    }
    // Colours are for terminals.
    let colours = match settings.outputs[..] {
        [LogOutput::Stderr] => io::stderr().is_terminal(),
        [LogOutput::Stdout] => io::stdout().is_terminal(),
        _ => false,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&settings.filter))
        .with_writer(Outputs::new(outputs))
        .with_ansi(colours);
    match settings.format {
        LogFormat::Json => log.event_format(ZapJson).init(),
        LogFormat::Console => log.init(),
    }
    Ok(())
}
