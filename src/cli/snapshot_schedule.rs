//! Snapshots that the server saves by itself.

use super::flag_values::FlagValues;
use crate::snapshot::{S3, S3UrlError, Times, TimesError, is_url};
use std::path::PathBuf;
use thiserror::Error;

/// Flags of scheduled snapshots that make no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum SnapshotScheduleError {
    #[error("--snapshot-schedule {value}: {reason}")]
    Times { value: String, reason: TimesError },
    #[error(
        "--snapshot-schedule needs a place: name a directory with --snapshot-dir, best on another disk than the data, or \
         s3://BUCKET/PREFIX"
    )]
    NoDir,
    #[error("--snapshot-dir {value}: {reason}")]
    S3 { value: String, reason: S3UrlError },
    #[error(
        "--{0} does nothing without --snapshot-schedule: give an interval such as 1h, or cron's five fields"
    )]
    NoSchedule(&'static str),
    #[error("--snapshot-retention 0 keeps no snapshot: give the number of files to keep")]
    Retention,
}

/// A place of snapshots.
#[derive(Clone, Debug)]
pub(crate) enum SnapshotPlace {
    /// A directory.
    Dir(PathBuf),
    /// A bucket of S3, and the beginning of the names there.
    S3(S3),
}

/// When snapshots are saved, and where to.
#[derive(Clone, Debug)]
pub struct SnapshotSchedule {
    /// The times.
    pub(crate) times: Times,
    /// The place in which they are kept.
    pub(crate) place: SnapshotPlace,
    /// The number of files that are kept.
    pub kept: usize,
}

/// The schedule; `None` if there is none.
pub(super) fn settings(flags: &FlagValues) -> Result<Option<SnapshotSchedule>, SnapshotScheduleError> {
    let Some(value) = flags.non_empty("snapshot-schedule") else {
        let given = ["snapshot-dir", "snapshot-retention"].into_iter().find(|flag| flags.is_set(flag));
        return given.map_or(Ok(None), |flag| Err(SnapshotScheduleError::NoSchedule(flag)));
    };
    let times = Times::parse(value)
        .map_err(|reason| SnapshotScheduleError::Times { value: value.to_owned(), reason })?;
    let place = flags.non_empty("snapshot-dir").ok_or(SnapshotScheduleError::NoDir)?;
    let place = if is_url(place) {
        let s3 = S3::new(place, &flags.aws);
        let failed = |reason| SnapshotScheduleError::S3 { value: place.to_owned(), reason };
        SnapshotPlace::S3(s3.map_err(failed)?)
    } else {
        SnapshotPlace::Dir(place.into())
    };
    let kept = usize::try_from(flags.unsigned("snapshot-retention")).unwrap_or(usize::MAX);
    if kept == 0 {
        return Err(SnapshotScheduleError::Retention);
    }
    Ok(Some(SnapshotSchedule { times, place, kept }))
}
