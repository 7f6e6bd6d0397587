//! The command line of kine, which a link named `kine` has.
//!
//! k0s and others start kine beside the servers of Kubernetes. Each flag of kine's has its meaning here, or a
//! warning gives the reason. `flags` is the table. `settings` translates the values.

mod flags;
mod settings;
#[cfg(test)]
mod tests;

use super::command::{argument, help, help_of};
use super::flag_values::FlagError;
use super::flags::{Effect, Flag, Kind};
use super::go_flags::{self, NoMatches, UsageError};
use super::listen::ListenUrlError;
use super::output::Output;
use super::program::Program;
use super::settings::SettingsError;
use super::urls::UrlError;
use super::values::{self, InvalidValue};
use super::{Invocation, version};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};
use flags::{FLAGS, variable};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use thiserror::Error;

/// A command line or an environment of kine's that cannot be used. The texts are kine's where kine refuses
/// the same.
#[derive(Debug, Error)]
pub(super) enum KineError {
    #[error("Incorrect Usage: {0}\nkine --help lists every flag.")]
    Usage(UsageError),
    #[error("kine does not accept positional arguments, only flags: {0:?}")]
    Positional(String),
    #[error(
        "could not parse {value:?} as {kind} value from environment variable {variable:?} for flag {flag}: {reason}"
    )]
    Variable { value: String, kind: &'static str, variable: String, flag: &'static str, reason: InvalidValue },
    #[error("invalid log format: {0}: --log-format takes plain or json")]
    LogFormat(String),
    #[error("{flag} {address}: {reason}; expected host:port or unix:///path")]
    Url { flag: &'static str, address: String, reason: UrlError },
    #[error("{flag} {address}: {reason}")]
    Listen { flag: &'static str, address: String, reason: ListenUrlError },
    #[error("{given} needs {missing} too; without it kine would do without TLS")]
    HalfCertificate { given: &'static str, missing: &'static str },
    #[error("{flag} {path}: {reason}", path = .path.display())]
    File { flag: &'static str, path: PathBuf, reason: std::io::Error },
    #[error(
        "--endpoint: {scheme}:// is {database}, and jetway keeps its data in NATS; give nats://host:4222, or leave \
         --endpoint out for the embedded nats-server"
    )]
    OtherDatabase { scheme: String, database: &'static str },
    #[error(
        "--endpoint: there is no scheme, so kine would use SQLite, and jetway keeps its data in NATS; give \
         nats://host:4222, or leave --endpoint out for the embedded nats-server"
    )]
    NoScheme,
    #[error(
        "{path} holds the data of a kine, and an empty store would hide it: give --endpoint=nats://host:4222, or \
         start jetway in another directory",
        path = .0.display()
    )]
    HiddenData(PathBuf),
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// The values of kine's flags, from the command line and the environment.
struct KineValues(BTreeMap<&'static str, String>);

impl KineValues {
    /// As in kine, a flag wins over its variable.
    fn read(given: &ArgMatches, environment: &BTreeMap<String, String>) -> Result<KineValues, KineError> {
        let mut values = BTreeMap::new();
        for flag in FLAGS {
            if given.value_source(flag.name) == Some(ValueSource::CommandLine) {
                values.extend(given.get_one::<String>(flag.name).map(|value| (flag.name, value.clone())));
            } else if let Some(variable) = variable(flag)
                && let Some(value) = environment.get(&variable).filter(|value| !value.is_empty())
            {
                match values::check(flag.kind, value) {
                    Ok(()) => drop(values.insert(flag.name, value.clone())),
                    Err(reason) => {
                        let (value, kind) = (value.clone(), kind_name(flag.kind));
                        return Err(KineError::Variable { value, kind, variable, flag: flag.name, reason });
                    }
                }
            }
        }
        Ok(KineValues(values))
    }

    /// The value of a flag, or its default.
    fn text(&self, name: &str) -> &str {
        let default = || FLAGS.iter().find(|flag| flag.name == name).map_or("", |flag| flag.default);
        self.0.get(name).map_or_else(default, String::as_str)
    }

    fn non_empty(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    fn is_true(&self, name: &str) -> bool {
        values::boolean(self.text(name)) == Ok(true)
    }

    /// Flags that have a value.
    fn given(&self) -> impl Iterator<Item = &'static Flag> {
        FLAGS.iter().filter(|flag| self.0.contains_key(flag.name))
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "bool",
        Kind::Duration => "duration",
        Kind::Int => "int",
        _ => "string",
    }
}

/// Gives kine's flags to clap.
pub(super) fn command(command: Command) -> Command {
    let args = FLAGS.iter().map(|flag| {
        let heading = if matches!(flag.effect, Effect::None(_)) { "Without effect" } else { "Flags" };
        let arg = argument(flag, flag.default).help(help_of(flag)).help_heading(heading);
        if flag.name == "version" { arg.alias("v") } else { arg }
    });
    command
        .about("kine's command line for jetway: etcd's API over NATS JetStream.")
        .override_usage("kine [FLAGS]")
        .args(args)
        .arg(help(ArgAction::HelpLong))
        .after_help("The variable of --listen-address is KINE_LISTEN_ADDRESS. jetway's own JETWAY_ variables count too.")
}

/// Reads kine's command line, without the name of the program, and the environment.
pub(super) fn read(
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Invocation, KineError> {
    let mut args = args.peekable();
    let asks = args.next_if(|arg| arg == "help" || arg == "h").map(|_| OsString::from("--help"));
    let program = super::command::command_line(Program::Kine);
    let given = match go_flags::parse(program, asks.into_iter().chain(args)) {
        Ok(given) => given,
        Err(NoMatches::Help(help)) => return Ok(Invocation::Print(Output::Help(help))),
        Err(NoMatches::Usage(UsageError::Positional(arg))) => return Err(KineError::Positional(arg)),
        Err(NoMatches::Usage(error)) => return Err(KineError::Usage(error)),
    };
    let environment = super::flag_values::texts(environment);
    let values = KineValues::read(&given, &environment)?;
    if values.is_true("version") {
        return Ok(Invocation::Print(Output::Text(version::text(Program::Kine))));
    }
    Ok(Invocation::Serve(Box::new(settings::settings(&values, &environment)?)))
}
