//! The log: its form, and its outputs.

mod file;
mod output;
mod repeats;
mod zap;

pub use file::LogRotation;

use output::{Output, Outputs};
use repeats::Repeats;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};
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
pub enum LogError {
    /// An output.
    #[error("--log-outputs {output}: {source}; give another output, or make this one writable")]
    Output {
        /// Its name.
        output: String,
        /// Why.
        source: io::Error,
    },
    /// The thread that counts repetitions.
    #[error("cannot start a thread for the log: {0}; raise the limit of processes")]
    Thread(io::Error),
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
    let lines = tracing_subscriber::fmt::layer().with_writer(Outputs::new(outputs)).with_ansi(colours);
    let lines = match settings.format {
        LogFormat::Json => lines.event_format(ZapJson).boxed(),
        LogFormat::Console => lines.boxed(),
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(Repeats::start().map_err(LogError::Thread)?)
        .with(EnvFilter::new(&settings.filter))
        .init();
    Ok(())
}
