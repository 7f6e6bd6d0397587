//! Snapshots that the server saves by itself.

use super::flag_values::FlagValues;
use crate::snapshot::{Times, TimesError};
use std::path::PathBuf;
use thiserror::Error;

/// Flags of scheduled snapshots that make no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum SnapshotScheduleError {
    #[error("--snapshot-schedule {value}: {reason}")]
    Times { value: String, reason: TimesError },
    #[error(
        "--snapshot-schedule needs a directory: name one with --snapshot-dir, best on another disk than the data"
    )]
    NoDir,
    #[error(
        "--{0} does nothing without --snapshot-schedule: give an interval such as 1h, or cron's five fields"
    )]
    NoSchedule(&'static str),
    #[error("--snapshot-retention 0 keeps no snapshot: give the number of files to keep")]
    Retention,
}

/// When snapshots are saved, and where to.
#[derive(Clone, Debug)]
pub struct SnapshotSchedule {
    /// The times.
    pub(crate) times: Times,
    /// The directory of the files.
    pub dir: PathBuf,
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
    let dir = flags.path("snapshot-dir").ok_or(SnapshotScheduleError::NoDir)?;
    let kept = usize::try_from(flags.unsigned("snapshot-retention")).unwrap_or(usize::MAX);
    if kept == 0 {
        return Err(SnapshotScheduleError::Retention);
    }
    Ok(Some(SnapshotSchedule { times, dir, kept }))
}
