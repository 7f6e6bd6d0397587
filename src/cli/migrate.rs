//! `jetway migrate`: a running etcd as the source, and the flags of a server for the store.

use super::command::server_flags;
use super::commands::Environment;
use super::flag_values::{FlagError, FlagValues};
use super::program::Program;
use super::restore::{self as store, RestoreCommandError};
use super::runtime::{RuntimeError, block_on};
use super::settings::{ServerSettings, SettingsError};
use super::snapshot::{LoginFlags, SaveError, login_args};
use super::storage::Storage;
use crate::client::ClientSettings;
use crate::restore::{self, MigrateError, MigrateSettings, Migrated, Progress};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io::Write as _;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The name of the command.
pub(super) const NAME: &str = "migrate";

/// A migration that was not done.
#[derive(Debug, Error)]
pub(super) enum MigrateCommandError {
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error(transparent)]
    Target(#[from] RestoreCommandError),
    #[error(transparent)]
    Login(#[from] SaveError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(
        "--serve: serves a server that is alone; leave --initial-cluster away, and add the other members while it serves (etcdctl \
         member add)"
    )]
    ServesMember,
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// Adds its arguments.
pub(super) fn args(command: Command) -> Command {
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    server_flags(command)
        .override_usage(
            "jetway migrate --from URL[,URL…] [--data-dir DIR | --endpoint nats://HOST:4222] [FLAGS]",
        )
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("URLS")
                .required(true)
                .help("The etcd, jetway or kine to copy: its endpoints, of which the first one that can be reached is used"),
        )
        .args(login_args())
        .arg(switch("switch-over", "When all is copied, fence the source by an alarm, or wait until kine stands still, compare, and end"))
        .arg(
            switch("serve", "Serve the copy with the flags of a server, from the switch-over on: it is in memory before that")
                .requires("switch-over")
                .conflicts_with("dry-run"),
        )
        .arg(switch("dry-run", "Read the source and print what would be copied"))
}

/// Whether the copy is to be served.
pub(super) fn serves(matches: &ArgMatches) -> bool {
    matches.get_flag("serve")
}

/// The server that is copied.
fn source(matches: &ArgMatches, environment: &Environment) -> Result<Vec<ClientSettings>, SaveError> {
    let login = LoginFlags { matches, environment };
    let urls = matches.get_one::<String>("from").map(String::as_str).unwrap_or_default();
    urls.split(',').map(|url| login.client_of(url.trim().to_owned())).collect()
}

/// The settings of a server that serves the copy.
///
/// # Errors
/// [`MigrateCommandError`].
pub(super) fn server(
    matches: &ArgMatches,
    environment: Environment,
) -> Result<ServerSettings, MigrateCommandError> {
    let migrates_from = source(matches, &environment)?;
    let flags = FlagValues::read(Program::Jetway, matches, environment.into_iter())?;
    let settings = ServerSettings::new(&flags)?;
    if let Storage::Embedded { cluster: Some(_), .. } = settings.storage {
        return Err(MigrateCommandError::ServesMember);
    }
    Ok(ServerSettings { migrates_from, ..settings })
}

/// Migrates, and returns the text that reports it.
///
/// # Errors
/// [`MigrateCommandError`].
pub(super) fn run(matches: &ArgMatches, environment: Environment) -> Result<String, MigrateCommandError> {
    let from = source(matches, &environment)?;
    let flags = FlagValues::read(Program::Jetway, matches, environment.into_iter())?;
    let (target, place) = store::target(&flags)?;
    let (is_dry_run, switches_over) = (matches.get_flag("dry-run"), matches.get_flag("switch-over"));
    let settings = MigrateSettings { from, target, is_dry_run, switches_over };
    let migrated = block_on(async {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let [mut terminate, mut interrupt] = [
            signal(SignalKind::terminate()).map_err(RuntimeError::from)?,
            signal(SignalKind::interrupt()).map_err(RuntimeError::from)?,
        ];
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopped.cancel();
        });
        let mut progress = Progress::default();
        let mut show = |step| {
            if let Some(line) = progress.line(step) {
                // Nobody may be there to read it.
                drop(writeln!(std::io::stderr(), "{line}"));
            }
        };
        Ok::<_, MigrateCommandError>(Box::pin(restore::migrate(settings, stop, &mut show)).await?)
    })??;
    let Migrated { revision, floor, keys, leases, compared, frozen } = migrated;
    let floor = store::floor_text(floor);
    if is_dry_run {
        return Ok(format!(
            "would copy {keys} keys and {leases} leases, at revision {revision}, {floor}\n\
             nothing was written; the store would be: jetway {place}\n"
        ));
    }
    let fenced = frozen.map_or_else(String::new, |frozen| {
        let seconds = frozen.as_secs_f64();
        format!(
            "the source has been fenced for {seconds:.3} s, by the alarm CORRUPT; to let it write again: etcdctl alarm disarm\n"
        )
    });
    Ok(format!(
        "migrated {keys} keys and {leases} leases, at revision {revision}, {floor}; {compared}\n\
         {fenced}start it with: jetway {place}\n"
    ))
}
