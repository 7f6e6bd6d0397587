//! The command line: the only reader of flags and environment.
//!
//! `flags` is the table of all flags, etcd's and our own; `given` reads command line, environment and config file into
//! one text for each flag, by etcd's rules; `settings` is what the rest of the program gets: checked once, with every
//! default filled in. `help` prints the table.

mod config_file;
pub(crate) mod duration;
mod endpoint;
mod flags;
mod given;
mod help;
mod logging;
mod settings;
mod urls;
mod values;

pub use settings::{
    AutoCompaction, ListenAddress, ListenUrl, Settings, SettingsError, Storage, TlsSettings, TlsVersion,
};

use given::{Given, Request};
use std::ffi::OsString;
use std::path::Path;
use thiserror::Error;

/// By which name we are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Personality {
    /// Our own.
    Jetway,
    /// As `etcd`, through a link: defaults, version and refusals are etcd's then.
    Etcd,
}

/// Something to say once there is a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether somebody should look at it.
    pub warns: bool,
    /// A sentence.
    pub text: String,
}

impl Notice {
    fn warning(text: String) -> Notice {
        Notice { warns: true, text }
    }

    fn information(text: String) -> Notice {
        Notice { warns: false, text }
    }
}

/// What to do.
#[derive(Debug)]
pub enum Invocation {
    /// Serve.
    Serve(Box<Settings>),
    /// Print this and be done.
    Print(String),
}

/// A command line with which nothing can be done.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct CommandLineError {
    /// Status of the process: 2 for a mistake in the command line itself, 1 for any other, as with etcd.
    pub status: u8,
    message: String,
}

impl CommandLineError {
    fn usage(message: String) -> CommandLineError {
        CommandLineError { status: 2, message }
    }

    fn refused(message: String) -> CommandLineError {
        CommandLineError { status: 1, message }
    }
}

impl Personality {
    /// By the name in the first argument.
    pub fn of(program: Option<&OsString>) -> Personality {
        match program.and_then(|program| Path::new(program).file_stem()) {
            Some(name) if name == "etcd" => Personality::Etcd,
            _ => Personality::Jetway,
        }
    }
}

/// Reads a command line, without the name of the program, and the environment.
pub fn read(
    personality: Personality,
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, CommandLineError> {
    let mut args = args.into_iter().peekable();
    if let Some(command) = args.next_if(|arg| arg == "serve" || arg == "gateway" || arg == "grpc-proxy")
        && command != "serve"
    {
        return Err(CommandLineError::refused(format!(
            "{} is not part of jetway: let clients connect to jetway itself, or run etcd's own {}",
            command.display(),
            command.display()
        )));
    }
    match Given::read(args, environment.into_iter())? {
        Request::Help => Ok(Invocation::Print(help::help(personality))),
        Request::Version => Ok(Invocation::Print(help::version(personality))),
        Request::Serve(given) => match Settings::new(&given, personality) {
            Ok(settings) => Ok(Invocation::Serve(Box::new(settings))),
            Err(error) => Err(CommandLineError::refused(error.to_string())),
        },
    }
}

/// For fuzzing: a config file, or the value of a flag, of any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    let Some((which, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    match which % 4 {
        0 => {
            if let Ok(endpoint) = endpoint::parse(&text) {
                assert!(!endpoint.servers.is_empty());
            }
        }
        1 => {
            for url in urls::parse_list(&text).into_iter().flatten() {
                drop((url.is_secure(), url.listen(), url.check_advertised()));
            }
        }
        2 => {
            drop((duration::parse(&text), values::feature_gates(&text)));
            drop((values::boolean(&text), values::unsigned(&text), values::integer(&text)));
        }
        _ => {
            if let Ok(file) = config_file::parse(&text) {
                assert!(file.values.iter().all(|(name, _)| flags::find(name).is_some()));
            }
        }
    }
}
