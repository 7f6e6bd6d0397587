//! `jetway promote`: the flags of a server name the mirror.

use super::command::server_flags;
use super::commands::Environment;
use super::flag_values::{FlagError, FlagValues};
use super::program::Program;
use super::runtime::{RuntimeError, block_on};
use super::storage::{self, StorageFlagsError};
use crate::log::{self, PromoteError, PromoteStep, Promoted};
use clap::{ArgMatches, Command};
use std::io::Write as _;
use thiserror::Error;

/// A mirror that was not promoted.
#[derive(Debug, Error)]
pub(super) enum PromoteCommandError {
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error(transparent)]
    Storage(#[from] StorageFlagsError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Promote(#[from] Box<PromoteError>),
}

/// Adds its arguments.
pub(super) fn args(command: Command) -> Command {
    server_flags(command).override_usage(
        "jetway promote --endpoint 'nats://HOST:4222?bucket=NAME' [--accept-data-loss] [FLAGS]",
    )
}

/// Promotes, and gives the text that reports it.
///
/// # Errors
/// [`PromoteCommandError`].
pub(super) fn run(matches: &ArgMatches, environment: Environment) -> Result<String, PromoteCommandError> {
    let flags = FlagValues::read(Program::Jetway, matches, environment.into_iter())?;
    let endpoint = storage::existing_endpoint(&flags)?;
    let accepts_loss = flags.is_true("accept-data-loss");
    let mut progress = |PromoteStep::Fenced(end)| {
        // Nobody may be there to read it.
        drop(writeln!(std::io::stderr(), "the primary is fenced, and ends at sequence {end}"));
    };
    let promoted = block_on(log::promote(&endpoint, accepts_loss, &mut progress))?.map_err(Box::new)?;
    let Promoted { stream, end, is_fenced, is_repeated, lag } = promoted;
    if is_repeated {
        return Ok(format!("stream {stream} was promoted already; it ends at sequence {end}\n"));
    }
    let primary = if is_fenced {
        "the old primary is fenced, and everything that it answered is here".to_owned()
    } else {
        format!(
            "the old primary was not reached: {lag}; it is fenced when it meets this one, see standby= of --endpoint"
        )
    };
    Ok(format!("promoted stream {stream}, which ends at sequence {end}\n{primary}\n"))
}
