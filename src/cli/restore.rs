//! `jetway restore`: etcdutl's flags, beside those of a server that name the store.

use super::bootstrap::{self, BootstrapError};
use super::command::server_flags;
use super::commands::Environment;
use super::flag_values::{FlagError, FlagValues};
use super::peers::{self, PeerFlagsError};
use super::program::Program;
use super::runtime::{RuntimeError, block_on};
use super::settings::quota_bytes;
use super::storage::{self, Storage, StorageFlagsError};
use crate::log::Demand;
use crate::nats_server::{NatsServerSettings, SyncMode};
use crate::restore::{self, RestoreError, Restored, Settings, Source, Target};
use crate::snapshot::{S3, S3UrlError, TTL_OF_ENDED_LEASES, is_url};
use crate::types::Revision;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Room for the header of a message.
const MESSAGE_OVERHEAD_BYTES: u64 = 512 * 1024;

/// A restore that was not done.
#[derive(Debug, Error)]
pub(super) enum RestoreCommandError {
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error(transparent)]
    Storage(#[from] StorageFlagsError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Peers(#[from] PeerFlagsError),
    #[error(
        "--bump-revision {0}: needs --mark-compacted, since watches must learn that revisions are missing"
    )]
    Unmarked(u64),
    #[error("--mark-compacted: goes with --bump-revision alone; leave it away or give both")]
    NoBump,
    #[error("{file}: {reason}")]
    S3 { file: String, reason: S3UrlError },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Adds its arguments.
pub(super) fn args(command: Command) -> Command {
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    server_flags(command)
        .override_usage("jetway restore FILE [--data-dir DIR | --endpoint nats://HOST:4222] [FLAGS]")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("A snapshot of etcd or jetway, also s3://BUCKET/NAME, or the --data-dir of an etcd that is stopped, with its --wal-dir"),
        )
        .arg(switch("skip-hash-check", "Take a file without its checksum, such as a copied database"))
        .arg(
            Arg::new("bump-revision")
                .long("bump-revision")
                .value_name("NUMBER")
                .value_parser(clap::value_parser!(u64))
                .help("Raise the revision by so much, so that it is above those that clients have seen"),
        )
        .arg(switch("mark-compacted", "Compact all before the raised revision (needed with --bump-revision)"))
        .arg(
            Arg::new("to-revision")
                .long("to-revision")
                .value_name("REVISION")
                .allow_negative_numbers(true)
                .value_parser(clap::value_parser!(i64).range(1..))
                .help("Restore the keys as they were at a revision since the file's compaction [default: the last one]"),
        )
        .arg(
            Arg::new("initial-memory-map-size")
                .long("initial-memory-map-size")
                .value_name("NUMBER")
                .hide(true)
                .help("No effect: the file is read page by page"),
        )
}

/// Restores, and returns the text that reports it.
///
/// # Errors
/// [`RestoreCommandError`].
pub(super) fn run(matches: &ArgMatches, environment: Environment) -> Result<String, RestoreCommandError> {
    let flags = FlagValues::read(Program::Jetway, matches, environment.into_iter())?;
    let bump = matches.get_one::<u64>("bump-revision").copied().filter(|bump| *bump > 0);
    match (bump, matches.get_flag("mark-compacted")) {
        (Some(bump), false) => return Err(RestoreCommandError::Unmarked(bump)),
        (None, true) => return Err(RestoreCommandError::NoBump),
        _ => {}
    }
    let (target, place) = target(&flags)?;
    let settings = Settings {
        source: source(matches, &flags)?,
        skips_hash_check: matches.get_flag("skip-hash-check"),
        bump,
        to_revision: matches.get_one::<i64>("to-revision").copied().map(Revision),
        target,
    };
    let mut told = Instant::now();
    let progress = |written: usize, all: usize| {
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            // Nobody may be there to read it.
            drop(writeln!(std::io::stderr(), "restoring: {written} of {all} versions"));
        }
    };
    let restored = block_on(restore::run(settings, progress))??;
    let Restored { revision, floor, keys, versions, leases, ended_leases, holder } = restored;
    let floor = floor_text(floor);
    if let Some(holder) = holder {
        return Ok(format!(
            "checked {keys} keys in {versions} versions and {leases} leases, at revision {revision}, {floor}\n\
             {holder} gets them by this command with its own --name; this member takes them from there\n\
             start it with: jetway {place}\n"
        ));
    }
    let ended = match ended_leases {
        0 => String::new(),
        ended => format!(
            "{ended} of the leases had ended since, and are granted again for {TTL_OF_ENDED_LEASES} s\n"
        ),
    };
    Ok(format!(
        "restored {keys} keys in {versions} versions and {leases} leases, at revision {revision}, {floor}\n\
         {ended}start it with: jetway {place}\n"
    ))
}

fn source(matches: &ArgMatches, flags: &FlagValues) -> Result<Source, RestoreCommandError> {
    let path = matches.get_one::<PathBuf>("file").expect("clap requires it");
    match path.to_str().filter(|path| is_url(path)) {
        None => Ok(Source::Path { path: path.clone(), wal_dir: flags.path("wal-dir") }),
        Some(url) => S3::object(url, &flags.aws)
            .map(Source::S3)
            .map_err(|reason| RestoreCommandError::S3 { file: url.to_owned(), reason }),
    }
}

/// The words for a compaction floor.
pub(super) fn floor_text(floor: Option<Revision>) -> String {
    floor.map_or_else(|| "nothing is compacted".to_owned(), |floor| format!("compacted to {floor}"))
}

/// The empty store that the flags of a server name, and the flags with which a server finds it.
///
/// # Errors
/// [`RestoreCommandError`].
pub(super) fn target(flags: &FlagValues) -> Result<(Target, String), RestoreCommandError> {
    let endpoint = storage::endpoint(flags)?;
    let name = flags.text_or_default("name");
    let data_dir = storage::data_dir(flags, name, endpoint.as_ref())?;
    Ok(match storage::settings(flags, endpoint, name, data_dir)? {
        Storage::Embedded { data_dir, binary, config, domain, bucket, .. } => {
            let mut server = NatsServerSettings::new(&data_dir);
            (server.binary, server.extra_config, server.domain) = (binary, config, domain);
            // All is synced at once before the restored store can be served.
            server.sync = SyncMode::Group;
            // A migration does not know the largest request that is to come.
            let largest = flags.unsigned("max-request-bytes").saturating_add(MESSAGE_OVERHEAD_BYTES);
            let largest = u32::try_from(largest).unwrap_or(u32::MAX);
            server.max_payload_bytes = server.max_payload_bytes.max(largest);
            let members = bootstrap::restored_members(flags, name)?;
            let mut place = format!("--data-dir {}", data_dir.display());
            if bucket != flags.default_of("bucket") {
                place = format!("{place} --bucket {bucket}");
            }
            let member = if members.len() > 1 {
                place = format!("--name {name} {place}, and its flags for peers and clients");
                Some(Box::new(peers::restored(flags, name, members)?))
            } else {
                None
            };
            (Target::Embedded { server: Box::new(server), bucket, member }, place)
        }
        Storage::External(endpoint) => {
            let place = format!("--endpoint {}?bucket={}", endpoint.servers.join(","), endpoint.bucket);
            let demand = Demand {
                quota: quota_bytes(flags),
                message_bytes: usize::try_from(flags.unsigned("max-request-bytes")).unwrap_or(usize::MAX),
            };
            (Target::External(endpoint, demand), place)
        }
    })
}
