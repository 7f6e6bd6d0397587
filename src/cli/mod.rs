//! The command line: the only reader of flags and environment variables.
//!
//! `flags` is the table of all flags, etcd's and jetway's own. `command` gives it to clap, beside the
//! `commands`. `go_flags` reads Go's form of a command line, and gives clap's refusals in Go's words.
//! `flag_values` adds environment and config file, by etcd's rules, and has one text for each flag. `kine`
//! translates kine's flags into such texts. The modules of single subjects (`listen`, `tls`, `storage`,
//! `bootstrap`, `peers`, `compaction`, `snapshot_schedule`, `logging`, `no_effect`) check them. `settings` is
//! the result, which the rest of the program reads.

mod bootstrap;
mod command;
mod commands;
mod compaction;
mod config_file;
mod discovery;
mod endpoint;
mod flag_values;
mod flags;
#[cfg(test)]
mod flags_page;
mod go_flags;
mod health;
mod kine;
mod listen;
mod logging;
mod migrate;
mod nats_context;
mod no_effect;
mod notice;
mod output;
mod peers;
mod program;
mod promote;
mod restore;
mod runtime;
mod settings;
mod snapshot;
mod snapshot_schedule;
mod storage;
#[cfg(test)]
mod tests;
mod tls;
mod urls;
mod values;
mod version;

pub use compaction::AutoCompaction;
pub use listen::{ListenAddress, ListenUrl};
pub use notice::Notice;
pub use output::Output;
pub(crate) use peers::is_same_urls;
pub use peers::{Cluster, PeerAutoTls, PeerFlagsError};
pub use program::Program;
pub use settings::ServerSettings;
pub(crate) use snapshot_schedule::SnapshotPlace;
pub use snapshot_schedule::SnapshotSchedule;
pub use storage::Storage;
pub use tls::{TlsSettings, TlsVersion};

use clap::ArgMatches;
use clap::error::ErrorKind;
use command::SERVE;
use commands::{COMMANDS, CommandError};
use flag_values::{FlagError, FlagValues};
use go_flags::{NoMatches, UsageError};
use kine::KineError;
use settings::SettingsError;
use std::ffi::OsString;
use thiserror::Error;

/// The task that a command line sets.
#[derive(Debug)]
pub enum Invocation {
    /// Serve.
    Serve(Box<ServerSettings>),
    /// Print this and end.
    Print(Output),
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
    Arguments(clap::Error),
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Kine(#[from] KineError),
}

impl CommandLineError {
    /// Exit status of the process. As with etcd, it is 2 for a mistake in the arguments themselves, and 1 for
    /// any other.
    pub fn status(&self) -> u8 {
        match &self.0 {
            // etcd checks this one itself, and not Go's package.
            Reason::Usage(UsageError::Positional(_)) => 1,
            Reason::Arguments(_) | Reason::Usage(_) => 2,
            _ => 1,
        }
    }

    /// Prints it to standard error.
    #[expect(clippy::print_stderr, reason = "there is no log yet")]
    pub fn print(&self, program: Program) {
        let name = program.name();
        match &self.0 {
            // clap's text has its own form, and colours on a terminal.
            Reason::Arguments(error) => drop(error.print()),
            // As in etcd, the text of a mistake in the command line itself has no prefix.
            error if self.status() == 2 => eprintln!("{error}\n{name} --help lists every flag."),
            error => eprintln!("{name}: {error}"),
        }
    }
}

/// Reads a command line, without the name of the program, and the environment.
///
/// # Errors
/// A flag, a variable or the config file is refused, by etcd's rules or since jetway has no such thing.
pub fn read(
    program: Program,
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, CommandLineError> {
    read_task(program, args, environment).map_err(CommandLineError)
}

fn read_task(
    program: Program,
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, Reason> {
    if program == Program::Kine {
        return Ok(kine::read(args.into_iter(), environment.into_iter())?);
    }
    let mut args = args.into_iter().peekable();
    if let Some(command) = args.next_if(|arg| arg == "gateway" || arg == "grpc-proxy") {
        return Err(Reason::OtherCommand(command.display().to_string()));
    }
    let parsed = match program {
        Program::Jetway => parse(args),
        Program::Etcd | Program::Kine => {
            go_flags::parse(command::command_line(program), args).map_err(Into::into)
        }
    };
    let matches = match parsed {
        Ok(matches) => matches,
        Err(Unparsed::Help(help)) => return Ok(Invocation::Print(Output::Help(help))),
        Err(Unparsed::Refused(reason)) => return Err(reason),
    };
    match matches.subcommand() {
        None => serve(program, &matches, environment),
        Some((SERVE, matches)) => serve(program, matches, environment),
        Some((migrate::NAME, matches)) if migrate::serves(matches) => {
            let settings = migrate::server(matches, environment.into_iter().collect());
            let settings = settings.map_err(|error| CommandError::from(Box::new(error)))?;
            Ok(Invocation::Serve(Box::new(settings)))
        }
        Some((name, matches)) => {
            let entry = COMMANDS.iter().find(|entry| entry.name == name).expect("clap knows no others");
            Ok(Invocation::Print((entry.run)(matches, environment.into_iter().collect())?))
        }
    }
}

/// The reason for which a command line has no values.
enum Unparsed {
    Help(clap::Error),
    Refused(Reason),
}

impl From<NoMatches> for Unparsed {
    fn from(reason: NoMatches) -> Unparsed {
        match reason {
            NoMatches::Help(help) => Unparsed::Help(help),
            NoMatches::Usage(error) => Unparsed::Refused(error.into()),
        }
    }
}

/// Reads a command line of jetway itself, with clap's words for mistakes.
fn parse(args: impl Iterator<Item = OsString>) -> Result<ArgMatches, Unparsed> {
    let mut words: Vec<OsString> = args.collect();
    // etcdutl's spelling.
    if words.starts_with(&["snapshot".into(), "restore".into()]) {
        words.remove(0);
    }
    let mut args = words.into_iter();
    let program = command::command_line(Program::Jetway);
    let arguments = go_flags::arguments(&program, &mut args);
    let rest = arguments.end.map(|(arg, _)| arg).into_iter().chain(args);
    let words = [Program::Jetway.name().into()].into_iter().chain(arguments.flags).chain(rest);
    program.try_get_matches_from(words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp => Unparsed::Help(error),
        _ => Unparsed::Refused(Reason::Arguments(error)),
    })
}

fn serve(
    program: Program,
    matches: &ArgMatches,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, Reason> {
    // etcd reads no variables before it prints its version.
    if matches.get_one::<String>("version").is_some_and(|value| values::boolean(value) == Ok(true)) {
        return Ok(Invocation::Print(Output::Text(version::text(program))));
    }
    let flags = FlagValues::read(program, matches, environment.into_iter())?;
    Ok(Invocation::Serve(Box::new(ServerSettings::new(&flags)?)))
}

/// For fuzzing: a config file, the value of a flag or a command line, of any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    let Some((target, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    match target % 5 {
        0 => {
            if let Ok(endpoint) = endpoint::parse(&text) {
                assert!(!endpoint.is_embedded || endpoint.servers.is_empty());
            }
        }
        1 => {
            for url in urls::parse_list(&text).into_iter().flatten() {
                drop((url.is_secure(), ListenUrl::new("--flag", &url), url.check_advertised()));
            }
        }
        2 => {
            drop((crate::duration::parse(&text), values::feature_gates(&text)));
            drop((values::boolean(&text), values::unsigned(&text), values::integer(&text)));
        }
        3 => {
            for program in [Program::Jetway, Program::Etcd, Program::Kine] {
                drop(read_task(program, text.lines().map(OsString::from), []));
            }
        }
        _ => {
            if let Ok(file) = config_file::parse(&text) {
                assert!(file.values.iter().all(|(name, _)| flags::find(name).is_some()));
            }
        }
    }
}
