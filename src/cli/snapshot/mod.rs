//! `jetway snapshot`: saves a snapshot of a running server, and reports on a file.

mod save;
mod status;

pub(super) use save::{Flags as LoginFlags, SaveError, login_args};
pub(super) use status::StatusCommandError;

use super::commands::{CommandError, Environment};
use super::output::Output;
use clap::{ArgMatches, Command};

/// Adds the commands.
pub(super) fn args(command: Command) -> Command {
    command.subcommand_required(true).subcommands([save::command(), status::command()])
}

/// Runs the one that is asked for.
///
/// # Errors
/// [`CommandError`].
pub(super) fn run(matches: &ArgMatches, environment: &Environment) -> Result<Output, CommandError> {
    match matches.subcommand() {
        Some((save::NAME, matches)) => Ok(Output::Text(save::run(matches, environment)?)),
        Some((status::NAME, matches)) => Ok(Output::Text(status::run(matches, environment)?)),
        _ => unreachable!("clap requires one that it knows"),
    }
}
