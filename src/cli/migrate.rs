//! `jetway migrate`: a running etcd as the source, and the flags of a server for the store.

use super::command::server_flags;
use super::commands::Environment;
use super::flag_values::{FlagError, FlagValues};
use super::program::Program;
use super::restore::{self as store, RestoreCommandError};
use super::snapshot::{LoginFlags, SaveError, login_args};
use crate::restore::{self, Compared, MigrateError, MigrateSettings, Migrated, QUIET, Step};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io::Write as _;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// A migration that was not done.
#[derive(Debug, Error)]
pub(super) enum MigrateCommandError {
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error(transparent)]
    Target(#[from] RestoreCommandError),
    #[error(transparent)]
    Login(#[from] SaveError),
    #[error("the migration cannot run: {0}")]
    Runtime(std::io::Error),
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
        .arg(switch("dry-run", "Read the source and print what would be copied"))
}

/// Migrates, and returns the text that reports it.
///
/// # Errors
/// [`MigrateCommandError`].
pub(super) fn run(matches: &ArgMatches, environment: Environment) -> Result<String, MigrateCommandError> {
    let login = LoginFlags { matches, environment: &environment };
    let urls = matches.get_one::<String>("from").map(String::as_str).unwrap_or_default();
    let from = urls.split(',').map(|url| login.client_of(url.trim().to_owned())).collect::<Result<_, _>>()?;
    let flags = FlagValues::read(Program::Jetway, matches, environment.into_iter())?;
    let (target, place) = store::target(&flags)?;
    let (is_dry_run, switches_over) = (matches.get_flag("dry-run"), matches.get_flag("switch-over"));
    let settings = MigrateSettings { from, target, is_dry_run, switches_over };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(MigrateCommandError::Runtime)?;
    let migrated = runtime.block_on(async {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let [mut terminate, mut interrupt] = [
            signal(SignalKind::terminate()).map_err(MigrateCommandError::Runtime)?,
            signal(SignalKind::interrupt()).map_err(MigrateCommandError::Runtime)?,
        ];
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopped.cancel();
        });
        let mut progress =
            Progress { told: None, is_following: false, is_waiting: false, is_retrying: false };
        Ok::<_, MigrateCommandError>(
            Box::pin(restore::migrate(settings, stop, &mut |step| progress.show(step))).await?,
        )
    })?;
    let Migrated { revision, floor, keys, leases, compared, frozen } = migrated;
    let floor = store::floor_text(floor);
    if is_dry_run {
        return Ok(format!(
            "would copy {keys} keys and {leases} leases, at revision {revision}, {floor}\n\
             nothing was written; the store would be: jetway {place}\n"
        ));
    }
    let compared = match compared {
        Compared::Hash => "HashKV is equal",
        Compared::Counts => "the numbers of keys are equal",
        Compared::Keys => "all keys are equal",
    };
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

/// Reports its progress on standard error.
struct Progress {
    told: Option<Instant>,
    is_following: bool,
    is_waiting: bool,
    is_retrying: bool,
}

impl Progress {
    fn show(&mut self, step: Step) {
        let begins_to_follow = matches!(step, Step::Following(..)) && !self.is_following;
        self.is_following |= begins_to_follow;
        let begins_to_wait = matches!(step, Step::Waiting(_)) && !self.is_waiting;
        self.is_waiting |= begins_to_wait;
        // The next line of this kind reports that it goes on.
        self.is_following &= !matches!(step, Step::Retrying);
        let is_due = matches!(step, Step::Retrying) && !self.is_retrying
            || self.told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL);
        self.is_retrying = matches!(step, Step::Retrying);
        if !is_due && !begins_to_follow && !begins_to_wait {
            return;
        }
        self.told = Some(Instant::now());
        let line = match step {
            Step::Receiving(received, all) => format!("receiving the snapshot: {received} of {all} bytes"),
            Step::Listing(keys) => format!("reading the keys: {keys} so far"),
            Step::Waiting(now) => format!(
                "the source is at revision {now} and cannot be fenced: stop its writers. The copy ends once it has stood still \
                 for {QUIET:?}"
            ),
            Step::Writing(written, all) => format!("writing the snapshot: {written} of {all} versions"),
            Step::Following(copied, now) => {
                let lag = (now.0 - copied.0).max(0);
                format!("following the source: copied to revision {copied}, {lag} behind")
            }
            Step::Retrying => "the source cannot be reached; trying again".to_owned(),
        };
        // Nobody may be there to read it.
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}
