//! The commands beside serving. Each one is an entry of [`COMMANDS`].

use super::command::{SERVE, command_line, server_flags};
use super::flag_values::{FlagError, FlagValues};
use super::health::{self, HealthError};
use super::migrate::{self, MigrateCommandError};
use super::output::Output;
use super::program::Program;
use super::promote::{self, PromoteCommandError};
use super::restore::{self, RestoreCommandError};
use super::snapshot::{self, SaveError, StatusCommandError};
use super::storage::{self, StorageFlagsError};
use super::version;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command};
use clap_complete::Shell;
use std::ffi::OsString;
use thiserror::Error;

/// A command.
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// One line for the help.
    pub(super) about: &'static str,
    /// Adds the command's arguments. [`server_flags`] adds all flags of a
    /// server.
    pub(super) args: fn(Command) -> Command,
    /// Runs it, and gives the text that it prints.
    pub(super) run: fn(&ArgMatches, Environment) -> Result<Output, CommandError>,
}

/// The variables of the process. A command with flags of a server reads them by
/// [`FlagValues::read`](super::flag_values::FlagValues::read).
pub(super) type Environment = Vec<(OsString, OsString)>;

/// A command that failed.
#[derive(Debug, Error)]
pub(super) enum CommandError {
    #[error("the page cannot be written: {0}")]
    Man(std::io::Error),
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error(transparent)]
    Storage(#[from] StorageFlagsError),
    #[error(transparent)]
    Health(#[from] HealthError),
    #[error(transparent)]
    Restore(#[from] Box<RestoreCommandError>),
    #[error(transparent)]
    Migrate(#[from] Box<MigrateCommandError>),
    #[error(transparent)]
    Promote(#[from] Box<PromoteCommandError>),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error(transparent)]
    SnapshotStatus(#[from] StatusCommandError),
}

pub(super) const COMMANDS: &[Entry] = &[
    Entry {
        name: "completion",
        about: "Print a completion script for a shell",
        args: |command| {
            let shell = Arg::new("shell").value_name("SHELL").value_parser(clap::value_parser!(Shell));
            command.arg(shell.required(true).help("The shell that completes"))
        },
        run: |matches, _| {
            let mut script = Vec::new();
            let shell = matches.get_one::<Shell>("shell").copied().expect("clap requires it");
            clap_complete::generate(shell, &mut command_line(Program::Jetway), "jetway", &mut script);
            Ok(Output::Text(String::from_utf8_lossy(&script).into_owned()))
        },
    },
    Entry {
        name: "health",
        about: "Ask a server whether it is healthy; the exit status is 0 or 1",
        args: |command| {
            let url = Arg::new("url").value_name("URL").default_value(health::DEFAULT_URL);
            command.arg(url.help("A port of the server without TLS"))
        },
        run: |matches, _| {
            let url = matches.get_one::<String>("url").expect("it has a default");
            Ok(Output::Text(health::ask(url)? + "\n"))
        },
    },
    Entry {
        name: "man",
        about: "Print the manual page, in the form that man reads",
        args: |command| command,
        run: |_, _| {
            let mut page = Vec::new();
            let manual = clap_mangen::Man::new(command_line(Program::Jetway));
            manual.render(&mut page).map_err(CommandError::Man)?;
            Ok(Output::Text(String::from_utf8_lossy(&page).into_owned()))
        },
    },
    Entry {
        name: migrate::NAME,
        about: "Copy the store of a running etcd into an empty one, and follow it",
        args: migrate::args,
        run: |matches, environment| Ok(Output::Text(migrate::run(matches, environment).map_err(Box::new)?)),
    },
    Entry {
        name: "nats-permissions",
        about: "Print the rights that the NATS user of these flags needs",
        args: server_flags,
        run: |matches, environment| {
            let flags = FlagValues::read(Program::Jetway, matches, environment.into_iter())?;
            Ok(Output::Text(storage::rights(&flags)?.page()))
        },
    },
    Entry {
        name: "promote",
        about: "Make the mirror of a bucket the primary, and fence the old one",
        args: promote::args,
        run: |matches, environment| Ok(Output::Text(promote::run(matches, environment).map_err(Box::new)?)),
    },
    Entry {
        name: "restore",
        about: "Put a snapshot, or the data of a stopped etcd, into an empty store",
        args: restore::args,
        run: |matches, environment| Ok(Output::Text(restore::run(matches, environment).map_err(Box::new)?)),
    },
    Entry {
        name: "snapshot",
        about: "Save a snapshot of a running server, or report on a file",
        args: snapshot::args,
        run: |matches, environment| snapshot::run(matches, &environment),
    },
    Entry {
        name: "version",
        about: "Print the version",
        args: |command| command,
        run: |_, _| Ok(Output::Text(version::text(Program::Jetway))),
    },
    Entry {
        name: "help",
        about: "Print the help of a command",
        args: |command| {
            let names = COMMANDS.iter().map(|entry| entry.name).chain([SERVE]);
            let parser = PossibleValuesParser::new(names);
            command.arg(Arg::new("command").value_name("COMMAND").value_parser(parser).help("The command"))
        },
        run: |matches, _| {
            let command = matches.get_one::<String>("command").map(OsString::from);
            let asked = ["jetway".into()].into_iter().chain(command).chain(["--help".into()]);
            match command_line(Program::Jetway).try_get_matches_from(asked) {
                Err(help) => Ok(Output::Help(help)),
                Ok(_) => unreachable!("--help ends the reading"),
            }
        },
    },
];
