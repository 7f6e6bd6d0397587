//! The command line: the only reader of flags and environment variables.
//!
//! `flags` is the table of all flags, etcd's and jetway's own. `flag_values` reads command line, environment
//! and config file into one text for each flag, by etcd's rules. The modules of single subjects (`listen`,
//! `tls`, `storage`, `bootstrap`, `peers`, `compaction`, `logging`, `no_effect`) check these texts.
//! `settings` is the result, which the rest of the program reads. `help` prints the table.

mod bootstrap;
mod compaction;
mod config_file;
mod endpoint;
mod flag_values;
mod flags;
mod help;
mod listen;
mod logging;
mod nats_context;
mod no_effect;
mod notice;
mod peers;
mod personality;
mod settings;
mod storage;
#[cfg(test)]
mod tests;
mod tls;
mod urls;
mod values;

pub use compaction::AutoCompaction;
pub use listen::{ListenAddress, ListenUrl};
pub use notice::Notice;
pub use peers::{Cluster, PeerAutoTls};
pub use personality::Personality;
pub use settings::ServerSettings;
pub use storage::Storage;
pub use tls::{TlsSettings, TlsVersion};

use flag_values::{CommandLine, FlagError, FlagValues};
use settings::SettingsError;
use std::ffi::OsString;
use thiserror::Error;

/// The task that a command line sets.
#[derive(Debug)]
pub enum Invocation {
    /// Serve.
    Serve(Box<ServerSettings>),
    /// Print this text and end.
    Print(String),
}

/// A command line that sets no task.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct CommandLineError(Reason);

#[derive(Debug, Error)]
enum Reason {
    #[error("{0} is not part of jetway: let clients connect to jetway itself, or run etcd's own {0}")]
    OtherCommand(String),
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl CommandLineError {
    /// Exit status of the process. As with etcd, it is 2 for a mistake in the arguments themselves, and 1 for
    /// any other.
    pub fn status(&self) -> u8 {
        match &self.0 {
            Reason::Flags(error) if error.is_usage() => 2,
            _ => 1,
        }
    }
}

/// Reads a command line, without the name of the program, and the environment.
///
/// # Errors
/// A flag, a variable or the config file is refused, by etcd's rules or since jetway has no such thing.
pub fn read(
    personality: Personality,
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, CommandLineError> {
    read_task(personality, args, environment).map_err(CommandLineError)
}

fn read_task(
    personality: Personality,
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, Reason> {
    let mut args = args.into_iter().peekable();
    if let Some(command) = args.next_if(|arg| arg == "serve" || arg == "gateway" || arg == "grpc-proxy")
        && command != "serve"
    {
        return Err(Reason::OtherCommand(command.display().to_string()));
    }
    let wants_rights = args.next_if(|arg| arg == "nats-permissions").is_some();
    match FlagValues::read(args, environment.into_iter())? {
        CommandLine::Help => Ok(Invocation::Print(help::help(personality))),
        CommandLine::Version => Ok(Invocation::Print(help::version(personality))),
        CommandLine::Serve(flags) if wants_rights => {
            let rights = storage::rights(&flags).map_err(SettingsError::from)?;
            Ok(Invocation::Print(rights.page()))
        }
        CommandLine::Serve(flags) => {
            Ok(Invocation::Serve(Box::new(ServerSettings::new(&flags, personality)?)))
        }
    }
}

/// For fuzzing: a config file, or the value of a flag, of any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    let Some((target, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    match target % 4 {
        0 => {
            if let Ok(endpoint) = endpoint::parse(&text) {
                assert!(!endpoint.is_embedded || endpoint.servers.is_empty());
            }
        }
        1 => {
            for url in urls::parse_list(&text).into_iter().flatten() {
                drop((url.is_secure(), ListenUrl::try_from(&url), url.check_advertised()));
            }
        }
        2 => {
            drop((crate::duration::parse(&text), values::feature_gates(&text)));
            drop((values::boolean(&text), values::unsigned(&text), values::integer(&text)));
        }
        _ => {
            if let Ok(file) = config_file::parse(&text) {
                assert!(file.values.iter().all(|(name, _)| flags::find(name).is_some()));
            }
        }
    }
}
